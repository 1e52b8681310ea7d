"""Taking back what this site sent: a study's blueprint, or everything that one patient is in.

Nothing here asks the privacy budget: erasure never waits for it. What leaves is a signed order with
the blueprint's digest and a salted commitment to the reason; who the patient is stays here.
"""

import os
from dataclasses import asdict, dataclass
from datetime import datetime

from edge_agent import acts, contact, copies, outbox, runs, shipments
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
from kit.files import write_atomic
from pki import certificates, keys

IN_PLAY = ("received", "pending", "approved")
ENDED = (Kind.BLUEPRINT_REFUSED, Kind.BLUEPRINT_REJECTED, Kind.BLUEPRINT_REVOKED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """What `withdraw --patient` found and did; the patient is not named in it.

    Attributes:
        patient: the pseudonym under which this site's ledger knows the patient.
        ledger_runs: the runs, by their ids in the ledger, that the patient took part in.
        withdrawn: the blueprints taken back now.
        withdrawn_before: those of these runs that had ended already.
        cannot_tell: blueprints in play of which this home does not know the run.
        local_runs: run folders here whose weights the patient is in; deleting them is by hand.
    """

    patient: str
    ledger_runs: tuple[str, ...]
    withdrawn: tuple[str, ...]
    withdrawn_before: tuple[str, ...]
    cannot_tell: tuple[str, ...]
    local_runs: tuple[str, ...]


def withdraw(home: Home, study_name: str, *, reason: str, now: datetime) -> StatusNews:
    """Take this site's blueprint in a study back, on the word of its signing key (A3).

    Raises:
        KitError: this site has no blueprint in that study, or the coordinator refuses.
    """
    with Exchange.open(home) as exchange:
        world = contact.contact(home, exchange)
        study = home.study(study_name)
        own = [s for s in _in_play(world) if s.study_digest == study.digest]
        if not own:
            raise KitError(f"this site has nothing to withdraw in study `{study_name}`")
        _order(home, exchange, own[-1], reason, now)
        after = contact.contact(home, exchange)  # what counts is what the log now says
        return next(s for s in after.blueprints if s.digest == own[-1].digest)


def undo(home: Home, study_name: str, *, reason: str, now: datetime) -> StatusNews:
    """Undo this site's own withdrawal in a study, on the word of its signing key, within the grace.

    Raises:
        KitError: nothing of this site's is revoked there, or the coordinator refuses.
    """
    with Exchange.open(home) as exchange:
        world = contact.contact(home, exchange)
        study = home.study(study_name)
        ended = [
            s for s in world.blueprints if s.study_digest == study.digest and s.state == "revoked"
        ]
        if not ended:
            raise KitError(f"nothing of this site is revoked in study `{study_name}`")
        _order(home, exchange, ended[-1], reason, now, kind=RESTORATION_TYPE)
        after = contact.contact(home, exchange)
        return next(s for s in after.blueprints if s.digest == ended[-1].digest)


def withdraw_patient(home: Home, patient: str, *, reason: str, now: datetime) -> Erasure:
    """Take back every blueprint whose training one patient took part in, in every study.

    `patient` is the id that the patient map (or the image's digest) gave to `train`.

    Raises:
        KitError: the ledger knows no run with this patient, or the coordinator refuses.
    """
    with runs.open_ledger(home) as ledger:
        pseudonym, affected = ledger.runs_with(patient)
    if not affected:
        raise KitError(
            "this patient took part in no run of this home's ledger; nothing was withdrawn",
            hint="give the id exactly as `patients.csv` has it; another home has another ledger",
        )
    blueprints = {item.blueprint for item in shipments.known(home) if item.run_id in affected}
    _stop_what_was_not_received(home, blueprints)
    with Exchange.open(home) as exchange:
        world = contact.contact(home, exchange)
        mine = [s for s in _in_play(world) if s.digest in blueprints]
        for status in mine:
            _order(home, exchange, status, reason, now)
        if mine:
            world = contact.contact(home, exchange)
    ended = {s.digest for s in world.blueprints if s.state not in IN_PLAY} & blueprints
    known = {item.blueprint for item in shipments.known(home) if item.run_id}
    found = Erasure(
        patient=pseudonym,
        ledger_runs=tuple(sorted(affected)),
        withdrawn=tuple(s.digest for s in mine),
        withdrawn_before=tuple(sorted(ended - {s.digest for s in mine})),
        cannot_tell=tuple(s.digest for s in _in_play(world) if s.digest not in known),
        local_runs=_local_runs(home, affected),
    )
    _record(home, found, now)
    return found


def own_blueprint(home: Home, study: Study) -> str:
    """Return the digest of this site's blueprint in a study, from what is kept here.

    The newest one in the log, by this site's receipts; else the one in the outbox, which may have
    arrived without an answer.

    Raises:
        KitError: there is none.
    """
    arrived: dict[str, int] = {}
    ended = set()
    for _, entry in contact.receipts(home):
        event = Event.from_leaf(entry.leaf)
        if event.kind is Kind.BLUEPRINT_RECEIVED and event.details.get("study") == study.digest:
            arrived[event.subject] = Receipt.from_text(entry.receipt).index
        if event.kind in ENDED:
            ended.add(event.subject)
        elif event.kind is Kind.BLUEPRINT_RESTORED:
            ended.discard(event.subject)
    alive = [digest for digest in arrived if digest not in ended]
    if alive:
        return max(alive, key=lambda digest: arrived[digest])
    for folder in home.outbox.iterdir():
        is_sealed = folder.name not in ended and (folder / outbox.RUN).is_file()
        if is_sealed and outbox.statement(folder).context.study_digest == study.digest:
            return folder.name
    raise KitError(f"this site has nothing to withdraw in study `{study.id}`")


def _in_play(world: World) -> list[StatusNews]:
    return [s for s in world.blueprints if s.state in IN_PLAY]


def _order(
    home: Home,
    exchange: Exchange,
    status: StatusNews,
    reason: str,
    now: datetime,
    *,
    kind: str = WITHDRAWAL_TYPE,
) -> None:
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
    order = Withdrawal(
        blueprint=blueprint,
        study_digest=study_digest,
        reason_commitment=approval.commitment(reason, salt),
        time=clock.rfc3339(now),
    )
    key = keys.load_signing(home.key("signing.key"))
    envelope = sign(order.to_bytes(), kind, key, signing_chain(home)[0])
    acts.note(home, canonical.digest(envelope))
    folder = home.path / ("withdrawals" if kind == WITHDRAWAL_TYPE else "restorations")
    opening = {"reason": reason, "salt": salt.hex(), "order": canonical.digest(envelope)}
    write_atomic(folder / f"{blueprint}.reason.json", canonical.encode(opening), mode=0o600)
    write_atomic(folder / f"{blueprint}.dsse.json", envelope, mode=0o600)
    return envelope


def _stop_what_was_not_received(home: Home, blueprints: set[str]) -> None:
    """Keep what still waits here from being sent, even if the coordinator cannot be reached."""
    for digest in blueprints:
        folder = home.outbox / digest
        if folder.is_dir():
            outbox.remove(folder)
        copies.destroy(home, digest)


def _local_runs(home: Home, affected: frozenset[str]) -> tuple[str, ...]:
    folders = (home.path / "runs").glob(f"*/{runs.RUN}")
    return tuple(
        sorted(path.parent.name for path in folders if runs.read_json(path)["id"] in affected)
    )


def _record(home: Home, found: Erasure, now: datetime) -> None:
    """Keep what an erasure did, under the patient's pseudonym."""
    table = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(found).items()}
    table["time"] = clock.rfc3339(now)
    name = f"erasure-{found.patient[:16]}-{int(now.timestamp())}.json"
    write_atomic(home.path / "withdrawals" / name, canonical.encode(table), mode=0o600)
