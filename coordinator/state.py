"""State: one SQL database, one writer at a time, and the log in the same transaction.

Invariants:

- A transition and its log entry commit together or not at all.
- `log` rows are never updated or deleted (the database itself refuses).
- Every write goes through `State.write`, which holds the database's write lock: a command line
  beside a running server waits its turn.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from coordinator import migrations
from federation.auditlog import merkle
from federation.auditlog.events import Event, Kind
from kit import clock
from kit.errors import DiskFullError, FormatError, KitError
from kit.files import exclusive

SCHEMA_VERSION = migrations.NEWEST
SERVE_LOCK = "serve.lock"
_BUSY_TIMEOUT_MS = 30_000
_POOLED = 8  # connections kept open
_CACHE_KIB = 512  # of pages, for each of them; the operating system caches the file for all

metadata = sa.MetaData()

meta = sa.Table(
    "meta",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("value", sa.String, nullable=False),
)
log = sa.Table(
    "log",
    metadata,
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("leaf", sa.LargeBinary, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
    sa.Column("subject", sa.String, nullable=False, index=True),
)
log_nodes = sa.Table(  # roots of complete subtrees above the leaves: proofs in logarithmic time
    "log_nodes",
    metadata,
    sa.Column("level", sa.Integer, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("hash", sa.LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
cosignatures = sa.Table(
    "cosignatures",
    metadata,
    sa.Column("pseudonym", sa.String, primary_key=True),
    sa.Column("size", sa.Integer, primary_key=True),
    sa.Column("line", sa.String, nullable=False),
    sa.Column("time", sa.String, nullable=False),
)
lost = sa.Table(  # what a recovery found on the log and not here: never to be used again (A4)
    "lost",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("kind", sa.String, nullable=False),
)
log_causes = sa.Table(  # how many entries a site caused on a day (UTC)
    "log_causes",
    metadata,
    sa.Column("site", sa.String, primary_key=True),
    sa.Column("day", sa.String, primary_key=True),
    sa.Column("entries", sa.Integer, nullable=False),
)
sites = sa.Table(
    "sites",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("pseudonym", sa.String, nullable=False, unique=True),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("token_hash", sa.String, nullable=False, unique=True),
    sa.Column("token_expires", sa.String, nullable=False),
    sa.Column("code", sa.String),
    sa.Column("tls_request", sa.LargeBinary),
    sa.Column("signing_request", sa.LargeBinary),
    sa.Column("witness_key", sa.LargeBinary),
    sa.Column("tls_chain", sa.LargeBinary),
    sa.Column("signing_chain", sa.LargeBinary),
    sa.Column("tls_fingerprint", sa.String),
    sa.Column("tls_previous", sa.String),  # accepted until the renewed certificate is first used
    sa.Column("signing_fingerprint", sa.String),
    sa.Column("signing_previous", sa.String),  # accepted until the renewed one first signs
    sa.Column("authority", sa.String),  # the site's own CA; none: the federation's
    sa.Column("ledger_counter", sa.Integer, nullable=False, default=0),
    sa.Column("ledger_head", sa.String),
    sa.Column("last_contact", sa.String),
)
certificates = sa.Table(  # every leaf that was ever issued or registered, the coordinator's too
    "certificates",
    metadata,
    sa.Column("fingerprint", sa.String, primary_key=True),
    sa.Column("position", sa.Integer, nullable=False, unique=True),
    sa.Column("serial", sa.String, nullable=False, index=True),
    sa.Column("holder", sa.String, nullable=False, index=True),
    sa.Column("usage", sa.String, nullable=False),
    sa.Column("chain", sa.LargeBinary, nullable=False),
    sa.Column("expires", sa.String, nullable=False),
    sa.Column("own", sa.Boolean, nullable=False),  # issued here, so on our revocation list
    sa.Column("revoked", sa.String),
    sa.Column("reason", sa.String),
)
authorities = sa.Table(  # certificate authorities of the sites themselves (A14)
    "authorities",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("certificate", sa.LargeBinary, nullable=False),
    sa.Column("sites", sa.Text, nullable=False),
    sa.Column("crl", sa.LargeBinary),
    sa.Column("crl_number", sa.Integer),
)
readmissions = sa.Table(  # reviewers' signed consent to another enrolment of a known site (A1)
    "readmissions",
    metadata,
    sa.Column("site", sa.String, primary_key=True),
    sa.Column("previous", sa.String, primary_key=True),
    sa.Column("reviewer_key", sa.String, primary_key=True),
    sa.Column("envelope", sa.LargeBinary, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("salt", sa.LargeBinary, nullable=False),
)
studies = sa.Table(
    "studies",
    metadata,
    sa.Column("digest", sa.String, primary_key=True),
    sa.Column("id", sa.String, nullable=False, unique=True),
    sa.Column("envelope", sa.LargeBinary, nullable=False),
    sa.Column("manifest", sa.LargeBinary, nullable=False),
    sa.Column("tables", sa.Text, nullable=False),
    sa.Column("open", sa.Boolean, nullable=False),
)
recipient_keys = sa.Table(
    "recipient_keys",
    metadata,
    sa.Column("kid", sa.String, primary_key=True),
    sa.Column("study_digest", sa.String, nullable=False),
    sa.Column("site", sa.String, nullable=False),
    sa.Column("envelope", sa.LargeBinary, nullable=False),
    sa.UniqueConstraint("study_digest", "site"),
)
delegations = sa.Table(  # who may sign the recipient keys of a study, signed by the study key
    "delegations",
    metadata,
    sa.Column("study_digest", sa.String, primary_key=True),
    sa.Column("envelope", sa.LargeBinary, nullable=False),
)
blueprints = sa.Table(
    "blueprints",
    metadata,
    sa.Column("digest", sa.String, primary_key=True),
    sa.Column("site", sa.String, nullable=False, index=True),
    sa.Column("study_digest", sa.String, nullable=False, index=True),
    sa.Column("kid", sa.String, nullable=False),
    sa.Column("seq", sa.Integer, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("reason", sa.String, nullable=False, default=""),
    sa.Column("statement", sa.LargeBinary, nullable=False),
    sa.Column("envelope", sa.LargeBinary, nullable=False),
    sa.Column("signing_chain", sa.LargeBinary, nullable=False),
    sa.Column("wrapped_key", sa.LargeBinary),
    sa.Column("weights_sha256", sa.String, nullable=False, index=True),
    sa.Column("received", sa.String),
    sa.Column("destroy_after", sa.String),
    sa.Column("destroyed", sa.String),
    sa.Column("support", sa.Text),  # JSON: samples drawn and different ones, per class
)
approvals = sa.Table(
    "approvals",
    metadata,
    sa.Column("blueprint", sa.String, primary_key=True),
    sa.Column("reviewer", sa.String, primary_key=True),
    sa.Column("decision", sa.String, primary_key=True),
    sa.Column("envelope", sa.LargeBinary, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("salt", sa.LargeBinary, nullable=False),
)
papers = sa.Table(  # signed documents about a blueprint that the log names by their digest
    "papers",
    metadata,
    sa.Column("digest", sa.String, primary_key=True),
    sa.Column("blueprint", sa.String, nullable=False, index=True),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("envelope", sa.LargeBinary, nullable=False),
    sa.Column("chain", sa.LargeBinary, nullable=False),
)
releases = sa.Table(
    "releases",
    metadata,
    sa.Column("digest", sa.String, primary_key=True),
    sa.Column("study_digest", sa.String, nullable=False, index=True),
    sa.Column("envelope", sa.LargeBinary, nullable=False),
    sa.Column("plan", sa.LargeBinary, nullable=False),
    sa.Column("card", sa.Text, nullable=False),
    sa.Column("published", sa.String, nullable=False),
    sa.Column("withdrawn", sa.Boolean, nullable=False, default=False),
)
lineage = sa.Table(
    "lineage",
    metadata,
    sa.Column("ancestor", sa.String, primary_key=True),
    sa.Column("descendant", sa.String, primary_key=True),
)

_APPEND_ONLY = [
    f"CREATE TRIGGER IF NOT EXISTS {table}_no_{verb} BEFORE {verb} ON {table} "
    "BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END"
    for table in ("log", "log_nodes")
    for verb in ("update", "delete")
]
_INSERT_LEAF = "INSERT INTO log (position, leaf, hash, subject) VALUES (?, ?, ?, ?)"
_INSERT_NODE = "INSERT INTO log_nodes (level, number, hash) VALUES (?, ?, ?)"
_LEAF_HASH = "SELECT hash FROM log WHERE position = ?"
_NODE_HASH = "SELECT hash FROM log_nodes WHERE level = ? AND number = ?"


class Transaction:
    """One unit of work; what it logs and what it changes commit together."""

    def __init__(self, connection: sa.Connection, now: datetime) -> None:
        self.connection = connection
        self.now = now

    def execute(self, statement: sa.Executable) -> sa.CursorResult[Any]:
        """Run one statement."""
        return self.connection.execute(statement)

    def one(self, statement: sa.Select[Any]) -> sa.Row[Any] | None:
        """Return the first row or None."""
        return self.connection.execute(statement).first()

    def all(self, statement: sa.Select[Any]) -> list[sa.Row[Any]]:
        """Return all rows."""
        return list(self.connection.execute(statement))

    def record(
        self, kind: Kind, subject: str, *, actor: str = "coordinator", **details: Any
    ) -> None:
        """Append one event to the log.

        Raises:
            FormatError: a detail has no place in the log.
        """
        event = Event(
            kind=kind, time=clock.rfc3339(self.now), subject=subject, actor=actor, details=details
        )
        self.append(event.to_leaf(), subject)

    def append(self, leaf: bytes, subject: str) -> None:
        """Append the bytes of one leaf, and every subtree that it completes."""
        position, hashed = self.log_size(), merkle.leaf_hash(leaf)
        self.connection.exec_driver_sql(_INSERT_LEAF, (position, leaf, hashed, subject))
        for node in merkle.completed(position, hashed, self.node):
            self.connection.exec_driver_sql(_INSERT_NODE, node)

    def fill_nodes(self) -> None:
        """Make the subtree roots of a log that was written before they were kept."""
        for position in range(self.log_size()):
            for node in merkle.completed(position, self.node(0, position), self.node):
                self.connection.exec_driver_sql(_INSERT_NODE, node)

    def log_size(self) -> int:
        """Return the number of log entries."""
        last = self.connection.exec_driver_sql("SELECT max(position) FROM log").scalar()
        return 0 if last is None else int(last) + 1

    def node(self, level: int, index: int) -> bytes:
        """Return the root of a complete subtree of the log (a `merkle.Node`)."""
        if level == 0:
            found = self.connection.exec_driver_sql(_LEAF_HASH, (index,)).scalar()
        else:
            found = self.connection.exec_driver_sql(_NODE_HASH, (level, index)).scalar()
        if not isinstance(found, bytes):
            raise FormatError(
                "the audit log's table has holes", hint="run `coordinator audit verify`"
            )
        return found

    def tree(self) -> merkle.Tree:
        """Return the log as a tree; valid within this transaction."""
        return merkle.Tree(self.log_size(), self.node)

    def get(self, name: str) -> str | None:
        """Return one value of the meta table."""
        return self.connection.scalar(sa.select(meta.c.value).where(meta.c.name == name))

    def put(self, name: str, value: str) -> None:
        """Set one value of the meta table."""
        self.execute(sa.delete(meta).where(meta.c.name == name))
        self.execute(sa.insert(meta).values(name=name, value=value))


class State:
    """The coordinator's database."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    @classmethod
    def create(cls, path: Path) -> "State":
        """Create an empty database, readable by its owner only."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        state = cls(_engine(path))
        with state.write(clock.utc_now()) as tx:
            metadata.create_all(tx.connection)
            for trigger in _APPEND_ONLY:
                tx.execute(sa.text(trigger))
            tx.put("schema", str(SCHEMA_VERSION))
        return state

    @classmethod
    def open(cls, path: Path) -> "State":
        """Open an existing database; one of an older schema is migrated first, or left as it is.

        Raises:
            KitError: a newer kit wrote it, or it has to be migrated while a server uses it.
        """
        state = cls(_engine(path))
        with state.read() as tx:
            version = _schema_of(tx)
        if version < SCHEMA_VERSION:
            busy = f"the state has schema {version} and a `coordinator serve` of that version runs"
            hint = f"stop it and run this again: the state is then migrated to {SCHEMA_VERSION}"
            with exclusive(path.parent / SERVE_LOCK, busy=busy, hint=hint):
                state.migrate()
        return state

    def migrate(self) -> None:
        """Bring an older schema to this kit's, all of it or nothing.

        Raises:
            KitError: a newer kit wrote it.
        """
        with self.write(clock.utc_now()) as tx:
            before = _schema_of(tx)
            for statement in migrations.steps_from(before):
                tx.execute(sa.text(statement))
            if before < migrations.LOG_NODES:
                tx.fill_nodes()
                migrations.log_what_was_not_logged(tx)
            tx.put("schema", str(SCHEMA_VERSION))

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
        try:
            options = {"writer": writer}
            with self._engine.execution_options(**options).begin() as connection:
                yield Transaction(connection, now)
        except sa.exc.DatabaseError as error:
            if type(error) not in (sa.exc.OperationalError, sa.exc.DatabaseError):
                raise  # a constraint: a defect of ours, not of the disk
            text = str(error.orig)
            message = f"the coordinator's state cannot be used: {text}"
            if "full" in text:
                hint = "free some space and run the same command again"
                raise DiskFullError(message, hint=hint) from error
            raise KitError(message) from error

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        """Keep the journal's files in being: on a full disk SQLite could not make them anew."""
        with self._engine.connect() as connection:
            connection.exec_driver_sql("SELECT count(*) FROM meta").all()
            connection.rollback()
            yield

    def fold_journal(self) -> None:
        """Write the journal into the database and empty it: what was deleted is then in neither.

        Raises:
            KitError: somebody is reading it.
        """
        with self._engine.connect() as connection:
            cursor = connection.connection.cursor()  # outside any transaction
            busy, *_ = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise KitError(
                "the database's journal is in use and may still hold what was erased",
                hint="run the same command again; it is emptied by the next one that finds it free",
            )

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


def _schema_of(tx: Transaction) -> int:
    version = tx.get("schema") or ""
    if not version.isdecimal() or not 1 <= int(version) <= SCHEMA_VERSION:
        raise KitError(
            f"the coordinator's state has schema version {version or 'unknown'}; this kit knows"
            f" versions up to {SCHEMA_VERSION}",
            hint="use the version of the kit that wrote it, or a newer one",
        )
    return int(version)


def _engine(path: Path) -> sa.Engine:
    # Closing the last connection folds the journal into the database: a pool spares every
    # transaction that. No limit: a call that waits for a connection would wait for a stranger.
    engine = sa.create_engine(f"sqlite:///{path}", pool_size=_POOLED, max_overflow=-1)

    @sa.event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions begin where `begin` below says
        for pragma in (
            f"busy_timeout={_BUSY_TIMEOUT_MS}",
            f"cache_size=-{_CACHE_KIB}",
            "journal_mode=WAL",
            "synchronous=FULL",
            "secure_delete=ON",
            "foreign_keys=ON",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _on_begin(connection: sa.Connection) -> None:
        writer = connection.get_execution_options().get("writer", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writer else "BEGIN")

    return engine
