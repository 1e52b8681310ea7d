"""Checking the audit log again: the tree from its leaves, and the tables from the log."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from coordinator import delegations, logbook, papers, state
from coordinator.context import Coordinator
from coordinator.errors import StateError
from coordinator.papers import Paper
from coordinator.releases import out_of_use
from coordinator.state import Transaction
from federation.auditlog import merkle
from federation.auditlog.checkpoint import Checkpoint
from federation.auditlog.events import Event
from federation.auditlog.history import History, revocations_digest
from federation.blueprint import approval
from kit import canonical
from kit.errors import FormatError
from pki import keys

_RECEIVING = "receiving"


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What `audit verify` found."""

    size: int
    root: str
    checkpoint: str
    witnesses: int
    cosigned: int


def verify(coordinator: Coordinator) -> Audit:
    """Recompute the log from its leaves, and compare every table with what the log says.

    Raises:
        FormatError: a leaf, hash or subtree root was altered, or positions have holes.
        StateError: a table says something that the log does not; every difference is named.
    """
    with coordinator.state.read() as tx:
        events = _check_tree(tx)
        found = [*differences(tx, events), *logbook.pin_differences(coordinator, tx)]
        text = logbook.Proofs(coordinator, tx).checkpoint
        cosigned = tx.connection.scalar(
            sa.select(sa.func.count())
            .select_from(state.cosignatures)
            .where(state.cosignatures.c.size == len(events))
        )
    if found:
        raise StateError(
            f"the tables say what the log does not: {'; '.join(found)}",
            hint="the state was changed outside this program, or is of another time than the log",
        )
    public = keys.public_bytes(coordinator.log_key)
    head = Checkpoint.verify(text, origin=coordinator.log_origin, key=public)
    witnesses = History().read(events).active_witnesses(head.size)
    return Audit(
        size=head.size,
        root=head.root.hex(),
        checkpoint=text,
        witnesses=len(witnesses),
        cosigned=cosigned or 0,
    )


def _check_tree(tx: Transaction) -> list[Event]:
    rows = tx.all(sa.select(state.log).order_by(state.log.c.position))
    events = []
    for position, row in enumerate(rows):
        if row.position != position or merkle.leaf_hash(row.leaf) != row.hash:
            raise FormatError(f"log entry {position} was altered or removed")
        events.append(Event.from_leaf(row.leaf))
        if events[-1].subject != row.subject:
            raise FormatError(f"log entry {position} is filed under another subject")
    tree = merkle.Tree.of([row.hash for row in rows])
    kept = {(row.level, row.number): row.hash for row in tx.all(sa.select(state.log_nodes))}
    due = {(level, number) for level, number in _nodes(len(rows))}
    if set(kept) != due or any(tree.node(*place) != kept[place] for place in due):
        raise FormatError("a kept subtree root of the log is not the one of its leaves")
    return events


def _nodes(size: int) -> Iterator[tuple[int, int]]:
    for level in range(1, size.bit_length()):
        yield from ((level, number) for number in range(size >> level))


def differences(tx: Transaction, events: list[Event]) -> list[str]:
    """Return, in words, everything that a table says and the log does not, or the reverse."""
    said = History().read(events)
    blueprints = tx.all(sa.select(state.blueprints))
    releases = tx.all(sa.select(state.releases))
    sites = tx.all(sa.select(state.sites))
    studies = tx.all(sa.select(state.studies))
    shredded = {row.digest: "shredded" for row in blueprints if row.destroyed}
    lost = {row.name: row.kind for row in tx.all(sa.select(state.lost))}
    number = int(tx.get("revocations") or 0)
    listed = {str(number): revocations_digest(*out_of_use(tx))}
    return [
        *_compare(
            "blueprint",
            said.blueprints,
            {row.digest: row.state for row in blueprints if row.state != _RECEIVING}
            | _lost(lost, "blueprint", "revoked"),
        ),
        *_compare("payload", dict.fromkeys(said.destroyed - set(lost), "shredded"), shredded),
        *_compare(
            "release",
            {digest: _standing(gone) for digest, gone in said.releases.items()},
            {row.digest: _standing(row.withdrawn) for row in releases}
            | _lost(lost, "release", "withdrawn"),
        ),
        *_compare(
            "site",
            said.sites,
            {row.pseudonym: row.state for row in sites} | _lost(lost, "site", "revoked"),
        ),
        *_compare(
            "witness key",
            {w.pseudonym: w.key.hex() for w in said.active_witnesses(said.size)},
            {row.pseudonym: row.witness_key.hex() for row in sites if row.state == "active"},
        ),
        *_compare(
            "study",
            {d: "closed" if d in said.closed else "open" for d in said.studies},
            {row.digest: _study(row) for row in studies} | _lost(lost, "study", "closed"),
        ),
        *_compare("revocation list", {str(said.revocations[0]): said.revocations[1]}, listed),
        *_delegations(tx, said),
        *_recipients(tx, said, {row.id: row.pseudonym for row in sites}),
        *_approvals(tx, said),
        *_papers(tx, said, {row.digest for row in blueprints if row.state != _RECEIVING}),
    ]


def _lost(lost: Mapping[str, str], kind: str, state_of: str) -> dict[str, str]:
    return dict.fromkeys((name for name, what in lost.items() if what == kind), state_of)


def _delegations(tx: Transaction, said: History) -> list[str]:
    """Compare the delegations that are kept; one that a recovery lost leaves no row."""
    kept = delegations.digests(tx)
    return _compare("delegation", {s: said.delegations.get(s, "missing") for s in kept}, kept)


def _recipients(tx: Transaction, said: History, pseudonyms: dict[str, str]) -> list[str]:
    """Compare the keys that are kept; one that went with its site or study leaves no row."""
    kept = {
        (row.study_digest, pseudonyms.get(row.site, row.site)): row.kid
        for row in tx.all(sa.select(state.recipient_keys))
    }
    logged = {place: said.recipients.get(place) for place in kept}
    return _compare(
        "recipient key",
        {kid: "current" for kid in logged.values() if kid},
        dict.fromkeys(kept.values(), "current"),
    )


def _approvals(tx: Transaction, said: History) -> list[str]:
    rows = tx.all(sa.select(state.approvals))
    kept = {canonical.digest(row.envelope): "signed" for row in rows}
    found = _compare("approval", dict.fromkeys(said.approvals, "signed"), kept)
    for row in rows:
        payload = json.loads(canonical.b64decode(json.loads(row.envelope)["payload"]))
        words = approval.commitment(row.reason, row.salt)
        if row.salt and words != payload["reason_commitment"]:
            found.append(f"the reason of an approval of `{row.blueprint[:16]}` was altered")
    return found


def _papers(tx: Transaction, said: History, settled: set[str]) -> list[str]:
    """Want every signed document that is kept to be the one that the log names.

    An order of a site that did nothing is kept without an entry: its signature speaks for it.
    """
    return [
        f"the {row.kind} of `{row.blueprint[:16]}` is not the one on the log"
        for row in tx.all(sa.select(state.papers))
        if row.blueprint in settled and row.kind != Paper.OFFICER
        if canonical.digest(row.envelope) != row.digest
        or not (row.digest in said.papers or papers.is_signed_order(row))
    ]


def _compare(what: str, logged: Mapping[str, str], kept: Mapping[str, str]) -> list[str]:
    return [
        f"{what} `{name[:16]}` is {kept.get(name, 'missing')[:16]} in its table and"
        f" {logged.get(name, 'missing')[:16]} on the log"
        for name in sorted({*logged, *kept})
        if logged.get(name) != kept.get(name)
    ]


def _standing(is_withdrawn: bool) -> str:
    return "withdrawn" if is_withdrawn else "current"


def _study(row: sa.Row[Any]) -> str:
    if canonical.digest(row.manifest) != row.digest:
        return "altered"
    return "open" if row.open else "closed"
