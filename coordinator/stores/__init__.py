"""Stores: where sealed payloads, sealed shards and releases lie.

Folders of the home, or a place that the configuration names by a URL: another folder (`file://`) or
an S3-compatible object store (`s3://`). Keys are in neither: the key store stays in the home.

Invariants, of every kind:

- An entry appears under its name whole or not at all, and is durable when `put` returns.
- What was deleted is not read again under its name. Older versions that an object store keeps by
  itself are not deleted: what must be forgettable is sealed under a key of the key store.
"""

from dataclasses import dataclass
from functools import cached_property

from coordinator.home import Home
from coordinator.stores import place
from coordinator.stores.folder import Folder
from coordinator.stores.objects import Objects
from coordinator.stores.store import Store
from kit.files import private_folder

__all__ = ["Folder", "Objects", "Store", "Stores"]


@dataclass(frozen=True)
class Stores:
    """The three stores of a home."""

    home: Home

    @cached_property
    def payloads(self) -> Store:
        """Payloads of blueprints, each sealed under its own key."""
        return self._open("payloads", mode=0o600)

    @cached_property
    def shards(self) -> Store:
        """Shards, sealed under a key derived from that of their blueprint."""
        return self._open("shards", mode=0o600)

    @cached_property
    def releases(self) -> Store:
        """Models and bases, named by their digest."""
        return self._open("releases", mode=0o644)

    def _open(self, name: str, *, mode: int) -> Store:
        settings = self.home.config
        found = place.parse(settings.store, settings.store_endpoint)
        if found is None:
            return Folder(self.home.path / name, mode=mode)
        if isinstance(found, place.Disk):
            return Folder(found.path / name, mode=mode)
        scratch = private_folder(self.home.path / "staging")
        return Objects(found, name, scratch=scratch)
