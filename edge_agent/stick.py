"""The way out and back by stick: files instead of calls, believed by the same rules.

Invariants:

- What comes is signed by the coordinator for this very site, and goes through `contact.take`.
- A file made before the newest time that this site knows is refused: it could hide a withdrawal.
- Past its time a file still brings bad news (a withdrawal, a revocation), but installs nothing.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from google.protobuf.message import DecodeError

from edge_agent import (
    bases,
    bringing,
    contact,
    erasure,
    installed,
    messages,
    outbound,
    outbox,
    renewal,
    shipments,
    submission,
    trust,
    withdrawal,
)
from edge_agent.batches import Batch
from edge_agent.enrolment import Enrolled, Request, settle
from edge_agent.erasure import Erasure
from edge_agent.errors import TrustError
from edge_agent.exchange import Source
from edge_agent.home import Home
from edge_agent.messages import EnrolReply
from edge_agent.renewal import Brought
from edge_agent.trust import News, Trust, World
from federation import dsse
from federation.auditlog import merkle
from federation.release.statement import RESTORATION_TYPE, WITHDRAWAL_TYPE, sign
from federation.stick import index as rules
from federation.stick import medium
from federation.stick.index import Index, Kind
from federation.stick.medium import Content, Stick
from kit import canonical, clock
from kit.errors import FormatError, KitError
from kit.files import write_atomic
from pki import certificates, enrolment, keys
from pki.crl import RevocationLists
from pki.enrolment import Pins
from protos import exchange_pb2 as pb

VALID_DAYS = 30  # as a statement: what waits longer is written again
_FILE = "stick.json"  # what the newest file from the coordinator said of its own time


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A file that is ready to be carried to the coordinator."""

    file: str
    bytes: int
    import_until: str
    carries: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request for enrolment, and the code to read out to the coordinator's operator."""

    code: str
    written: Written


@dataclass(frozen=True, slots=True, kw_only=True)
class Freshness:
    """When the newest file from the coordinator was made, and until when it may be relied on."""

    issued: datetime
    expires: datetime


def write_enrolment(request: Request, path: Path, *, now: datetime) -> Written:
    """Write an enrolment's request: signed by the token's key, so that the secret stays here.

    Raises:
        KitError: the token has expired, or the file cannot be written.
    """
    token = request.token
    if token.expires <= now:
        raise KitError("the token has expired", hint="ask the coordinator for a new one")
    key = enrolment.token_key(token.secret)
    public = keys.public_bytes(key)
    contents: dict[str, Content] = {
        rules.TOKEN_KEY: public,
        rules.TLS_REQUEST: request.tls_request,
        rules.SIGNING_REQUEST: request.signing_request,
        rules.WITNESS_KEY: request.witness_key,
    }
    index = Index(
        kind=Kind.ENROLMENT_REQUEST,
        federation=token.pins.federation,
        site=token.site,
        number=1,
        issued=clock.rfc3339(now),
        expires=clock.rfc3339(token.expires),
        parts=medium.describe(contents),
    )
    keyid = canonical.digest(public)
    length = medium.save(
        path,
        index,
        contents,
        sign=lambda data: dsse.sign(data, rules.PAYLOAD_TYPE, key, keyid=keyid),
    )
    return _written(path, index, length)


def write(home: Home, path: Path, *, now: datetime, asks: Mapping[str, Content]) -> Written:
    """Write a file for the coordinator: what this site saw and vouches for, a renewal, `asks`.

    Raises:
        KitError: the file cannot be written.
    """
    chain = submission.signing_chain(home)
    known = contact.known(home)
    size = known.size if known else 0
    contents: dict[str, Content] = {
        rules.CHAIN: certificates.pem(*chain),
        rules.CONTACT: _bytes(pb.ContactRequest(known_size=size, first_leaf=size)),
    }
    line = _cosignature(home, now) if size else None
    if line is not None:
        contents[rules.COSIGN] = _bytes(pb.CosignRequest(size=size, signature=line))
    contents |= _renewals(renewal.ask_by_post(home, now), chain) | dict(asks)
    index = Index(
        kind=Kind.TO_COORDINATOR,
        federation=home.config.federation,
        site=home.config.site,
        number=home.next_number("stick-number", now),
        issued=clock.rfc3339(now),
        expires=clock.rfc3339(now + timedelta(days=VALID_DAYS)),
        parts=medium.describe(contents),
    )
    key = keys.load_signing(home.key("signing.key"))
    length = medium.save(
        path, index, contents, sign=lambda data: sign(data, rules.PAYLOAD_TYPE, key, chain[0])
    )
    return _written(path, index, length)


def _renewals(asked: renewal.Asked, chain: tuple[x509.Certificate, ...]) -> dict[str, Content]:
    contents: dict[str, Content] = {}
    if asked.tls_request is not None:
        contents[rules.RENEW] = _bytes(pb.RenewRequest(tls_request=asked.tls_request))
    if asked.signing_order is not None:
        order, present = asked.signing_order, certificates.pem(*chain)
        contents[rules.REKEY] = _bytes(pb.RekeyRequest(order=order, signing_chain=present))
    return contents


def renew(home: Home, path: Path, *, signing: Brought | None, now: datetime) -> Written:
    """Write a request for new certificates before they are due; the next key waits for the answer.

    Args:
        home: the site's.
        path: the file to write.
        signing: the signing certificate of the site's own authority, where it has one.
        now: the time.

    Raises:
        KitError: a site with an authority of its own brings none, or another site brings one.
    """
    bringing.check(home, bool(signing))
    asked = renewal.ask_by_post(home, now, early=True, brought=signing)
    return write(home, path, now=now, asks=_renewals(asked, submission.signing_chain(home)))


def submit(home: Home, run: str, path: Path, *, now: datetime) -> Written:
    """Seal a run (once) and write it for the coordinator, with the bytes that a line would carry.

    Raises:
        KitError: the run may not leave, a second person's word is wanted, or what this site knows
            of the study is too old.
    """
    item = submission.cleared(home, run)
    outbound.require(home, item.study, submission.waiting(home, run))
    fresh = freshness(home)
    if fresh is not None and now > fresh.expires:
        raise KitError(
            f"what the coordinator last said was valid until {clock.rfc3339(fresh.expires)}",
            hint="read a newer file from it first: `edge-agent status --from-file FILE`",
        )
    folder = submission.sealed(home, run, item, now)
    announcement = submission.announcement(home, item.study, folder)
    asks: dict[str, Content] = {
        rules.BEGIN: _bytes(messages.begin_request(announcement)),
        rules.CIPHERTEXT: folder / outbox.CIPHERTEXT,
    }
    return write(home, path, now=now, asks=asks)


def withdraw(home: Home, study_name: str, path: Path, *, reason: str, now: datetime) -> Written:
    """Write this site's signed word that takes its blueprint back.

    Raises:
        KitError: no blueprint of this site in that study is known here.
    """
    study = home.study(study_name)
    orders = {withdrawal.own_blueprint(home, study): study.digest}
    return write(home, path, now=now, asks=_orders(home, orders, reason=reason, now=now))


def undo(home: Home, study_name: str, path: Path, *, reason: str, now: datetime) -> Written:
    """Write this site's signed word that undoes its withdrawal, if it arrives within the grace.

    Raises:
        KitError: nothing of this site is revoked in that study, as far as is known here.
    """
    study, kind = home.study(study_name), RESTORATION_TYPE
    orders = {withdrawal.own_revoked(home, study): study.digest}
    for blueprint in orders:
        withdrawal.require_nobody_erased(home, blueprint)
    return write(home, path, now=now, asks=_orders(home, orders, reason=reason, now=now, kind=kind))


def withdraw_patients(
    home: Home, batch: Batch, path: Path, *, reason: str, now: datetime
) -> tuple[Erasure, Written | None]:
    """Erase patients here, and write the orders that take back what they are in.

    What was written for the coordinator once may still be in the post: its order goes along, and
    keeps it from being taken in. No file is written where there is nothing to order.

    Raises:
        KitError: the ledger does not open, or the file cannot be written.
    """
    begun = erasure.begin(home, batch, now=now)
    arrived, sent = withdrawal.arrived(home), shipments.known(home)
    studies = {item.blueprint: item.study for item in sent}
    ended = {a.blueprint for a in arrived.values() if a.ended is not None}
    wanted = sorted(begun.blueprints - ended, key=lambda digest: (digest not in arrived, digest))
    orders = {digest: studies[digest] for digest in wanted[: rules.MAX_ORDERS]}
    alive = [a.blueprint for a in arrived.values() if a.ended is None]
    written = None
    begun = begun.ordering(home, orders)
    if orders:
        asks = _orders(home, orders, reason=reason, now=now)
        written = write(home, path, now=now, asks=asks)
    begun = begun.ended(home, ended=ended, alive=alive + wanted[rules.MAX_ORDERS :])
    return begun.found, written


def _orders(
    home: Home,
    blueprints: Mapping[str, str],
    *,
    reason: str,
    now: datetime,
    kind: str = WITHDRAWAL_TYPE,
) -> dict[str, Content]:
    """Return one signed order per blueprint (digest -> study digest), as parts of a file."""
    chain = home.read(home.signing_chain, "certificate")
    parts: dict[str, Content] = {}
    for number, (digest, study) in enumerate(blueprints.items(), start=1):
        order = withdrawal.signed_order(home, digest, study, reason=reason, now=now, kind=kind)
        message = pb.WithdrawRequest(envelope=order, signing_chain=chain)
        parts[rules.order_name(number)] = _bytes(message)
    return parts


@contextmanager
def opened(
    path: Path,
    *,
    pins: Pins,
    site: str,
    now: datetime,
    revoked: RevocationLists | None = None,
) -> Iterator[Stick]:
    """Open a file from the coordinator for the length of a block, once it proved who made it.

    `revoked` is what this site knows of revoked certificates; nothing before it is enrolled.

    Raises:
        KitError: it is damaged, for another site, from the future, or not the coordinator's.
    """
    with medium.opened(path) as stick:
        index = stick.index
        if index.kind is not Kind.TO_SITE:
            raise FormatError(
                "the file is for the coordinator", hint="it reads it with `coordinator import`"
            )
        if (index.federation, index.site) != (pins.federation, site):
            raise TrustError("the file is for another site or federation")
        rules.check_time(index, now)
        chain = stick.read(rules.CHAIN)
        trust.open_document(stick.envelope, rules.PAYLOAD_TYPE, chain, pins, now, revoked)
        yield stick


def _opened(home: Home, path: Path, *, now: datetime) -> AbstractContextManager[Stick]:
    revoked, settings = contact.revocations(home), home.config
    return opened(path, pins=home.pins, site=settings.site, now=now, revoked=revoked)


def take(home: Home, stick: Stick, *, now: datetime) -> World:
    """Verify and keep what an open file says, as a contact's answer.

    Raises:
        TrustError: it contradicts what was proved before.
        KitError: it is older than what this site knows, or a part is off.
    """
    before = contact.held(home)
    trust.check_clock(before.trust, now)
    _check_not_older(stick.index, before.trust)
    news = _news(stick, before.trust)
    world = contact.take(home, news, before=before, now=now, by_stick=True)
    reply = certificates_in(stick)
    renewal.keep_posted(
        home,
        tls_chain=reply.tls_chain,
        signing_chain=reply.signing_chain,
        issued=clock.parse_rfc3339(stick.index.issued),
    )
    times = {"issued": stick.index.issued, "expires": stick.index.expires}
    write_atomic(home.path / "state" / _FILE, canonical.encode(times))
    return world


def visit(home: Home, path: Path, *, now: datetime) -> World:
    """Take the news from a file; installs nothing.

    Raises:
        KitError: as `opened` and `take`.
    """
    with _opened(home, path, now=now) as stick:
        return take(home, stick, now=now)


def fetch(home: Home, study_name: str, path: Path, *, now: datetime) -> installed.Fetched:
    """Take the news from a file and install the newest release of a study that it carries.

    Raises:
        KitError: as `opened` and `take`; the file is past its time; it lacks the model.
    """
    with _installing(home, path, now) as (world, models):
        return installed.install(home, study_name, world, models, got=lambda *_: None, now=now)


def fetch_base(home: Home, study_name: str, path: Path, *, now: datetime) -> bases.FetchedBase:
    """Take the news from a file and keep the newest base of a study that it carries.

    Raises:
        KitError: as `fetch`.
    """
    with _installing(home, path, now) as (world, models):
        return bases.install(home, study_name, world, models, got=lambda *_: None, now=now)


@contextmanager
def _installing(home: Home, path: Path, now: datetime) -> Iterator[tuple[World, Source]]:
    with _opened(home, path, now=now) as stick:
        world = take(home, stick, now=now)
        if rules.is_expired(stick.index, now):
            raise KitError(
                f"the file was valid until {stick.index.expires}; its news are taken, nothing is"
                " installed",
                hint="what is installed keeps serving; ask the coordinator for a newer file",
            )
        yield world, _models(stick)


def enrol(
    request: Request, to_file: Path | None, from_file: Path | None, *, now: datetime
) -> "Asked | Enrolled":
    """Write an enrolment's request, or enrol from the file that answers it.

    Raises:
        KitError: as `opened` and `take`; the token has expired; another site's certificates.
        RuntimeError: no file is given.
    """
    if to_file is not None:
        return Asked(code=request.code, written=write_enrolment(request, to_file, now=now))
    if from_file is None:
        raise RuntimeError("one of the two files has to be given")
    token = request.token
    with opened(from_file, pins=token.pins, site=token.site, now=now) as stick:
        issued = clock.parse_rfc3339(stick.index.issued)
        enrolled = settle(request, certificates_in(stick), issued=issued, now=now)
        take(Home.open(request.home.path), stick, now=now)
    return enrolled


def warnings(home: Home, now: datetime) -> list[str]:
    """Return what to say before something installed is used: it keeps serving (A17)."""
    fresh = freshness(home)
    if fresh is None or now <= fresh.expires:
        return []
    return [
        f"the newest file from the coordinator is of {clock.rfc3339(fresh.issued)}: a withdrawal"
        " since then is not known here; ask for a newer file"
    ]


def freshness(home: Home) -> Freshness | None:
    """Return how fresh the news of a site without a line are; None if none came by file."""
    path = home.path / "state" / _FILE
    if not path.is_file():
        return None
    table = canonical.fields(
        canonical.decode(home.read(path, "stick state")), {"issued", "expires"}, what="stick state"
    )
    return Freshness(
        issued=clock.parse_rfc3339(table["issued"]), expires=clock.parse_rfc3339(table["expires"])
    )


def certificates_in(stick: Stick) -> EnrolReply:
    """Return the certificates that a file brings; nothing in them is verified yet."""
    return messages.enrol_reply(_message(pb.EnrolReply, stick.read(rules.CERTIFICATES)))


def _news(stick: Stick, known: Trust | None) -> News:
    """Return the news, with the proof of growth from this site's own checkpoint on.

    The file was written without asking what this site knows, so it carries the whole log, and the
    proof is made here; a false entry leads to no root.
    """
    leaves = tuple(_message(pb.LeavesReply, stick.read(rules.LEAVES)).leaves)
    news = messages.news(_message(pb.ContactReply, stick.read(rules.CONTACT)))
    proof: list[bytes] = []
    if known is not None and 0 < known.size <= len(leaves):
        tree = merkle.Tree.of([merkle.leaf_hash(leaf) for leaf in leaves])
        proof = tree.consistency_proof(known.size)
    return replace(news, consistency=tuple(proof), first_leaf=0, leaves=leaves)


def _cosignature(home: Home, now: datetime) -> str | None:
    """Return this site's word as a witness for the log that it last verified."""
    key = keys.load_signing(home.key("witness.key"))
    return contact.log_view(home).cosign(key, at=now)


def _check_not_older(index: Index, known: Trust | None) -> None:
    if known is not None and index.issued < known.newest_time:
        raise KitError(
            f"the file was made on {index.issued}, before what this site knows already"
            f" ({known.newest_time})",
            hint="an old file could hide a withdrawal: ask the coordinator for a newer one",
        )


def _models(stick: Stick) -> Source:
    def source(digest: str, offset: int) -> Iterator[bytes]:
        for part in stick.index.parts:
            if part.is_model and part.sha256 == digest:
                return stick.chunks(part, offset)
        raise KitError(
            f"the file does not carry the model `{digest[:16]}`",
            hint="ask the coordinator to export it with this study's model",
        )

    return source


def _message(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise FormatError("a part of the file is not a message of the exchange") from error


def _bytes(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data


def _written(path: Path, index: Index, length: int) -> Written:
    return Written(
        file=str(path),
        bytes=length,
        import_until=index.expires,
        carries=tuple(part.name for part in index.parts),
    )
