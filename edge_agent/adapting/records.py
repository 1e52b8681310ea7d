"""What a site keeps of the models that it adapted, and when they are deleted.

Invariants:

- A model goes with the release that it was adapted from: withdrawn there, deleted here (A19).
- It goes with every patient who is in it: a patient who is erased here takes it along.
- Who is in it is known by the keyed hashes of the privacy ledger, and by no name.
"""

import shutil
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from edge_agent import ledger
from edge_agent.home import Home
from kit import canonical, clock
from kit.errors import FormatError, KitError
from kit.files import os_errors, private_folder, read_limited, write_atomic

VERSION = 1
RECORD, MODEL = "adapted.json", "model.onnx"
_PART = ".part-"  # of the name of a folder that is not whole
_MAX_BYTES = 64 << 20  # a million hashes of units and images
_NOT_HERE = "see `edge-agent status`, or make one with `edge-agent adapt`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What an adapted model is.

    Attributes:
        name: what the site calls it.
        model: SHA-256 of its ONNX file.
        release: the release that it was adapted from.
        study: that release's study.
        labels: its classes, in column order.
        created: when.
        units: keyed hashes of the units and images of this site that it was trained or judged on.
        figures: how it did on held-out images, for people at this site.
    """

    name: str
    model: str
    release: str
    study: str
    labels: tuple[str, ...]
    created: str
    units: tuple[str, ...]
    figures: dict[str, Any]

    def to_bytes(self) -> bytes:
        """Return the canonical bytes of the file."""
        return canonical.encode(asdict(self) | {"version": VERSION})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read the file.

        Raises:
            FormatError: a field is missing, unknown or out of range.
        """
        table = canonical.fields(
            canonical.decode(data, limit=_MAX_BYTES),
            set(cls.__slots__) | {"version"},
            what="record of an adapted model",
        )
        canonical.version(table.pop("version"), expected=VERSION, what="record of an adapted model")
        for name in ("name", "study"):
            canonical.name(table[name], what=name)
        for name in ("model", "release"):
            canonical.sha256_hex(table[name], what=name)
        clock.parse_rfc3339(table["created"], what="created")
        if not isinstance(table["labels"], list) or not isinstance(table["units"], list):
            raise FormatError("a list of an adapted model's record is missing")
        table["labels"] = tuple(canonical.label(label) for label in table["labels"])
        table["units"] = tuple(canonical.sha256_hex(unit, what="unit") for unit in table["units"])
        if not isinstance(table["figures"], dict):
            raise FormatError("an adapted model's figures are no object")
        return cls(**table)


def folder_of(home: Home, name: str) -> Path:
    """Return the folder of an adapted model, whether it is there or not."""
    return _all(home) / canonical.name(name, what="name of an adapted model")


def exists(home: Home, name: str) -> bool:
    """Say whether an adapted model of this name is here."""
    return (folder_of(home, name) / RECORD).is_file()


def names(home: Home) -> list[str]:
    """Return the names of all adapted models, sorted."""
    return sorted(path.parent.name for path in _all(home).glob(f"[!.]*/{RECORD}"))


def read(home: Home, name: str) -> Record:
    """Return what is known of an adapted model; whether it may be used, `models.load` says.

    Raises:
        KitError: there is none of this name, or its record is damaged.
    """
    if not exists(home, name):
        raise KitError(f"no adapted model is called `{canonical.printable(name)}`", hint=_NOT_HERE)
    path = folder_of(home, name) / RECORD
    record = Record.from_bytes(read_limited(path, limit=_MAX_BYTES, what="adapted model"))
    if record.name != name:
        raise FormatError(f"the record of adapted model `{name}` is another's")
    return record


def keep(home: Home, record: Record, files: dict[str, bytes]) -> None:
    """Put an adapted model in its place whole, instead of one of its name."""
    final = folder_of(home, record.name)
    part = private_folder(final.with_name(_PART + record.name))
    for name, data in {**files, RECORD: record.to_bytes()}.items():
        write_atomic(part / name, data, mode=0o600)
    with os_errors(final):
        if final.is_dir():
            delete(home, record.name)
        part.rename(final)


def delete(home: Home, name: str) -> None:
    """Delete an adapted model."""
    folder = folder_of(home, name)
    with os_errors(folder):
        (folder / MODEL).unlink(missing_ok=True)
        shutil.rmtree(folder)


def delete_withdrawn(home: Home, releases: Collection[str]) -> tuple[str, ...]:
    """Delete every model that was adapted from one of these releases; returns their names."""
    return _delete(home, lambda record: record.release in releases)


def delete_units(home: Home, hashes: Collection[str]) -> tuple[str, ...]:
    """Delete every model that one of these units is in; returns their names."""
    gone = frozenset(hashes)
    return _delete(home, lambda record: not gone.isdisjoint(record.units))


def hashes(home: Home, units: Collection[str]) -> tuple[str, ...]:
    """Return the keyed hashes of units (patients, images), sorted."""
    secret = home.unit_secret()
    return tuple(sorted({ledger.pseudonym(secret, unit).hex() for unit in units}))


def _delete(home: Home, is_meant: Callable[[Record], bool]) -> tuple[str, ...]:
    """Delete what is meant, and what cannot say any more what it descends from."""
    for part in _all(home).glob(f"{_PART}*"):  # never finished: whose they are stands nowhere yet
        with os_errors(part):
            shutil.rmtree(part)
    gone = [name for name in names(home) if _is(home, name, is_meant)]
    for name in gone:
        delete(home, name)
    return tuple(gone)


def _is(home: Home, name: str, is_meant: Callable[[Record], bool]) -> bool:
    try:
        return is_meant(read(home, name))
    except FormatError:
        return True


def _all(home: Home) -> Path:
    return private_folder(home.path / "adapted")
