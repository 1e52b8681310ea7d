"""The state in a PostgreSQL database of its own."""

from importlib.util import find_spec
from pathlib import Path

import sqlalchemy as sa

from coordinator.state import limits
from coordinator.state.location import Location
from kit.errors import KitError

_WRITER = 0x6564_6765_6B69_7401  # of an advisory lock; a database holds one coordinator's state
_IDLE_MS = 300_000  # a writer whose machine is gone lets go of the lock after this
_DISK_FULL = "53100"  # PostgreSQL's error code
_TABLES = ("log", "log_nodes")
_REFUSE = """CREATE OR REPLACE FUNCTION log_is_append_only() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'the log is append-only'; END $$"""


class Postgresql:
    """A PostgreSQL server (a `Backend`)."""

    def engine(self, location: Location) -> sa.Engine:
        """Return an engine.

        Raises:
            KitError: the URL is refused, or the driver is not installed.
        """
        url = location.engine_url
        if find_spec("psycopg") is None:
            raise KitError(
                "the state's URL names PostgreSQL, whose driver is not installed",
                hint="install this kit with the extra `postgresql`",
            )
        settings = {
            "synchronous_commit": "on",  # whatever the server's default is: what was said is kept
            "lock_timeout": limits.WAIT_FOR_LOCK_MS,
            "idle_in_transaction_session_timeout": _IDLE_MS,
        }
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        # A connection that the server closed meanwhile (it was restarted) is made anew. No limit:
        # a call that waits for a connection would wait for a stranger.
        return sa.create_engine(
            url,
            max_overflow=-1,
            pool_pre_ping=True,
            connect_args={"options": options, "connect_timeout": 10},
        )

    def begin(self, connection: sa.Connection, *, writer: bool) -> None:
        """Take the one write lock, or a snapshot.

        A writer reads what is committed now, statement by statement: a snapshot would be older
        than the lock, and nobody else writes meanwhile.
        """
        if writer:
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL READ COMMITTED READ WRITE")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITER})")
        else:
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")

    def append_only(self) -> list[str]:
        """Return a function that refuses, and a trigger per table and verb."""
        return [_REFUSE] + [
            f"CREATE TRIGGER {table}_no_{verb} BEFORE {verb} ON {table}"
            f" FOR EACH STATEMENT EXECUTE FUNCTION log_is_append_only()"
            for table in _TABLES
            for verb in ("update", "delete", "truncate")
        ]

    def is_full(self, error: BaseException) -> bool:
        """Say whether the server's disk is full."""
        return getattr(error, "sqlstate", None) == _DISK_FULL

    def keep_ready(self, connection: sa.Connection) -> None:
        """Nothing: the server keeps its own files."""

    def purge(self, engine: sa.Engine, tables: list[str]) -> bool:
        """Write `tables` anew without their dead rows; the server's write-ahead log keeps them."""
        try:
            with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
                for table in tables:
                    connection.exec_driver_sql(f"VACUUM FULL {table}")
        except sa.exc.OperationalError:
            return False
        return True

    def size_bytes(self, engine: sa.Engine, folder: Path) -> int:
        """Return the size of the database on its server."""
        del folder
        with engine.connect() as connection:
            query = "SELECT pg_database_size(current_database())"
            return int(connection.exec_driver_sql(query).scalar_one())
