"""Contact with the coordinator: ask, verify everything, then keep it."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from edge_agent import copies, mirror, outbox, renewal, repository, reviewers, trust
from edge_agent.alarms import look
from edge_agent.errors import TrustError
from edge_agent.exchange import Exchange
from edge_agent.home import Home
from edge_agent.trust import Before, Entry, News, Trust, World
from edge_agent.witness import EXPLAIN, LogView, Milestone, vouched
from federation.auditlog.checkpoint import Checkpoint, Receipt, claimed_size
from federation.auditlog.events import Event, Kind
from federation.auditlog.history import Alarm
from kit import canonical, clock, door
from kit.errors import KitError
from kit.files import read_limited, write_atomic
from pki import keys
from pki.crl import MAX_CRL_BYTES, RevocationList, RevocationLists

# A release is shown with all its entries; its own rules say what must not be missing. What this
# site reported is shown to nobody: its entry must stay in the log, as every other.
_SHOWN_ELSEWHERE = (Kind.RELEASE_PUBLISHED, Kind.RELEASE_WITHDRAWN, Kind.METRICS_REPORTED)


def known(home: Home) -> Trust | None:
    """Return what was proved so far, or None before the first contact.

    Raises:
        FormatError: the state file is damaged.
    """
    if not home.trust.is_file():
        return None
    return Trust.from_bytes(home.read(home.trust, "trust state"))


def held(home: Home) -> Before:
    """Return everything that the next answer must contain.

    Raises:
        TrustError: this site saw the log before, but what it proved then is gone or was changed.
    """
    trusted = known(home)
    marks, revoked = _first_checkpoint(home), revoked_certificates(home)
    if trusted is not None:
        leaves = mirror.load(home, trusted.size, trusted.root)
        return Before(trust=trusted, leaves=leaves, milestones=marks, revoked=revoked)
    if home.log_copy.is_file() or receipts(home):
        raise TrustError(
            f"`{home.trust}` is missing, though this site has been in contact before: without it"
            " any log, however rewritten, would be believed",
            hint="bring the file back from a backup; where there is none, `edge-agent audit"
            " rebuild` starts again from the receipts, and says what that cannot prove",
        )
    if not marks:
        raise TrustError(
            f"`{home.trust.parent}` is empty: not even the checkpoint of the enrolment token is"
            " left, and any log would be believed",
            hint="bring the folder back from a backup, or enrol this home again with a new token",
        )
    return Before(trust=None, milestones=marks, revoked=revoked)


def log_view(home: Home) -> LogView:
    """Return the log as this site last verified it, from its own copy.

    Raises:
        TrustError: the copy is missing or was changed.
    """
    trusted = known(home)
    leaves = mirror.load(home, trusted.size, trusted.root) if trusted is not None else ()
    if trusted is None or (trusted.size and not leaves):
        raise TrustError(
            "this home holds no copy of the audit log", hint="run `edge-agent status` once"
        )
    pins = home.pins
    head = Checkpoint.verify(trusted.checkpoint, origin=pins.log_origin, key=pins.log_key)
    return LogView.read(leaves, head, passed=len(leaves))


def held_without_trust(home: Home) -> Before:
    """Return what receipts and the copy of the log still prove where the trust state is lost.

    Raises:
        KitError: a receipt does not hold, or the trust state is not lost.
    """
    if home.trust.is_file():
        raise KitError(f"`{home.trust}` is there: nothing is to be rebuilt")
    pins, marks = home.pins, list(_first_checkpoint(home))
    for path, entry in receipts(home):
        head = Receipt.from_text(entry.receipt).verify(
            entry.leaf, origin=pins.log_origin, key=pins.log_key
        )
        marks.append(Milestone(size=head.size, root=head.root, what=f"the receipt `{path.name}`"))
    return Before(trust=None, milestones=tuple(marks), revoked=revoked_certificates(home))


def _first_checkpoint(home: Home) -> tuple[Milestone, ...]:
    if not home.first_checkpoint.is_file():
        return ()
    text, pins = home.read(home.first_checkpoint, "checkpoint").decode(), home.pins
    head = Checkpoint.verify(text, origin=pins.log_origin, key=pins.log_key)
    return (Milestone(size=head.size, root=head.root, what="the enrolment token's checkpoint"),)


def contact(home: Home, exchange: Exchange, *, before: Before | None = None) -> World:
    """Ask for the state of the world, verify it, keep it, and vouch for the log as a witness.

    Raises:
        TrustError: it contradicts what was proved before, or leaves out what concerns this site.
        KitError: the coordinator cannot be reached or refuses.
    """
    before = held(home) if before is None else before
    now = clock.utc_now()
    trust.check_clock(before.trust, now)
    news = ask(exchange, before, versions=repository.versions(home))
    world = take(home, news, before=before, now=now)
    line = cosignature(home, world, now=now)
    if line is not None:
        exchange.cosign(world.trust.size, line)
    renewal.renew_due(home, exchange, now)
    return world


def alarms(log: LogView, *, now: datetime) -> list[Alarm]:
    """Return the revocations that may still be undone, whoever's blueprint it was (A3)."""
    found = log.history.alarms.values()
    return [alarm for alarm in found if alarm.until > now.timestamp()]


def alarm_words(alarm: Alarm, world: World) -> str:
    """Say what was revoked, by whom, and until when that can be undone."""
    is_own = alarm.blueprint in {status.digest for status in world.blueprints}
    what = "your blueprint" if is_own else "blueprint"
    by = "a quorum of reviewers"
    if alarm.actor != "coordinator":
        by = "you, this site" if is_own else f"its site, `{alarm.actor}`"
    until = clock.rfc3339(datetime.fromtimestamp(alarm.until, UTC))
    return f"{what} `{alarm.blueprint[:16]}` was revoked by {by}; to be undone until {until}"


def ask(exchange: Exchange, before: Before, *, versions: Mapping[str, int] | None = None) -> News:
    """Ask for the state of the world and for every page of the log that was not read yet.

    `versions` are those of the repository's metadata that are here.
    """
    known_size = before.trust.size if before.trust else 0
    news = exchange.contact(known_size, len(before.leaves), versions)
    size, leaves = claimed_size(news.checkpoint), list(news.leaves)
    while news.first_leaf + len(leaves) < size:
        if len(leaves) > mirror.MAX_ENTRIES:
            raise TrustError(f"the log grew by more than {mirror.MAX_ENTRIES} entries at once")
        page = exchange.leaves(news.first_leaf + len(leaves))
        if not page:
            break
        leaves += page
    return replace(news, leaves=tuple(leaves[: size - news.first_leaf]))


def take(home: Home, news: News, *, before: Before, now: datetime, by_stick: bool = False) -> World:
    """Verify what the coordinator says, however it came here, and keep it.

    Raises:
        TrustError: it contradicts what was proved before, or leaves out what concerns this site.
        KitError: a signature, certificate or format is off.
    """
    world = trust.accept(news, pins=home.pins, site=home.config.site, before=before, now=now)
    _check_none_vanished(home, world)
    _check_studies_unchanged(home, world)
    with home.reserve.drawn_on():  # a withdrawal must reach a site whose disk is full
        _keep(home, world, held=min(len(before.leaves), news.first_leaf))
        look(home, world)
        for finding in reviewers.look(home, world):
            door.note(f"alarm: {finding.line}")
        repository.refresh(home, dict(news.repository), now=now, by_stick=by_stick)
    home.reserve.hold()
    for alarm in alarms(world.log, now=now):
        door.note(f"alarm: {alarm_words(alarm, world)}")
    return world


def cosignature(home: Home, world: World, *, now: datetime) -> str | None:
    """Return this site's signature line under the log it just verified; None if it is no witness.

    A site whose key the log does not hold (revoked, or of a log that registered none) is none.
    """
    return world.log.cosign(keys.load_signing(home.key("witness.key")), at=now)


def witness_key(home: Home) -> bytes:
    """Return the public key by which the log knows this site."""
    return keys.public_bytes(keys.load_signing(home.key("witness.key")))


def _check_studies_unchanged(home: Home, world: World) -> None:
    """Refuse another manifest under the name of a study that this site knows, but for a new round.

    What a person here agreed to under that name would otherwise change behind their back.
    """
    for offer in world.studies:
        path = home.study_file(offer.study.id, "manifest")
        if not path.is_file():
            continue
        kept = trust.open_study(home.read(path, "study"), home.pins)
        if kept.digest != offer.study.digest and offer.study.round <= kept.round:
            raise TrustError(
                f"study `{kept.id}` is signed anew with other terms, but not as a new round",
                hint=f"this site agreed to `{kept.digest[:16]}`; ask the coordinator what changed."
                " A change is a new round or another study id",
            )


def revoked_certificates(home: Home) -> RevocationList | None:
    """Return the newest list of revoked certificates that was proved to this site, if any.

    Raises:
        IdentityError: the kept file is damaged.
    """
    if not home.certificate_revocations.is_file():
        return None
    path = home.certificate_revocations
    return RevocationList.read(read_limited(path, limit=MAX_CRL_BYTES, what="revocation list"))


def revocations(home: Home) -> RevocationLists:
    """Return every kept list of revoked certificates: the issuing CA's, and the root's if any.

    Raises:
        IdentityError: a kept file is damaged.
    """
    found = [revoked_certificates(home)]
    path = home.authority_revocations
    if path.is_file():
        data = read_limited(path, limit=MAX_CRL_BYTES, what="revocation list of the root")
        found.append(RevocationList.read(data))
    return RevocationLists(tuple(each for each in found if each is not None))


def _check_none_vanished(home: Home, world: World) -> None:
    """Want every entry that was ever proved to this site, in its place, and what became of it.

    A receipt that came with a submission leads to a checkpoint of its own: without this, a log
    that was forked between that answer and the next contact would go unnoticed.
    """
    log = world.log
    shown = {status.digest for status in world.blueprints}
    shown |= {offer.release.digest for offer in world.releases}  # bases: reviewers sign their end
    for path, entry in receipts(home):
        index, event = Receipt.from_text(entry.receipt).index, Event.from_leaf(entry.leaf)
        is_there = index < len(log.leaves) and log.leaves[index] == entry.leaf
        ended = log.history.blueprints.get(event.subject) == "revoked"
        hidden = event.kind not in _SHOWN_ELSEWHERE and event.subject not in shown and not ended
        if not is_there or hidden:
            raise TrustError(
                f"the coordinator no longer shows the log entry `{path.name}` that it proved here",
                hint=EXPLAIN,
            )


def _keep(home: Home, world: World, *, held: int) -> None:
    for offer in world.studies:
        write_atomic(home.study_file(offer.study.id, "manifest"), offer.manifest)
        for kind, document in (("delegation", offer.delegation), ("recipient", offer.recipient)):
            path = home.study_file(offer.study.id, kind)
            if offer.recipient_key is not None and document:
                write_atomic(path, document)
            else:
                path.unlink(missing_ok=True)
    for entry in world.entries:
        index = Receipt.from_text(entry.receipt).index
        better = world.log.receipt(index, world.notes)
        keep_entry(home, entry if better is None else Entry(leaf=entry.leaf, receipt=better))
    _purge_outbox(home, world)
    mirror.store(home.log_copy, held, world.log.leaves)
    write_atomic(home.certificate_revocations, world.certificate_revocations)
    if world.authority_revocations:
        write_atomic(home.authority_revocations, world.authority_revocations)
    write_atomic(home.vouched, _vouched(home, world))
    write_atomic(home.trust, world.trust.to_bytes())


def _vouched(home: Home, world: World) -> bytes:
    found = vouched(world.log, world.vouchings, witness_key(home))
    time = clock.rfc3339(found.time) if found.time else ""
    return canonical.encode({"needed": found.needed, "size": found.size, "time": time})


def keep_entry(home: Home, entry: Entry) -> None:
    """Keep one log leaf with its receipt."""
    event = Event.from_leaf(entry.leaf)
    index = Receipt.from_text(entry.receipt).index
    stem = home.receipts / f"{index:06d}-{event.kind}-{event.subject[:16]}"
    # The leaf last: `receipts` goes by the leaves, so a crash in between leaves nothing half-kept.
    write_atomic(stem.with_name(stem.name + ".tlog-proof"), entry.receipt.encode())
    write_atomic(stem.with_name(stem.name + ".leaf.json"), entry.leaf)


def receipts(home: Home) -> list[tuple[Path, Entry]]:
    """Return every kept log entry.

    Raises:
        KitError: a receipt's file is missing.
    """
    found = sorted(home.receipts.glob("*.leaf.json")) if home.receipts.is_dir() else []
    entries = []
    for path in found:
        proof = path.with_name(path.name.removesuffix(".leaf.json") + ".tlog-proof")
        entry = Entry(
            leaf=home.read(path, "log entry"), receipt=home.read(proof, "receipt").decode()
        )
        entries.append((path, entry))
    return entries


def _purge_outbox(home: Home, world: World) -> None:
    """Delete sealed copies that no longer have a purpose (A2)."""
    closed = {o.study.digest for o in world.studies if o.recipient_key is None}
    ended = {s.digest for s in world.blueprints if s.state in ("revoked", "rejected", "refused")}
    outbox.purge(home, ended=ended, closed=closed)
    # What was refused may be sealed again: those weights were never taken in.
    given_back = {s.digest for s in world.blueprints if s.state in ("revoked", "rejected")}
    copies.purge(home, ended=given_back, closed=closed)
