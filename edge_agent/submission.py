"""From a finished run to a blueprint at the coordinator: inspect, seal once, send, go on.

Invariants:

- What `inspect` shows is made by the same function that `submit` seals.
- A run is sealed once per study; the sealed copy in the outbox is what every retry sends. Where it
  no longer holds, the run, or this site's own copy of it, is sealed anew: that costs no epsilon.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509

from edge_agent import (
    acts,
    bases,
    contact,
    copies,
    outbound,
    outbox,
    repository,
    reviewers,
    shipments,
)
from edge_agent.adapting import records
from edge_agent.errors import BusyError, TrustError, UnreachableError
from edge_agent.exchange import Exchange, patiently
from edge_agent.home import Home
from edge_agent.messages import Announcement
from edge_agent.outbox import CIPHERTEXT, ENVELOPE, RUN, WRAPPED
from edge_agent.outgoing import Outgoing, is_finished, of_run
from edge_agent.training.folder import GATE
from edge_agent.trust import StatusNews, check_status, open_delegation, open_recipient_key
from federation.blueprint.envelope import Claims, Seal, seal_stream
from federation.blueprint.statement import (
    SUITE,
    VERSION,
    Context,
)
from federation.blueprint.statement import WEIGHTS as PAYLOAD_WEIGHTS
from federation.repository import roles
from federation.study import RecipientKey, Study
from kit import clock
from kit.errors import KitError
from kit.files import (
    os_errors,
    private_folder,
    read_limited,
    replacing,
    sha256_file,
    write_atomic,
)
from kit.flushing import flushed
from pki import certificates, kem, keys

_SEALING = ".sealing"  # the folder of what is not sealed to its end
_MAX_PEM_BYTES = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """Where a submission stands."""

    blueprint: str
    study: str
    state: str
    reason: str
    bytes_sent: int
    payload_bytes: int


def outgoing(home: Home, run: str) -> Outgoing:
    """Gather what would leave for a finished run, from its folder or from this site's own copy.

    Raises:
        KitError: there is no finished run of this name, and no copy of what was sent of it.
    """
    if records.exists(home, run):
        raise KitError(
            f"`{run}` is a model that this site adapted: it holds its patients without privacy, and"
            " never leaves",
            hint="name a run of `edge-agent train`; those are what is submitted",
        )
    if not is_finished(home, run):
        kept = copies.find(home, run)
        if kept is not None:
            return kept
    return of_run(home, run)


def submit(
    home: Home,
    run: str,
    *,
    now: datetime,
    sent: Callable[[int, int], None],
    tell: Callable[[str], None] = lambda _: None,
) -> Submitted:
    """Seal a run (once) and bring it to the coordinator; goes on where it was cut off.

    While the coordinator has no place for it, it waits as long as it is told to, and says so.

    Raises:
        KitError: the run is not finished, its gate failed, or the coordinator refuses.
        TrustError: the coordinator contradicts what it proved before.
    """
    item = cleared(home, run)
    outbound.require(home, item.study, waiting(home, run))  # before anything is said to anybody
    with copies.put_away(home), Exchange.open(home) as exchange:
        contact.contact(home, exchange)
        folder = sealed(home, run, item, now)
        for finding in reviewers.found(home, item.study) or []:
            tell(f"{finding.line}; `{outbound.POLICY}` may ask for more")
        return patiently(lambda: _send(home, exchange, item.study, folder, sent), tell=tell)


def cleared(home: Home, run: str) -> Outgoing:
    """Return what would leave for a finished run, if it may leave at all.

    Raises:
        KitError: the run is not finished, or its gate failed.
    """
    item = outgoing(home, run)
    bases.require_in_use(home, item.base)
    if item.privacy.gaussian is not None and not item.gate.passed:
        raise KitError(
            f"the gate of run `{run}` did not pass; nothing leaves",
            hint=f"see `{home.run(run) / GATE}`; train another --run, with more images",
        )
    return item


def sealed(home: Home, run: str, item: Outgoing, now: datetime) -> Path:
    """Return the folder of a run's sealed blueprint, sealed now unless one in the outbox holds.

    It is sealed to the key of the newest contact; which carriage takes it is not settled here.

    Raises:
        KitError: the study is closed, so this site has no key to seal to; or it names a reviewer
            whom this site must not trust.
    """
    reviewers.require(home, item.study)
    path = home.study_file(item.study.id, "recipient")
    if not path.is_file():
        raise KitError(
            f"study `{item.study.id}` is closed: it takes no more blueprints",
            hint="`edge-agent status` shows what this site has in it",
        )
    key = recipient_key(home, item.study, now)
    kid = kem.key_id(key.public)
    signing = signing_chain(home)
    folder = waiting(home, run)
    if folder is not None:
        statement = outbox.statement(folder)
        is_alive = clock.parse_rfc3339(statement.expires) > now
        is_own = statement.context.sender_cert == certificates.fingerprint(signing[0])
        is_same = statement.file(PAYLOAD_WEIGHTS).sha256 == sha256_file(item.weights)
        if is_alive and is_own and is_same and statement.context.kid == kid:
            return folder
        outbox.remove(folder)
    unfinished = private_folder(home.outbox / _SEALING)
    with replacing(unfinished / CIPHERTEXT, mode=0o600) as part:
        made = _seal(home, item, key, part, now)
    acts.note(home, made.statement.digest)
    write_atomic(unfinished / WRAPPED, made.wrapped_key, mode=0o600)
    write_atomic(unfinished / ENVELOPE, made.envelope, mode=0o600)
    folder = unfinished.rename(home.outbox / made.statement.digest)
    copies.keep(home, run, folder, made.content_key)
    shipments.record(home, run, made.statement)
    write_atomic(folder / RUN, run.encode(), mode=0o600)  # last: only now does a retry find it
    return folder


def recipient_key(home: Home, study: Study, now: datetime) -> RecipientKey:
    """Return the key of the newest contact that a blueprint for `study` is sealed to.

    Raises:
        KitError: it does not hold, or whoever signed it may do so no more (A16).
        RepositoryError: the repository does not list study and key, or is out of date.
    """
    path = home.study_file(study.id, "delegation")
    signed = home.read(path, "delegation") if path.is_file() else b""
    delegation = open_delegation(signed, home.pins, study)
    if delegation is not None:
        delegation.check_time(study, now)
    envelope = home.read(home.study_file(study.id, "recipient"), "recipient key")
    found = open_recipient_key(envelope, home.pins, study, home.config.site, delegation=delegation)
    listed = {
        roles.study(study.digest): home.read(home.study_file(study.id, "manifest"), "study"),
        roles.recipient(study.digest, kem.key_id(found.public)): envelope,
    }
    repository.require_current(home, listed, now=now)
    return found


def waiting(home: Home, run: str) -> Path | None:
    """Return the folder of a run's sealed blueprint, whether or not it still holds."""
    for folder in home.outbox.iterdir():
        if (folder / RUN).is_file() and (folder / RUN).read_text() == run:
            return folder
    return None


def _seal(home: Home, item: Outgoing, recipient: RecipientKey, target: Path, now: datetime) -> Seal:
    signing = signing_chain(home)
    context = Context(
        version=VERSION,
        suite=SUITE,
        sender=home.identity.uri,
        sender_cert=certificates.fingerprint(signing[0]),
        recipient=home.coordinator.uri,
        kid=kem.key_id(recipient.public),
        study_digest=item.study.digest,
        round=item.study.round,
        base=item.base,
        seq=home.next_number("sequence", now),
        id=f"b-{secrets.token_hex(16)}",
    )
    claims = Claims(outputs=item.outputs, privacy=item.privacy, gate=item.gate, issued=now)
    key = keys.load_signing(home.key("signing.key"))
    with os_errors(target), item.weights.open("rb") as source, flushed(target) as sink:
        return seal_stream(
            source, sink, item.architecture, context, claims, recipient=recipient.public, key=key
        )


def _send(
    home: Home,
    exchange: Exchange,
    study: Study,
    folder: Path,
    sent: Callable[[int, int], None],
) -> Submitted:
    statement, path = outbox.statement(folder), folder / CIPHERTEXT
    total = path.stat().st_size
    request = announcement(home, study, folder)
    try:
        reply = exchange.begin(request)
    except (UnreachableError, BusyError):
        raise
    except KitError:
        outbox.remove(folder)  # the coordinator keeps nothing of it; the next try is sealed anew
        raise
    start = reply.durable
    if reply.status.state == "receiving":
        with path.open("rb") as stream:
            reply = exchange.upload(
                statement.digest, stream, offset=start, sent=lambda done: sent(done, total)
            )
    if reply.status.state == "receiving":
        raise KitError("the upload is not complete", hint="run the same command again: it goes on")
    _check_and_keep(home, reply.status, digest=statement.digest)
    return Submitted(
        blueprint=statement.digest,
        study=study.id,
        state=reply.status.state,
        reason=reply.status.reason,
        bytes_sent=total - start,
        payload_bytes=total,
    )


def announcement(home: Home, study: Study, folder: Path) -> Announcement:
    """Return what goes before the payload of a sealed blueprint; every carriage starts with it.

    Raises:
        KitError: a second person's word is wanted, and not there.
    """
    approval, officer = outbound.papers(home, study, folder)
    return Announcement(
        study_digest=study.digest,
        envelope=home.read(folder / ENVELOPE, "statement"),
        signing_chain=home.read(home.signing_chain, "certificate"),
        wrapped_key=home.read(folder / WRAPPED, "wrapped key"),
        outbound=approval,
        officer=officer,
    )


def _check_and_keep(home: Home, status: StatusNews, *, digest: str) -> None:
    """Believe a reply only as far as its log entries go, and only about what was sent."""
    if status.digest != digest:
        raise TrustError("the coordinator answers about another blueprint than the one sent")
    for entry in check_status(status, home.pins, checkpoint=None):
        contact.keep_entry(home, entry)


def signing_chain(home: Home) -> tuple[x509.Certificate, ...]:
    """Return this site's document-signing chain."""
    return certificates.from_pem(
        read_limited(home.signing_chain, limit=_MAX_PEM_BYTES, what="certificate")
    )
