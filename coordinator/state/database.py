"""The database: opened, written by one at a time, read on snapshots."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import sqlalchemy as sa

from coordinator.state import backends, schema
from coordinator.state.location import Location
from coordinator.state.tables import metadata
from coordinator.state.transaction import Transaction
from kit import clock
from kit.errors import DiskFullError, KitError
from kit.files import exclusive

SERVE_LOCK = "serve.lock"


class State:
    """The coordinator's database."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self._backend = backends.of(location)
        self._engine = self._backend.engine(location)
        sa.event.listen(self._engine, "begin", self._begin)

    @classmethod
    def create(cls, location: Location) -> "State":
        """Make the tables: in a new file that only its owner reads, or in an empty database.

        Raises:
            KitError: the database cannot be reached, or there is something in it.
        """
        if location.is_file:
            location.folder.mkdir(parents=True, exist_ok=True)
            location.file.touch(mode=0o600)
        state = cls(location)
        with state._closed_on_error(), state.write(clock.utc_now()) as tx:
            if sa.inspect(tx.connection).get_table_names():
                raise KitError(
                    "the database of the state is not empty",
                    hint="every coordinator has a database of its own: `createdb` makes one",
                )
            metadata.create_all(tx.connection)
            for statement in state._backend.append_only():
                tx.connection.exec_driver_sql(statement)
            schema.stamp(tx.connection, schema.SCHEMA_VERSION)
        return state

    @classmethod
    def open(cls, location: Location) -> "State":
        """Open an existing database; one of an older schema is migrated first, or left as it is.

        Raises:
            KitError: a newer kit wrote it, or it has to be migrated while a server uses it.
        """
        state = cls(location)
        with state._closed_on_error():
            with state.read() as tx:
                version = schema.version(tx)
            if version < schema.SCHEMA_VERSION:
                old = f"the state has schema {version} and a `coordinator serve` of that age runs"
                hint = f"stop it and run this again: the state then becomes {schema.SCHEMA_VERSION}"
                with exclusive(location.folder / SERVE_LOCK, busy=old, hint=hint):
                    state.migrate()
        return state

    @contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise

    def migrate(self) -> None:
        """Bring an older schema to this kit's, all of it or nothing.

        Raises:
            KitError: a newer kit wrote it.
        """
        with self.write(clock.utc_now()) as tx:
            schema.upgrade(tx)

    def drop(self) -> None:
        """Take back what `create` made: a founding is whole or nothing."""
        with self.write(clock.utc_now()) as tx:
            metadata.drop_all(tx.connection)
            schema.drop(tx.connection)

    @contextmanager
    def write(self, now: datetime) -> Iterator[Transaction]:
        """Run a block under the write lock; commits at the end, rolls back on any error.

        Raises:
            KitError: another writer held the lock too long, or the disk is full.
        """
        with self._transaction(writer=True, now=now) as transaction:
            yield transaction

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """Run a block on one consistent snapshot."""
        with self._transaction(writer=False, now=clock.utc_now()) as transaction:
            yield transaction

    @contextmanager
    def _transaction(self, *, writer: bool, now: datetime) -> Iterator[Transaction]:
        with (
            self._errors(),
            self._engine.execution_options(writer=writer).begin() as connection,
        ):
            yield Transaction(connection, now)

    def _begin(self, connection: sa.Connection) -> None:
        options = connection.get_execution_options()
        if options.get("isolation_level") != "AUTOCOMMIT":
            self._backend.begin(connection, writer=options.get("writer", False))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.DatabaseError as error:
            if type(error) not in (sa.exc.OperationalError, sa.exc.DatabaseError):
                raise  # a constraint: a defect of ours, not of the disk
            text = " ".join(str(error.orig).split())
            message = f"the coordinator's state cannot be used: {text}"
            if error.orig is not None and self._backend.is_full(error.orig):
                hint = "free some space and run the same command again"
                raise DiskFullError(message, hint=hint) from error
            raise KitError(message) from error

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        """Keep ready what a write on a full disk needs."""
        with self._errors(), self._engine.connect() as connection:
            self._backend.keep_ready(connection)
            connection.rollback()
            yield

    def purge(self, *tables: sa.Table) -> None:
        """Take what was deleted from `tables` out of the database's live files.

        Raises:
            KitError: somebody is reading it.
        """
        with self._errors():
            done = self._backend.purge(self._engine, [table.name for table in tables])
        if not done:
            raise KitError(
                "the database's journal is in use and may still hold what was erased",
                hint="run the same command again; it is emptied by the next one that finds it free",
            )

    @property
    def size_bytes(self) -> int:
        """How much the database takes, its journal included."""
        with self._errors():
            return self._backend.size_bytes(self._engine, self.location.folder)

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()
