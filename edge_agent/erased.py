"""Units that were erased here: no training takes them again, by whatever name a file comes back.

They are known as the privacy ledger knows them, by a keyed hash. When a patient's image is met
after the erasure, the hash of the image is noted too, so that the same image is known without the
patient map, or under another id.
"""

from collections.abc import Collection
from copy import copy
from pathlib import Path

from edge_agent import ledger
from edge_agent.adapting import records
from edge_agent.home import Home
from kit import canonical
from kit.errors import FormatError
from kit.files import write_atomic

VERSION = 1
_FILE = "erased.json"
_MAX_BYTES = 64 << 20  # a million units


def file(home: Home) -> Path:
    """Return where they are kept."""
    return home.path / "state" / _FILE


def holds(home: Home, hashes: Collection[str]) -> bool:
    """Say whether one of these keyed hashes is that of an erased unit; wants no key.

    Raises:
        FormatError: the file is damaged.
    """
    return file(home).is_file() and not _read(home).isdisjoint(hashes)


class Erased:
    """The erased units of one home."""

    def __init__(self, home: Home) -> None:
        """Read them.

        Raises:
            FormatError: the file is damaged.
        """
        self._home, self._path, self._secret = home, file(home), home.unit_secret()
        self._units = _read(home) if self._path.is_file() else set()

    @property
    def pseudonyms(self) -> frozenset[str]:
        """The names under which the ledger knows them, hexadecimal."""
        return frozenset(self._units)

    def add(self, *units: str) -> None:
        """Note units, durably, before anything else is done about them."""
        self.add_pseudonyms([ledger.pseudonym(self._secret, unit).hex() for unit in units])

    def add_pseudonyms(self, names: Collection[str]) -> None:
        """Note units by their pseudonyms (hexadecimal), durably.

        The models that this site adapted with one of them are deleted with it.
        """
        noted = _read(self._home) if self._path.is_file() else set()  # others note as well
        self._units |= noted | set(names)
        if not noted.issuperset(names):
            table = {"version": VERSION, "units": sorted(self._units)}
            write_atomic(self._path, canonical.encode(table), mode=0o600)
        records.delete_units(self._home, names)  # a command that was killed may have left some

    def beside(self, names: Collection[str]) -> "Erased":
        """Return what this would be with these pseudonyms as well; nothing is noted."""
        found = copy(self)
        found._units = self._units | set(names)
        return found

    def covers(self, *units: str) -> bool:
        """Say whether one of these units was erased."""
        if not self._units:
            return False
        return any(ledger.pseudonym(self._secret, unit).hex() in self._units for unit in units)


def _read(home: Home) -> set[str]:
    data = canonical.decode(file(home).read_bytes(), limit=_MAX_BYTES)
    table = canonical.fields(data, {"version", "units"}, what="list of erased units")
    canonical.version(table["version"], expected=VERSION, what="list of erased units")
    if not isinstance(table["units"], list):
        raise FormatError("list of erased units is damaged")
    return {canonical.sha256_hex(unit, what="erased unit") for unit in table["units"]}
