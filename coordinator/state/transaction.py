"""One unit of work on the state: what it changes and what it logs commit together."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from coordinator.state.tables import meta
from federation.auditlog import merkle
from federation.auditlog.events import Event, Kind
from kit import clock
from kit.errors import FormatError

_INSERT_LEAF = sa.text(
    "INSERT INTO log (position, leaf, hash, subject) VALUES (:position, :leaf, :hash, :subject)"
)
_INSERT_NODE = sa.text(
    "INSERT INTO log_nodes (level, number, hash) VALUES (:level, :number, :hash)"
)
_LAST = sa.text("SELECT max(position) FROM log")
_LEAF_HASH = sa.text("SELECT hash FROM log WHERE position = :number")
_NODE_HASH = sa.text("SELECT hash FROM log_nodes WHERE level = :level AND number = :number")


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
        row = {"position": position, "leaf": leaf, "hash": hashed, "subject": subject}
        self.connection.execute(_INSERT_LEAF, row)
        self._complete(position, hashed)

    def fill_nodes(self) -> None:
        """Make the subtree roots of a log that was written before they were kept."""
        for position in range(self.log_size()):
            self._complete(position, self.node(0, position))

    def _complete(self, position: int, hashed: bytes) -> None:
        for level, number, root in merkle.completed(position, hashed, self.node):
            self.connection.execute(_INSERT_NODE, {"level": level, "number": number, "hash": root})

    def log_size(self) -> int:
        """Return the number of log entries."""
        last = self.connection.execute(_LAST).scalar()
        return 0 if last is None else int(last) + 1

    def node(self, level: int, index: int) -> bytes:
        """Return the root of a complete subtree of the log (a `merkle.Node`)."""
        if level == 0:
            found = self.connection.execute(_LEAF_HASH, {"number": index}).scalar()
        else:
            found = self.connection.execute(_NODE_HASH, {"level": level, "number": index}).scalar()
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
