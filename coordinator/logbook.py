"""The audit log as a service: checkpoints, proofs, receipts, and checking all of it again."""

from dataclasses import dataclass

import sqlalchemy as sa

from coordinator import state
from coordinator.context import Coordinator
from coordinator.errors import StateError
from coordinator.state import Transaction
from federation.auditlog import merkle
from federation.auditlog.checkpoint import Checkpoint, Receipt
from federation.auditlog.events import Event
from kit.errors import FormatError
from pki import keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One leaf with the receipt that proves it."""

    leaf: bytes
    receipt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What `audit verify` found."""

    size: int
    root: str
    checkpoint: str


class Proofs:
    """Proofs against one snapshot of the log: every answer fits the same checkpoint."""

    def __init__(self, coordinator: Coordinator, tx: Transaction) -> None:
        self._tx = tx
        self._hashes = tx.leaf_hashes()
        self.size = len(self._hashes)
        head = Checkpoint(origin=coordinator.log_origin, size=self.size, root=_root(self._hashes))
        self.checkpoint = head.sign(coordinator.log_key)

    def consistency(self, known_size: int) -> list[bytes]:
        """Return the proof that the log only grew since `known_size`.

        Raises:
            StateError: this log is shorter than what the site has seen.
        """
        if known_size > self.size:
            raise StateError(
                f"this log has {self.size} entries, the site has seen {known_size}",
                hint="the coordinator's state was rolled back; do not go on before it is explained",
            )
        return merkle.consistency_proof(known_size, self._hashes) if known_size else []

    def entries(self, subject: str) -> list[Entry]:
        """Return every entry about one digest, with receipts."""
        query = (
            sa.select(state.log.c.position, state.log.c.leaf)
            .where(state.log.c.subject == subject)
            .order_by(state.log.c.position)
        )
        return [self._entry(row.position, row.leaf) for row in self._tx.all(query)]

    def _entry(self, position: int, leaf: bytes) -> Entry:
        path = tuple(merkle.inclusion_proof(position, self._hashes))
        receipt = Receipt(index=position, path=path, checkpoint=self.checkpoint)
        return Entry(leaf=leaf, receipt=receipt.to_text())


def verify(coordinator: Coordinator) -> Audit:
    """Recompute the whole log from its leaves and sign what comes out.

    Raises:
        FormatError: a leaf or its stored hash was altered, or positions have holes.
    """
    with coordinator.state.read() as tx:
        rows = tx.all(sa.select(state.log).order_by(state.log.c.position))
    frontier = merkle.Frontier()
    for position, row in enumerate(rows):
        if row.position != position or merkle.leaf_hash(row.leaf) != row.hash:
            raise FormatError(f"log entry {position} was altered or removed")
        if Event.from_leaf(row.leaf).subject != row.subject:
            raise FormatError(f"log entry {position} is filed under another subject")
        frontier.append(row.hash)
    head = Checkpoint(origin=coordinator.log_origin, size=frontier.size, root=frontier.root())
    text = head.sign(coordinator.log_key)
    public = keys.public_bytes(coordinator.log_key)
    Checkpoint.verify(text, origin=coordinator.log_origin, key=public)
    return Audit(size=frontier.size, root=frontier.root().hex(), checkpoint=text)


def events(coordinator: Coordinator) -> list[Event]:
    """Return the whole log, oldest first."""
    with coordinator.state.read() as tx:
        rows = tx.all(sa.select(state.log.c.leaf).order_by(state.log.c.position))
    return [Event.from_leaf(row.leaf) for row in rows]


def _root(hashes: list[bytes]) -> bytes:
    frontier = merkle.Frontier()
    for leaf in hashes:
        frontier.append(leaf)
    return frontier.root()
