"""What differs between the two databases: how a transaction begins, what refuses an edit."""

from pathlib import Path
from typing import Protocol

import sqlalchemy as sa

from coordinator.state import postgresql, sqlite
from coordinator.state.location import Location


class Backend(Protocol):
    """One kind of database."""

    def engine(self, location: Location) -> sa.Engine:
        """Return an engine whose transactions begin with `begin`."""

    def begin(self, connection: sa.Connection, *, writer: bool) -> None:
        """Begin: a writer alone and on the newest state, a reader on one snapshot."""

    def append_only(self) -> list[str]:
        """Return the statements that make the database itself refuse to edit the log."""

    def is_full(self, error: BaseException) -> bool:
        """Say whether a database error means that no space is left."""

    def keep_ready(self, connection: sa.Connection) -> None:
        """Have whatever a write on a full disk needs."""

    def purge(self, engine: sa.Engine, tables: list[str]) -> bool:
        """Take what was deleted from `tables` out of the live files; False: somebody reads it."""

    def size_bytes(self, engine: sa.Engine, folder: Path) -> int:
        """Return how much the database takes."""


def of(location: Location) -> Backend:
    """Return the kind of database at a location."""
    return sqlite.Sqlite() if location.is_file else postgresql.Postgresql()
