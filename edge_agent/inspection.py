"""What people at the site look at: what would leave, where things stand, how good a release is."""

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_agent import alarms as own_name
from edge_agent import (
    at_work,
    contact,
    copies,
    freshness,
    installed,
    outbound,
    outbox,
    renewal,
    reporting,
    rollout,
    submission,
    trust,
    withdrawal,
    witness,
)
from edge_agent.adapting import models
from edge_agent.exchange import Exchange
from edge_agent.gate import verdict
from edge_agent.home import Home
from edge_agent.pending import Pending, pending
from edge_agent.submission import outgoing, signing_chain
from federation.auditlog.checkpoint import Receipt
from federation.auditlog.events import Event
from federation.blueprint.statement import CIPHERTEXT, WEIGHTS, WRAPPED_KEY
from federation.release import onnx_lint
from federation.study import SyntheticSets
from kit import canonical, clock, door
from kit.door import note
from kit.errors import KitError
from kit.files import read_limited, sha256_file, write_atomic
from pki import certificates, lifetimes

if TYPE_CHECKING:
    from edge_agent.datasets.load import ImageSet

_MAX_PEM_BYTES = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """Exactly what `submit` would send, and nothing else that it could send.

    `statement` names what is sealed already, whose fields these then are; None before that.
    """

    study: str
    statement: str | None
    outbound_approval: str
    recipient: str
    sender: str
    outputs: tuple[str, ...]
    architecture: dict[str, Any]
    base: str | None
    weights_bytes: int
    weights_sha256: str
    privacy: str
    mechanism: dict[str, Any] | None
    gate_passed: bool
    gate: str
    ledger_head: str
    ledger_counter: int
    files: tuple[str, ...]
    other_sites_get: str
    never_leaves: str

    def to_text(self) -> str:
        """Return it for people; of the gate only that none of its tests failed leaves."""
        table = door.to_table(self)
        del table["gate_passed"]
        return door.plain(table)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where this site stands with its coordinator."""

    site: str
    federation: str
    tls_certificate_expires: str
    signing_certificate_expires: str
    warnings: tuple[str, ...]
    unexplained: tuple[str, ...]
    log_size: int
    log_cosigned: str
    log_recoveries: int
    studies: tuple[dict[str, Any], ...]
    blueprints: tuple[dict[str, Any], ...]
    releases: tuple[dict[str, Any], ...]
    adapted: tuple[models.Listed, ...]
    erasures: tuple[Pending, ...]
    alarms: tuple[str, ...]

    def to_text(self) -> str:
        """Return it for people: a line each, in tables where there are several of a kind."""
        table = door.to_table(self)
        table["studies"] = [
            ("study", "state", "classes"),
            *(
                (s["id"], "open" if s["open"] else "closed", ",".join(s["classes"]))
                for s in self.studies
            ),
        ]
        table["blueprints"] = [
            ("blueprint", "study", "state", "receipts", "reason"),
            *(
                (b["digest"][:16], b["study"], b["state"], str(b["receipts"]), b["reason"] or "-")
                for b in self.blueprints
            ),
        ]
        table["releases"] = [
            ("release", "study", "role", "state", "published", "labels"),
            *(
                (
                    *(r["digest"][:16], r["study"], r["role"], r["state"], r["published"]),
                    ",".join(r["labels"]) + ("; personal data" if r["personal_data"] else ""),
                )
                for r in self.releases
            ),
        ]
        rows = [
            (a.name, a.study, a.release[:16], a.created, a.unusable or "usable")
            for a in self.adapted
        ]
        head = ("adapted model", "study", "release", "created", "now")
        table["adapted"] = [head, *rows] if rows else None
        table["erasures"] = [
            ("requested", "patients", "study", "blueprint", "waits for"),
            *(
                (
                    *(e.requested, str(e.patients), e.study or "-", e.blueprint[:16] or "-"),
                    e.waits_for,
                )
                for e in self.erasures
            ),
        ]
        return door.sections(table)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptAudit:
    """What `audit verify` checked."""

    receipts: int
    log_size: int
    log_root: str
    consistent: bool | None
    cosigned: str
    receipts_cosigned: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptShown:
    """What one receipt proves."""

    entry: int
    event: str
    subject: str
    time: str
    actor: str
    log_size: int
    log_root: str
    cosigned: str


def inspect(home: Home, run: str, *, now: datetime) -> Leaving:
    """Return what would leave for a finished run.

    Where a second person has to sign, the run is sealed here (once), so that what is shown is what
    the signature will be over.

    Raises:
        KitError: there is no such finished run.
    """
    with copies.put_away(home):
        return _leaving(home, run, now)


def _leaving(home: Home, run: str, now: datetime) -> Leaving:
    item, sealed = outgoing(home, run), None
    wanted = outbound.is_required(home, item.study)
    may_leave = item.gate.passed or item.privacy.gaussian is None
    if wanted and may_leave and home.study_file(item.study.id, "recipient").is_file():
        folder = submission.sealed(home, run, item, now)
        sealed = outbox.statement(folder)
    privacy = item.privacy if sealed is None else sealed.privacy
    words = "contains personal data: trained without differential privacy"
    if privacy.gaussian is not None:
        words = (
            f"differentially private if this code ran unmodified with secret noise:"
            f" ({privacy.gaussian.epsilon:.3g}, {privacy.gaussian.delta:g}) per {privacy.unit}"
        )
    approval = "not asked for"
    if wanted:
        name = outbound.signed_by(home, item.study, folder) if sealed is not None else None
        approval = f"signed by {name}" if name else "waits for an officer's signature"
    passed = (item if sealed is None else sealed).gate.passed
    return Leaving(
        study=item.study.id,
        statement=sealed.digest if sealed is not None else None,
        outbound_approval=approval,
        recipient=home.coordinator.uri,
        sender=home.identity.uri,
        outputs=item.outputs if sealed is None else sealed.outputs,
        architecture=item.architecture if sealed is None else sealed.architecture,
        base=item.base if sealed is None else sealed.context.base,
        weights_bytes=item.weights.stat().st_size,
        weights_sha256=sha256_file(item.weights),
        privacy=words,
        mechanism=None if privacy.gaussian is None else asdict(privacy.gaussian),
        gate_passed=passed,
        gate=verdict.words(home.run(run), passed=passed),
        ledger_head=privacy.ledger_head,
        ledger_counter=privacy.ledger_counter,
        other_sites_get=_OTHER_SITES_GET[item.study.sharing.synthetic_sets],
        files=("signed statement", CIPHERTEXT + f" ({WEIGHTS}, architecture.json)", WRAPPED_KEY),
        never_leaves="images, counts, patient ids, file names, gate scores, metrics, checkpoints",
    )


_OTHER_SITES_GET = {
    SyntheticSets.WITHHELD: "models trained on synthetic images of it",
    SyntheticSets.PRIVATE: "models trained on synthetic images of it, and such images themselves"
    " where every blueprint of a release has differential privacy",
    SyntheticSets.PERSONAL_DATA: "models trained on synthetic images of it, and such images"
    " themselves, which may be personal data where it has no differential privacy",
}


def sign_outbound(home: Home, run: str, key_file: Path, typed: str, *, now: datetime) -> str:
    """Give an officer's word that what `inspect` showed may leave; returns the officer's name.

    Raises:
        KitError: nothing is sealed, other digits were typed, or the key is no officer's.
    """
    folder = submission.waiting(home, run)
    if folder is None:
        raise KitError("nothing is sealed for this run", hint="run `edge-agent inspect` first")
    with copies.put_away(home):
        study = outgoing(home, run).study
    return outbound.sign(home, study, folder, key_file, typed, now)


def status(home: Home, *, now: datetime) -> Standing:
    """Contact the coordinator and say where things stand.

    Raises:
        KitError: it cannot be reached, refuses, or contradicts what it proved.
    """
    with Exchange.open(home) as exchange:
        world = contact.contact(home, exchange)
    return standing(home, world, now=now)


def standing(home: Home, world: trust.World, *, now: datetime) -> Standing:
    """Say where things stand after a contact."""
    newest = _newest(world)
    names = {offer.study.digest: offer.study.id for offer in world.studies}
    chain = read_limited(home.tls_chain, limit=_MAX_PEM_BYTES, what="certificate")
    return Standing(
        site=home.config.site,
        federation=home.config.federation,
        tls_certificate_expires=_expiry(certificates.from_pem(chain)[0]),
        signing_certificate_expires=_expiry(signing_chain(home)[0]),
        warnings=(
            *(w.line for w in lifetimes.warnings(renewal.lifetimes_of(home), now=now)),
            *expired(home, now=now),
            *freshness.warnings(home, now=now),
        ),
        unexplained=tuple(a.line for a in own_name.kept(home) if not a.acknowledged),
        log_size=world.trust.size,
        log_recoveries=len(world.log.history.epochs),
        log_cosigned=witness.standing(world.log, world.vouchings, contact.witness_key(home)),
        studies=tuple(
            {"id": o.study.id, "open": o.open, "classes": list(o.study.classes)}
            for o in world.studies
        ),
        blueprints=tuple(
            {
                "digest": s.digest,
                "study": names.get(s.study_digest, s.study_digest),
                "state": s.state,
                "reason": canonical.printable(s.reason, width=300),
                "receipts": len(s.entries),
            }
            for s in world.blueprints
        ),
        releases=tuple(
            {
                "digest": r.release.digest,
                "study": r.release.study,
                "role": str(r.release.model.role),
                "labels": list(r.release.labels),
                "published": Event.from_leaf(r.published.leaf).time,
                "state": _state_of(r, newest),
                "withdrawn": r.withdrawn,
                "personal_data": r.release.personal_data,
            }
            for r in world.releases
        ),
        adapted=tuple(models.listing(home, now=now)),
        erasures=pending(home, world),
        alarms=tuple(
            contact.alarm_words(alarm, world) for alarm in contact.alarms(world.log, now=now)
        ),
    )


def expired(home: Home, *, now: datetime) -> tuple[str, ...]:
    """Say which sealed blueprints were never finished in their time, and what became of them."""
    known, lines = withdrawal.arrived(home), []
    for folder in sorted(home.outbox.iterdir()):
        if folder.name in known or not (folder / outbox.RUN).is_file():
            continue
        statement, run = outbox.statement(folder), (folder / outbox.RUN).read_text()
        if clock.parse_rfc3339(statement.expires) <= now:
            lines.append(
                f"blueprint `{folder.name[:16]}` was not sent whole before it expired at"
                f" {statement.expires}: the coordinator shreds what it has of it; `edge-agent"
                f" submit {run}` seals the run again, for no epsilon"
            )
    return tuple(lines)


def _newest(world: trust.World) -> set[str]:
    """Return the newest release and base of each study that is not withdrawn: what is fetched."""
    found: dict[tuple[str, bool], tuple[int, str]] = {}
    for offer in world.releases:
        if not offer.withdrawn:
            key = (offer.release.study_digest, offer.release.is_base)
            index = Receipt.from_text(offer.published.receipt).index
            found[key] = max(found.get(key, (-1, "")), (index, offer.release.digest))
    return {digest for _, digest in found.values()}


def _state_of(offer: trust.OfferedRelease, newest: set[str]) -> str:
    if offer.withdrawn:
        return "withdrawn"
    return "newest" if offer.release.digest in newest else "older"


def evaluate(
    home: Home,
    study_name: str,
    data: Path,
    probabilities: Path | None,
    *,
    prefix: str = "",
    adapted: str = "",
    send: bool = False,
    now: datetime,
) -> tuple[dict[str, Any], "ImageSet"]:
    """Return a release's metrics on labelled images, and the images; both stay here.

    It is the one whose digest begins with `prefix`, or the one that was fetched last; or the model
    that this site adapted under the name `adapted`. With `send`, what the study takes of the
    figures is rounded, signed and sent, and stands in the result.

    Raises:
        KitError: no usable release, no labelled images, or nothing may be sent.
    """
    from edge_agent import inference
    from edge_agent.datasets.load import load_images

    study = home.study(study_name)
    if send:
        reporting.require_allowed(study, adapted=adapted)
    if adapted:
        chosen = at_work.chosen(home, study_name, release=prefix, adapted=adapted, now=now)
        model, release = chosen.model, chosen.release
    else:
        digest = rollout.find(home, study, prefix) if prefix else None
        found = installed.load(home, study_name, now=now, digest=digest)
        model, release = rollout.opened(home, study_name, found), found.release.digest
    images = load_images(data, study.image, study.classes)
    result = inference.evaluate(model, images)
    if probabilities is not None:
        rows = {
            "labels": list(model.labels),
            "truth": list(images.labels or ()),
            "probabilities": result.probabilities.tolist(),
        }
        write_atomic(probabilities, json.dumps(rows).encode(), mode=0o600)
    if not adapted:
        rollout.note_evaluation(home, release, now=now)
    table = {
        "release": release,
        **({"adapted": model.digest} if adapted else {}),
        "notice": onnx_lint.NOTICE,
        "unknown_labels": list(result.unknown),
        **result.metrics.to_table(),
    }
    if send:
        report = reporting.earlier(home, release)
        if report is None:
            report = reporting.rounded(study, release, result.metrics, result.labels, now=now)
        table["sent"] = door.to_table(reporting.send(home, report))
    return table, images


def require_all_read(images: "ImageSet") -> None:
    """Say which images were left out, once the result for the others is given.

    Raises:
        KitError: an image could not be read; the exit status is 0 only if all of it was done.
    """
    for refusal in images.refused:
        note(f"left out: {canonical.printable(refusal.file)}: {refusal.reason}")
    if images.refused:
        raise KitError(f"{len(images.refused)} images could not be read; the result is of the rest")


def audit(home: Home, *, offline: bool) -> ReceiptAudit:
    """Verify every receipt kept here; unless offline, also that the log still contains them.

    Raises:
        KitError: a receipt does not hold, or the coordinator's log contradicts this site's.
    """
    consistent = None
    if not offline:
        with Exchange.open(home) as exchange:
            contact.contact(home, exchange)
        consistent = True
    known, view = contact.held(home).trust, contact.log_view(home)
    entries = [_prove(home, view, entry) for _, entry in contact.receipts(home)]
    return ReceiptAudit(
        receipts=len(entries),
        log_size=known.size if known else 0,
        log_root=known.root if known else "",
        consistent=consistent,
        cosigned=str(witness.cosigned(known.checkpoint, view)) if known else "",
        receipts_cosigned=sum(1 for shown in entries if shown.startswith("cosigned by")),
    )


def _prove(home: Home, view: witness.LogView, entry: trust.Entry) -> str:
    trust.check_entry(entry, home.pins, subject=Event.from_leaf(entry.leaf).subject)
    return str(witness.cosigned(Receipt.from_text(entry.receipt).checkpoint, view))


def audit_receipt(home: Home, path: Path) -> ReceiptShown:
    """Verify one receipt with nothing but this home: no network, no coordinator.

    The leaf lies beside it, under the same name with `.leaf.json` for `.tlog-proof`. Whose
    cosignatures count is what the log copy of this home says.

    Raises:
        KitError: the receipt proves nothing, or not this leaf.
    """
    leaf_path = path.with_name(path.name.removesuffix(".tlog-proof") + ".leaf.json")
    entry = trust.Entry(
        leaf=home.read(leaf_path, "log entry"), receipt=home.read(path, "receipt").decode()
    )
    event = Event.from_leaf(entry.leaf)
    words = _prove(home, contact.log_view(home), entry)
    receipt = Receipt.from_text(entry.receipt)
    pins = home.pins
    head = receipt.verify(entry.leaf, origin=pins.log_origin, key=pins.log_key)
    return ReceiptShown(
        entry=receipt.index,
        event=event.kind,
        subject=event.subject,
        time=event.time,
        actor=event.actor,
        log_size=head.size,
        log_root=head.root.hex(),
        cosigned=words,
    )


def rebuild_warning(home: Home) -> str:
    """Return what a person has to know before the trust state is rebuilt.

    Raises:
        KitError: a receipt does not hold, or nothing is lost.
    """
    marks = contact.held_without_trust(home).milestones
    newest = max((mark.size for mark in marks), default=0)
    return (
        f"{len(marks)} checkpoints of up to {newest} entries are held here; the log must contain"
        " them all. What this site saw after that is not proved any more: if another log was shown"
        " to it since, nobody will notice"
    )


def rebuild(home: Home) -> ReceiptAudit:
    """Make the trust state again from what receipts prove and the coordinator shows.

    Raises:
        TrustError: the log does not contain what a receipt proves.
        KitError: the trust state is not lost, or the coordinator cannot be reached.
    """
    with Exchange.open(home) as exchange:
        contact.contact(home, exchange, before=contact.held_without_trust(home))
    return audit(home, offline=True)


def _expiry(certificate: Any) -> str:
    return clock.rfc3339(certificate.not_valid_after_utc)
