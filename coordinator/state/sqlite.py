"""The state in a file of the home: SQLite with a write-ahead log."""

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from coordinator.state import limits
from coordinator.state.location import FILE, Location

_POOLED = 8  # connections kept open
_CACHE_KIB = 512  # of pages, for each of them; the operating system caches the file for all
_TABLES = ("log", "log_nodes")


class Sqlite:
    """SQLite in the home (a `Backend`)."""

    def engine(self, location: Location) -> sa.Engine:
        """Return an engine; closing its last connection folds the journal into the file."""
        # A pool spares every transaction that. No limit: a call that waits for a connection
        # would wait for a stranger.
        engine = sa.create_engine(location.engine_url, pool_size=_POOLED, max_overflow=-1)

        @sa.event.listens_for(engine, "connect")
        def _on_connect(connection: Any, _record: Any) -> None:
            connection.isolation_level = None  # transactions begin where `begin` below says
            for pragma in (
                f"busy_timeout={limits.WAIT_FOR_LOCK_MS}",
                f"cache_size=-{_CACHE_KIB}",
                "journal_mode=WAL",
                "synchronous=FULL",
                "secure_delete=ON",
                "foreign_keys=ON",
            ):
                connection.execute(f"PRAGMA {pragma}")

        return engine

    def begin(self, connection: sa.Connection, *, writer: bool) -> None:
        """Take the one write lock, or a snapshot."""
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writer else "BEGIN")

    def append_only(self) -> list[str]:
        """Return a trigger per table and verb."""
        return [
            f"CREATE TRIGGER IF NOT EXISTS {table}_no_{verb} BEFORE {verb} ON {table} "
            "BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END"
            for table in _TABLES
            for verb in ("update", "delete")
        ]

    def is_full(self, error: BaseException) -> bool:
        """Say whether SQLite found the disk full."""
        return "full" in str(error)

    def keep_ready(self, connection: sa.Connection) -> None:
        """Open the journal's files: on a full disk SQLite could not make them anew."""
        connection.exec_driver_sql("SELECT count(*) FROM meta").all()

    def purge(self, engine: sa.Engine, tables: list[str]) -> bool:
        """Write the journal into the database and empty it; `secure_delete` zeroed the rest."""
        del tables  # the journal is one for all
        with engine.connect() as connection:
            cursor = connection.connection.cursor()  # outside any transaction
            busy, *_ = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy

    def size_bytes(self, engine: sa.Engine, folder: Path) -> int:
        """Return the size of the file and its journal."""
        del engine
        return sum(path.stat().st_size for path in folder.glob(f"{FILE}*"))
