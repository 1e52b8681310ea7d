"""The audit log as a service: checkpoints, proofs, receipts, leaves, and what witnesses sign."""

import logging
from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa

from coordinator import state
from coordinator.context import Coordinator
from coordinator.errors import NotAllowedError, StateError
from coordinator.state import Transaction
from federation.auditlog.checkpoint import Checkpoint, Receipt
from federation.auditlog.events import Event
from federation.auditlog.history import History, witness_name
from kit import canonical, clock
from kit.errors import DiskFullError, FormatError, LimitError
from pki import certificates

MAX_PAGE_LEAVES = 4096
MAX_PAGE_BYTES = 1 << 20
MAX_ENTRIES_A_DAY = 100  # that one site may cause
KEPT_COSIGNATURES = 100  # of one site: enough that others' receipts find a common checkpoint
CLOCK_SLACK = timedelta(hours=1)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One leaf with the receipt that proves it."""

    leaf: bytes
    receipt: str


class Proofs:
    """Proofs against one snapshot of the log: every answer fits the same checkpoint."""

    def __init__(self, coordinator: Coordinator, tx: Transaction) -> None:
        self._coordinator = coordinator
        self._tx = tx
        self._tree = tx.tree()
        self.size = self._tree.size
        self.checkpoint = self.note(self.size)

    def consistency(self, known_size: int) -> list[bytes]:
        """Return the proof that the log only grew since `known_size`.

        Raises:
            StateError: this log is shorter than what the site has seen.
        """
        if known_size > self.size:
            raise StateError(
                f"this log has {self.size} entries, the site has seen {known_size}",
                hint="the coordinator's state was rolled back; do not go on before it is explained:"
                " see `Recovery` in docs/audit-log.md",
            )
        return self._tree.consistency_proof(known_size) if known_size else []

    def entries(self, subject: str) -> list[Entry]:
        """Return every entry about one digest, with receipts."""
        query = (
            sa.select(state.log.c.position, state.log.c.leaf)
            .where(state.log.c.subject == subject)
            .order_by(state.log.c.position)
        )
        return [self._entry(row.position, row.leaf) for row in self._tx.all(query)]

    def witnessed(self) -> list[str]:
        """Return the checkpoints that hold each witness's newest cosignature, oldest first."""
        table = state.cosignatures
        newest = sa.select(sa.func.max(table.c.size).label("size")).group_by(table.c.pseudonym)
        sizes = sorted({row.size for row in self._tx.all(newest)})
        return [self.note(size) for size in sizes if size <= self.size]

    def path(self, index: int, size: int | None = None) -> tuple[bytes, ...]:
        """Return the proof that entry `index` is among the first `size`; of all unless given."""
        return tuple(self._tree.inclusion_proof(index, self.size if size is None else size))

    def note(self, size: int) -> str:
        """Return the checkpoint of the first `size` entries, with the cosignatures on it."""
        table = state.cosignatures
        query = sa.select(table.c.line).where(table.c.size == size).order_by(table.c.pseudonym)
        lines = [row.line for row in self._tx.all(query)]
        return self._head(size).sign(self._coordinator.log_key, lines)

    def _head(self, size: int) -> Checkpoint:
        origin = self._coordinator.log_origin
        return Checkpoint(origin=origin, size=size, root=self._tree.root(size))

    def _entry(self, position: int, leaf: bytes) -> Entry:
        receipt = Receipt(index=position, path=self.path(position), checkpoint=self.checkpoint)
        return Entry(leaf=leaf, receipt=receipt.to_text())


def leaves(tx: Transaction, first: int) -> list[bytes]:
    """Return one page of leaves from number `first` on, oldest first; empty at the end."""
    table = state.log
    first = min(first, canonical.MAX_INTEGER)
    query = sa.select(table.c.leaf).where(table.c.position >= first).order_by(table.c.position)
    page: list[bytes] = []
    size = 0
    for row in tx.all(query.limit(MAX_PAGE_LEAVES)):
        size += len(row.leaf)
        if page and size > MAX_PAGE_BYTES:
            break
        page.append(row.leaf)
    return page


def pin_differences(coordinator: Coordinator, tx: Transaction) -> list[str]:
    """Say which of the public files that tokens pin is not what the log began with (A16).

    Raises:
        FormatError: the first entry is damaged.
    """
    query = sa.select(state.log.c.leaf).where(state.log.c.position == 0)
    first = [Event.from_leaf(row.leaf) for row in tx.all(query)]
    founding = History().read(first).founding
    expected = {
        "root": certificates.fingerprint(coordinator.root),
        "study key": canonical.digest(coordinator.study_public),
    }
    logged = ("", "") if founding is None else (founding.root, founding.study_key)
    return [
        f"the {name} in `certificates` is not the one of the log's first entry"
        for (name, own), said in zip(expected.items(), logged, strict=True)
        if own != said
    ]


def page(coordinator: Coordinator, first: int) -> list[bytes]:
    """Return one page of leaves from number `first` on; see `leaves`."""
    with coordinator.state.read() as tx:
        return leaves(tx, first)


def checkpoint(coordinator: Coordinator) -> str:
    """Return the checkpoint of the log as it is, with the cosignatures on it."""
    with coordinator.state.read() as tx:
        return Proofs(coordinator, tx).checkpoint


def take_cosignature(
    coordinator: Coordinator,
    site: str,
    size: int,
    line: str,
    *,
    oldest: timedelta = CLOCK_SLACK,
) -> None:
    """Keep what a site signed as a witness of the first `size` entries, at most `oldest` ago.

    Raises:
        NotAllowedError: the site is not active.
        FormatError: it is not this site's cosignature, or its time is off.
        IdentityError: it fits another log than this one.
        StateError: this log is not that large.
    """
    try:
        with coordinator.write() as tx:
            row = tx.one(sa.select(state.sites).where(state.sites.c.id == site))
            if row is None or row.state != "active":
                raise NotAllowedError(f"site `{site}` is no witness of this log")
            tree = tx.tree()
            if not 0 < size <= tree.size:
                raise StateError(f"this log has {tree.size} entries; nothing else can be cosigned")
            head = Checkpoint(origin=coordinator.log_origin, size=size, root=tree.root(size))
            name = witness_name(head.origin, row.pseudonym)
            at = head.check_cosignature(line, name=name, key=row.witness_key)
            if not -CLOCK_SLACK <= tx.now - at <= oldest:
                raise FormatError("the cosignature's time is not now", hint="set the site's clock")
            _keep_cosignature(tx, row.pseudonym, size, line, clock.rfc3339(at))
    except DiskFullError as error:  # it comes again; news and withdrawals must not wait for it
        _log.warning("a cosignature is not kept: %s", error)


def _keep_cosignature(tx: Transaction, pseudonym: str, size: int, line: str, time: str) -> None:
    table = state.cosignatures
    own = table.c.pseudonym == pseudonym
    tx.execute(sa.delete(table).where(own, table.c.size == size))
    tx.execute(sa.insert(table).values(pseudonym=pseudonym, size=size, line=line, time=time))
    newest = sa.select(table.c.size).where(own).order_by(table.c.size.desc())
    kept = newest.limit(KEPT_COSIGNATURES).scalar_subquery()
    tx.execute(sa.delete(table).where(own, table.c.size.not_in(kept)))


def vouching(tx: Transaction, site: str, index: int) -> tuple[int, int]:
    """Return how many other sites signed a log that contains entry `index`, and how many it wants.

    `site` is the one that would take a release of that entry (A5).
    """
    rows = tx.all(sa.select(state.log.c.leaf).order_by(state.log.c.position))
    history = History().read([Event.from_leaf(row.leaf) for row in rows])
    own = tx.one(sa.select(state.sites.c.witness_key).where(state.sites.c.id == site))
    key = own.witness_key if own is not None else None
    active = {w.pseudonym for w in history.active_witnesses(len(rows))}
    others = active & {w.pseudonym for w in history.others(key)}
    table = state.cosignatures
    signed = tx.all(sa.select(table.c.pseudonym).where(table.c.size > index).distinct())
    return len(others & {row.pseudonym for row in signed}), history.needed(key)


def charge(tx: Transaction, site: str, *, entries: int = 1) -> None:
    """Count what a site is about to put on the log today; `entries=0` only looks.

    A withdrawal is not charged: taking back what was submitted never waits.

    Raises:
        LimitError: it caused its share of the day.
    """
    table, day = state.log_causes, tx.now.date().isoformat()
    row = tx.one(sa.select(table).where(table.c.site == site, table.c.day == day))
    caused = row.entries if row is not None else 0
    if caused + max(entries, 1) > MAX_ENTRIES_A_DAY:
        raise LimitError(
            f"this site caused {caused} log entries today, which is all it may",
            hint="it may again after midnight UTC; find out what runs in a loop",
        )
    tx.execute(sa.delete(table).where(table.c.site == site))
    tx.execute(sa.insert(table).values(site=site, day=day, entries=caused + entries))


def events(coordinator: Coordinator) -> list[Event]:
    """Return the whole log, oldest first."""
    with coordinator.state.read() as tx:
        rows = tx.all(sa.select(state.log.c.leaf).order_by(state.log.c.position))
    return [Event.from_leaf(row.leaf) for row in rows]
