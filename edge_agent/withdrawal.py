"""Taking back what this site sent, and undoing that, on the word of its signing key (A3).

Nothing here asks the privacy budget: erasure never waits for it. What leaves is a signed order with
the blueprint's digest and a salted commitment to the reason.
"""

import os
from dataclasses import dataclass
from datetime import datetime

from edge_agent import acts, contact, outbox, runs, shipments
from edge_agent.erased import Erased
from edge_agent.exchange import Exchange
from edge_agent.home import Home
from edge_agent.submission import signing_chain
from edge_agent.trust import StatusNews, World
from federation.auditlog.checkpoint import Receipt
from federation.auditlog.events import Event, Kind
from federation.blueprint import approval
from federation.release.statement import RESTORATION_TYPE, WITHDRAWAL_TYPE, Withdrawal, sign
from federation.study import Study
from kit import canonical, clock
from kit.errors import KitError
from kit.files import os_errors, write_atomic
from pki import certificates, keys

_WITHDRAWALS, _RESTORATIONS, _OPENING = "withdrawals", "restorations", ".reason.json"
IN_PLAY = ("received", "pending", "approved")
ENDED = (Kind.BLUEPRINT_REFUSED, Kind.BLUEPRINT_REJECTED, Kind.BLUEPRINT_REVOKED)


def withdraw(home: Home, study_name: str, *, reason: str, now: datetime) -> StatusNews:
    """Take this site's blueprint in a study back, on the word of its signing key (A3).

    Raises:
        KitError: this site has no blueprint in that study, or the coordinator refuses.
    """
    with Exchange.open(home) as exchange:
        world = contact.contact(home, exchange)
        study = home.study(study_name)
        own = [s for s in in_play(world) if s.study_digest == study.digest]
        if not own:
            raise KitError(f"this site has nothing to withdraw in study `{study_name}`")
        order(home, exchange, own[-1], reason, now)
        after = contact.contact(home, exchange)  # what counts is what the log now says
        return next(s for s in after.blueprints if s.digest == own[-1].digest)


def preview(home: Home, study_name: str) -> tuple[str, ...]:
    """Return what `withdraw` would do, for the person who has to say yes; nothing was changed.

    Raises:
        KitError: there is no such study.
    """
    study = home.study(study_name)
    try:
        what = f"blueprint `{own_blueprint(home, study)[:16]}`"
    except KitError:  # sent, and never answered: the coordinator knows
        what = "whatever the coordinator has"
    return (
        f"to be taken back: {what} of this site in study `{study_name}`",
        "out of use at once, with every release made of it, at every site; shredded after the"
        " grace period, until when `--undo` works",
    )


def undo(home: Home, study_name: str, *, reason: str, now: datetime) -> StatusNews:
    """Undo this site's own withdrawal in a study, on the word of its signing key, within the grace.

    Raises:
        KitError: nothing of this site's is revoked there, an erased patient is in it, or the
            coordinator refuses.
    """
    with Exchange.open(home) as exchange:
        world = contact.contact(home, exchange)
        study = home.study(study_name)
        ended = [
            s for s in world.blueprints if s.study_digest == study.digest and s.state == "revoked"
        ]
        if not ended:
            raise KitError(f"nothing of this site is revoked in study `{study_name}`")
        require_nobody_erased(home, ended[-1].digest)
        order(home, exchange, ended[-1], reason, now, kind=RESTORATION_TYPE)
        after = contact.contact(home, exchange)
        return next(s for s in after.blueprints if s.digest == ended[-1].digest)


def own_blueprint(home: Home, study: Study) -> str:
    """Return the digest of this site's blueprint in a study, from what is kept here.

    The newest one in the log, by this site's receipts; else the one in the outbox, which may have
    arrived without an answer.

    Raises:
        KitError: there is none.
    """
    found = arrived(home)
    alive = [a for a in found.values() if a.study == study.digest and a.ended is None]
    if alive:
        return max(alive, key=lambda a: a.index).blueprint
    for folder in home.outbox.iterdir():
        is_sealed = (folder / outbox.RUN).is_file() and folder.name not in found
        if is_sealed and outbox.statement(folder).context.study_digest == study.digest:
            return folder.name
    raise KitError(f"this site has nothing to withdraw in study `{study.id}`")


def own_revoked(home: Home, study: Study) -> str:
    """Return the digest of this site's last revoked blueprint in a study, from what is kept here.

    Also one whose withdrawal was written and may have arrived without an answer.

    Raises:
        KitError: there is none.
    """
    found = [
        a
        for a in arrived(home).values()
        if a.study == study.digest
        and (a.ended is Kind.BLUEPRINT_REVOKED or (a.ended is None and _is_ordered(home, a)))
    ]
    if not found:
        raise KitError(f"nothing of this site is revoked in study `{study.id}`")
    return max(found, key=lambda a: a.index).blueprint


def require_nobody_erased(home: Home, blueprint: str) -> None:
    """Keep out of use what an erased patient is in.

    Raises:
        KitError: one is in this blueprint, or the ledger does not open, which would know.
    """
    erased = Erased(home).pseudonyms
    if not erased:
        return
    run = next((s.run_id for s in shipments.known(home) if s.blueprint == blueprint), "")
    with runs.open_ledger(home) as ledger:
        affected = ledger.runs_of(erased).values()
    if any(run in their for their in affected):
        raise KitError(
            f"blueprint `{blueprint[:16]}` was made with a patient who was erased here; it stays"
            " withdrawn",
            hint="train a new --run, which leaves the patient out, and submit that",
        )


def _is_ordered(home: Home, item: "Arrived") -> bool:
    return (home.path / _WITHDRAWALS / f"{item.blueprint}.dsse.json").is_file()


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """A blueprint of this site that the log proved here, at entry `index`, and how it ended."""

    blueprint: str
    study: str
    index: int
    ended: Kind | None


def arrived(home: Home) -> dict[str, Arrived]:
    """Return every blueprint of this site that has a receipt here, by its digest."""
    received: dict[str, tuple[str, int]] = {}
    ended: dict[str, Kind] = {}
    for _, entry in contact.receipts(home):
        event = Event.from_leaf(entry.leaf)
        if event.kind is Kind.BLUEPRINT_RECEIVED:
            index = Receipt.from_text(entry.receipt).index
            received[event.subject] = (str(event.details.get("study")), index)
        if event.kind in ENDED:
            ended[event.subject] = event.kind
        elif event.kind is Kind.BLUEPRINT_RESTORED:
            ended.pop(event.subject, None)
    return {
        digest: Arrived(blueprint=digest, study=study, index=index, ended=ended.get(digest))
        for digest, (study, index) in received.items()
    }


def in_play(world: World) -> list[StatusNews]:
    """Return this site's blueprints that may flow into a release, or do."""
    return [s for s in world.blueprints if s.state in IN_PLAY]


def order(
    home: Home,
    exchange: Exchange,
    status: StatusNews,
    reason: str,
    now: datetime,
    *,
    kind: str = WITHDRAWAL_TYPE,
) -> None:
    """Sign an order about one blueprint and send it.

    Raises:
        KitError: the coordinator refuses.
    """
    study = status.study_digest
    envelope = signed_order(home, status.digest, study, reason=reason, now=now, kind=kind)
    exchange.withdraw(envelope, certificates.pem(*signing_chain(home)))


def signed_order(
    home: Home,
    blueprint: str,
    study_digest: str,
    *,
    reason: str,
    now: datetime,
    kind: str = WITHDRAWAL_TYPE,
) -> bytes:
    """Return one order, signed; it is kept, with the words and salt that explain it later."""
    salt = os.urandom(approval.SALT_BYTES)
    words = Withdrawal(
        blueprint=blueprint,
        study_digest=study_digest,
        reason_commitment=approval.commitment(reason, salt),
        time=clock.rfc3339(now),
    )
    key = keys.load_signing(home.key("signing.key"))
    envelope = sign(words.to_bytes(), kind, key, signing_chain(home)[0])
    acts.note(home, canonical.digest(envelope))
    folder = home.path / (_WITHDRAWALS if kind == WITHDRAWAL_TYPE else _RESTORATIONS)
    opening = {"reason": reason, "salt": salt.hex(), "order": canonical.digest(envelope)}
    write_atomic(folder / f"{blueprint}{_OPENING}", canonical.encode(opening), mode=0o600)
    write_atomic(folder / f"{blueprint}.dsse.json", envelope, mode=0o600)
    return envelope


@dataclass(frozen=True, slots=True, kw_only=True)
class Unexplained:
    """Orders whose words and salt were erased; the signed orders and their commitments stand."""

    blueprint: str
    reasons_erased: int


def erase_words(home: Home, prefix: str) -> Unexplained:
    """Erase the words and the salt behind this site's orders about one blueprint.

    Nobody can show or test the words any more; order, log entry and receipts stay as they are.

    Raises:
        KitError: there is no order about such a blueprint here, or about several.
    """
    found = [
        path
        for folder in (_WITHDRAWALS, _RESTORATIONS)
        for path in sorted((home.path / folder).glob(f"*{_OPENING}"))
        if path.name.startswith(prefix)
    ]
    about = {path.name.removesuffix(_OPENING) for path in found}
    if len(about) != 1:
        raise KitError(
            f"`{canonical.printable(prefix)}` names {len(about)} blueprints with an order here",
            hint="give more digits of the blueprint; `edge-agent status` shows them",
        )
    erased = 0
    for path in found:
        table = canonical.decode(home.read(path, "reason"))
        if not table["salt"]:
            continue
        with os_errors(path), path.open("r+b") as stream:  # the old bytes, not only the old name
            stream.write(bytes(path.stat().st_size))
            stream.flush()
            os.fsync(stream.fileno())
        write_atomic(path, canonical.encode(table | {"reason": "", "salt": ""}), mode=0o600)
        erased += 1
    return Unexplained(blueprint=about.pop(), reasons_erased=erased)
