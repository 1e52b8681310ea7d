"""Contact with the coordinator: ask, verify everything, then keep it."""

from datetime import datetime
from pathlib import Path

from edge_agent import outbox, trust
from edge_agent.errors import TrustError
from edge_agent.exchange import Exchange
from edge_agent.home import Home
from edge_agent.trust import Entry, News, Trust, World
from federation.auditlog.checkpoint import Receipt
from federation.auditlog.events import Event, Kind
from kit import clock
from kit.errors import KitError
from kit.files import read_limited, write_atomic
from pki import certificates, keys, verification

_MAX_PEM_BYTES = 64 << 10
# A release that is published again is shown from its last publication on.
_RELEASE_KINDS = (Kind.RELEASE_PUBLISHED, Kind.RELEASE_WITHDRAWN)


def known(home: Home) -> Trust | None:
    """Return what was proved so far, or None before the first contact.

    Raises:
        FormatError: the state file is damaged.
    """
    if not home.trust.is_file():
        return None
    return Trust.from_bytes(home.read(home.trust, "trust state"))


def contact(home: Home, exchange: Exchange) -> World:
    """Ask for the state of the world, verify it, and keep it.

    Raises:
        TrustError: it contradicts what was proved before, or leaves out what concerns this site.
        KitError: the coordinator cannot be reached or refuses.
    """
    before = known(home)
    now = clock.utc_now()
    trust.check_clock(before, now)
    news = exchange.contact(before.size if before else 0)
    world = take(home, news, known=before, now=now)
    _renew(home, exchange, now)
    return world


def take(home: Home, news: News, *, known: Trust | None, now: datetime) -> World:
    """Verify what the coordinator says, however it came here, and keep it.

    Raises:
        TrustError: it contradicts what was proved before, or leaves out what concerns this site.
        KitError: a signature, certificate or format is off.
    """
    world = trust.accept(news, pins=home.pins, site=home.config.site, known=known, now=now)
    _check_none_vanished(home, world)
    _keep(home, world)
    return world


def _check_none_vanished(home: Home, world: World) -> None:
    """Want every entry about this site's blueprints that was ever proved to it, in its place.

    A receipt that came with a submission leads to a checkpoint of its own: without this, a log
    that was forked between that answer and the next contact would go unnoticed.
    """
    shown = {(Receipt.from_text(entry.receipt).index, entry.leaf) for entry in world.entries}
    for path, entry in receipts(home):
        is_release = Event.from_leaf(entry.leaf).kind in _RELEASE_KINDS
        if not is_release and (Receipt.from_text(entry.receipt).index, entry.leaf) not in shown:
            raise TrustError(
                f"the coordinator no longer shows the log entry `{path.name}` that it proved here",
                hint="do not submit; keep this home, and ask the coordinator's auditor to explain",
            )


def _keep(home: Home, world: World) -> None:
    for offer in world.studies:
        write_atomic(home.study_file(offer.study.id, "manifest"), offer.manifest)
        recipient = home.study_file(offer.study.id, "recipient")
        if offer.recipient_key is not None:
            write_atomic(recipient, offer.recipient)
        else:
            recipient.unlink(missing_ok=True)
    for entry in world.entries:
        keep_entry(home, entry)
    _purge_outbox(home, world)
    write_atomic(home.trust, world.trust.to_bytes())


def keep_entry(home: Home, entry: Entry) -> None:
    """Keep one log leaf with its newest receipt."""
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


def _renew(home: Home, exchange: Exchange, now: datetime) -> None:
    """Replace the TLS certificate at two thirds of its life; the old one works until then."""
    chain = read_limited(home.tls_chain, limit=_MAX_PEM_BYTES, what="certificate")
    leaf = certificates.from_pem(chain)[0]
    lifetime = leaf.not_valid_after_utc - leaf.not_valid_before_utc
    if now < leaf.not_valid_before_utc + lifetime * 2 / 3:
        return
    key = keys.new_tls_key()
    fresh = exchange.renew(certificates.request(key))
    root = certificates.from_der(home.pins.root_der)
    fresh_chain = certificates.from_pem(fresh)
    if verification.verify_tls_client(fresh_chain, root=root, now=now) != home.identity:
        raise KitError("the coordinator renewed the certificate for another site")
    keys.save(home.next_tls_key, key)
    write_atomic(home.tls_chain, fresh)
    home.settle_tls_key(fresh_chain[0].public_key())
