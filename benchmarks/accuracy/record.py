"""The record of a benchmark: one JSON line for each measured cell, on disk as soon as it is known.

A line holds the cell, a digest of the settings that it was measured under, and either its figures
or the line with which the kit refused. A cell whose settings are no longer those of the code is
stale: it is neither shown nor taken as measured.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.accuracy.cells import Cell
from kit.errors import FormatError

Figures = dict[str, Any]


def digest(settings: Mapping[str, Any]) -> str:
    """Return the first 12 hexadecimal digits of SHA-256 over the settings as sorted JSON."""
    data = json.dumps(settings, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(data.encode()).hexdigest()[:12]


class Record:
    """Measured cells, in memory and, with a path, in a file."""

    def __init__(self, path: Path | None) -> None:
        """Read what the file holds, if there is one.

        Raises:
            FormatError: a line is no record; a last line that was cut short is dropped instead.
        """
        self._path = path
        self._rows: dict[tuple[str, str], Figures] = {}
        self._cells: dict[str, set[str]] = {}
        if path is not None and path.exists():
            whole = path.read_bytes()
            kept = whole[: whole.rfind(b"\n") + 1]
            if kept != whole:
                path.write_bytes(kept)
            for number, line in enumerate(kept.decode().splitlines(), start=1):
                try:
                    row = json.loads(line)
                    self._keep(Cell(**row["cell"]), row["settings"], row)
                except (ValueError, KeyError, TypeError) as error:
                    raise FormatError(f"line {number} of `{path}` is no measured cell") from error

    def add(self, cell: Cell, settings: str, figures: Figures) -> None:
        """Append one measured cell, durably."""
        row = {"cell": cell.to_table(), "settings": settings, **figures}
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())
        self._keep(cell, settings, row)

    def find(self, cell: Cell, settings: str) -> Figures | None:
        """Return what was measured of `cell` under exactly these settings."""
        return self._rows.get((_key(cell), settings))

    def has_only_stale(self, cell: Cell, settings: str) -> bool:
        """Whether the cell was measured, but under other settings."""
        return bool(self._cells.get(_key(cell), set()) - {settings}) and not self.find(
            cell, settings
        )

    def _keep(self, cell: Cell, settings: str, row: Figures) -> None:
        self._rows[_key(cell), settings] = row
        self._cells.setdefault(_key(cell), set()).add(settings)


def _key(cell: Cell) -> str:
    return json.dumps(cell.to_table(), sort_keys=True)
