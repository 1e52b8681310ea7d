"""When the log is in doubt: this site's copy as files, held against another, or recovered.

A recovered log is believed only with its record, signed by the quorum of every study known here,
and only after a person agreed: what this site saw beyond it is set aside, never deleted.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from edge_agent import contact, trust
from edge_agent.errors import TrustError
from edge_agent.exchange import Exchange
from edge_agent.home import Home
from edge_agent.trust import Before, Trust, World
from edge_agent.witness import LogView, Milestone
from federation.auditlog import recovery as rules
from federation.auditlog.bundle import MAX_BYTES, Bundle
from federation.auditlog.checkpoint import Receipt
from federation.auditlog.events import Kind, read_leaf
from federation.auditlog.recovery import Recovery
from kit import clock
from kit.errors import FormatError, KitError
from kit.files import os_errors, private_folder, read_document, read_folder, write_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """How another copy of the log relates to the one here."""

    agree: bool
    first: int
    here: int
    there: int
    cosigned_there: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """What a recovery takes away of what this site saw."""

    epoch: int
    keeps: int
    entries: tuple[str, ...]
    kept_aside: Path


def export(home: Home, folder: Path) -> int:
    """Write this site's copy of the log into a new folder; returns its size.

    Raises:
        KitError: there is no copy, or the folder is not empty.
    """
    view, pins, trusted = contact.log_view(home), home.pins, contact.known(home)
    checkpoint = trusted.checkpoint if trusted is not None else ""
    bundle = Bundle(
        origin=pins.log_origin, log_key=pins.log_key, checkpoint=checkpoint, leaves=view.leaves
    )
    write_folder(folder, bundle.to_files())
    return len(view.leaves)


def compare(home: Home, folder: Path) -> Compared:
    """Hold another site's or the coordinator's export against the copy here (A5).

    Raises:
        KitError: the export proves nothing under the pinned key.
        TrustError: the two are of different logs: a fork, with both halves at hand.
    """
    view = contact.log_view(home)
    files = read_folder(folder, limit=MAX_BYTES, what="log export")
    try:
        other = Bundle.from_files(files)
    except FormatError as error:
        raise FormatError(
            f"`{folder}` is no log export: {error}",
            hint="give the folder that `edge-agent audit export` or `coordinator audit export`"
            " wrote",
        ) from error
    found = other.verify(key=home.pins.log_key)
    first = min(view.tree.size, found.tree.size)
    if view.tree.root(first) != found.tree.root(first):
        pairs = zip(view.leaves, other.leaves, strict=False)
        where = next(number for number, (here, there) in enumerate(pairs) if here != there)
        raise TrustError(
            f"two logs under one key: they part at entry {where}",
            hint=f"keep this home and `{folder}`: together they prove the fork to anybody",
        )
    return Compared(
        agree=True,
        first=first,
        here=view.tree.size,
        there=found.tree.size,
        cosigned_there=len(found.cosigned),
    )


def prepare(home: Home, file: Path) -> tuple[Recovery, Dropped]:
    """Check a recovery record against this home; returns what accepting it would drop.

    Raises:
        KitError: no quorum signed it, or it is not about the log that this site saw.
    """
    record, envelopes = read_document(
        file,
        rules.read_file,
        limit=rules.MAX_FILE_BYTES,
        what="recovery record",
        hint="it is the file `epoch-N.jsonl` that `coordinator audit recover` wrote",
    )
    view, studies = contact.log_view(home), home.studies()
    if record.origin != home.pins.log_origin:
        raise TrustError("the recovery record is another federation's")
    if not studies:
        raise TrustError("this site knows no study, so nobody it knows could sign a recovery")
    lacking = rules.lacking(envelopes, studies)
    if lacking:
        raise TrustError(f"the recovery record lacks the quorum of study `{lacking[0]}`")
    is_here = any(event.subject == record.digest for _, event in view.history.epochs)
    if is_here or record.size >= view.tree.size:
        raise KitError(
            "this recovery takes nothing away that this site saw; there is nothing to accept",
            hint="run `edge-agent status`",
        )
    if view.tree.root(record.size).hex() != record.root:
        raise TrustError("the recovery keeps another log than the one that this site saw")
    lost = [read_leaf(leaf) for leaf in view.leaves[record.size :]]
    return record, Dropped(
        epoch=record.epoch,
        keeps=record.size,
        entries=tuple(f"{e.kind} {e.subject[:16]}" if e else "unknown" for e in lost),
        kept_aside=home.path / "state" / f"before-epoch-{record.epoch}",
    )


def accept(home: Home, file: Path) -> World:
    """Believe the recovered log from now on; call it only after a person agreed.

    Raises:
        TrustError: the log does not hold the record, or lacks a revocation that this site saw.
        KitError: as `prepare`, or the coordinator cannot be reached.
    """
    record, dropped = prepare(home, file)
    before, now = contact.held(home), clock.utc_now()
    mark = Milestone(size=record.size, root=bytes.fromhex(record.root), what="the recovery record")
    fresh = Before(trust=None, milestones=(*before.milestones, mark))
    with Exchange.open(home) as exchange:
        news = contact.ask(exchange, fresh)
        world = trust.accept(news, pins=home.pins, site=home.config.site, before=fresh, now=now)
        _require_record(world.log, record)
        if before.trust is not None:
            _require_floor(world.trust, before.trust, now)
        _set_aside(home, record, dropped.kept_aside)
        return contact.contact(home, exchange, before=fresh)


def _require_record(view: LogView, record: Recovery) -> None:
    for index, event in view.history.epochs:
        if event.subject == record.digest and index >= record.size:
            return
    raise TrustError(f"the log holds no `{Kind.LOG_RECOVERED}` with this record")


def _require_floor(fresh: Trust, held: Trust, now: datetime) -> None:
    """A recovery may lose approvals and models, never what was taken out of use."""
    trust.check_clock(held, now)
    missing = {*held.revoked_blueprints} - {*fresh.revoked_blueprints}
    missing |= {*held.withdrawn_releases} - {*fresh.withdrawn_releases}
    if missing:
        raise TrustError(
            f"the recovered log forgot that `{sorted(missing)[0][:16]}` is out of use",
            hint="the coordinator has to revoke it again, or recover from a copy that holds it",
        )


def _set_aside(home: Home, record: Recovery, folder: Path) -> None:
    """Move what leads into the lost part: evidence, and in nobody's way."""
    private_folder(folder)
    with os_errors(folder):
        for path, entry in contact.receipts(home):
            if Receipt.from_text(entry.receipt).index >= record.size:
                proof = path.with_name(path.name.removesuffix(".leaf.json") + ".tlog-proof")
                proof.replace(folder / proof.name)
                path.replace(folder / path.name)
        for path in (home.log_copy, home.trust):
            if path.is_file():
                path.replace(folder / path.name)
