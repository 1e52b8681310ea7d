"""The door for sites without a line: files in and out, over the services that gRPC stands on.

There is no channel to read an identity from. Who speaks is who signed the file: a token's key
before enrolment, the site's registered document-signing certificate after it. What a file asks for
goes through the same services as a call, so its checks, log entries and states are the same. Files
may overtake each other: of a site's orders about a blueprint the last that it signed counts.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from coordinator import (
    callers,
    enrolments,
    logbook,
    messages,
    publication,
    registry,
    rekeying,
    releases,
    requests,
    revocation,
    submissions,
)
from coordinator import contact as contacts
from coordinator.context import Coordinator
from coordinator.errors import NotAllowedError, NotFoundError, StateError
from coordinator.intake import supervisor
from coordinator.state import SERVE_LOCK
from federation import dsse
from federation.auditlog.checkpoint import Checkpoint, Receipt
from federation.release import statement as documents
from federation.release.statement import Release
from federation.stick import index as rules
from federation.stick import medium
from federation.stick.index import Index, Kind
from federation.stick.medium import Content, Stick
from kit import clock
from kit.errors import FormatError, KitError
from kit.files import exclusive
from pki import certificates, enrolment, identity, keys
from protos import exchange_pb2 as pb

# What is signed inside a file is as old as the file around it.
WORD_AGE = timedelta(days=rules.MAX_VALIDITY_DAYS)
NOT_HERE = "not here"
_RENEWED = "stick-renewal"  # per site: the number of the last file whose renewal was done
_RENEWALS = {rules.RENEW: "tls", rules.REKEY: "signing"}
_ENDED = (submissions.BlueprintState.REFUSED, submissions.BlueprintState.REJECTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What a file brought, and where its sender stands now.

    Attributes:
        orders: per blueprint that the site took back, or put back, its state now.
        renewed: which of the site's certificates were renewed, as `tls` and `signing`.
    """

    site: str
    kind: str
    site_state: str
    blueprint: str | None = None
    state: str | None = None
    reason: str | None = None
    orders: Mapping[str, str] = field(default_factory=dict)
    renewed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A file for one site; `not_vouched` are models that the site will not install as it is."""

    site: str
    file: str
    bytes: int
    log_size: int
    releases: tuple[str, ...]
    install_until: str
    not_vouched: tuple[str, ...] = ()

    def warnings(self) -> list[str]:
        """Say which of the models the site will not install yet, and how that changes (A5)."""
        return [
            f"site `{self.site}` installs {what} only once enough other sites signed a log that"
            " contains it: each does at its next contact, one without a line by `edge-agent status"
            " --from-file` of a newer export and then `--to-file`; import that, and export again"
            for what in self.not_vouched
        ]


def import_file(coordinator: Coordinator, path: Path) -> Imported:
    """Take in a file from a site; a second time it changes nothing.

    Raises:
        KitError: it is damaged, too old, not signed by a site that may act, or a service refuses.
    """
    with medium.opened(path) as stick:
        index = stick.index
        if index.federation != coordinator.config.federation:
            raise NotAllowedError("the file is for another federation")
        if index.kind is Kind.TO_SITE:
            raise FormatError(
                f"the file is for site `{index.site}`, not from it",
                hint="the hospital reads it with `edge-agent fetch --from-file`",
            )
        rules.check_time(index, coordinator.now())
        if index.kind is Kind.ENROLMENT_REQUEST:
            return _enrol(coordinator, stick)
        _check_signer(coordinator, stick)
        _settle_signer(coordinator, stick)
        return _take(coordinator, stick)


def _enrol(coordinator: Coordinator, stick: Stick) -> Imported:
    """Hand a request to the registry after its token's key proved it (no secret travels)."""
    parts = {name: stick.read(name) for name in rules.PARTS[Kind.ENROLMENT_REQUEST]}
    public = parts[rules.TOKEN_KEY]
    dsse.open_with_key(stick.envelope, rules.PAYLOAD_TYPE, public)
    token = enrolment.token_hash(public)
    if stick.index.site != enrolments.invited(coordinator, token):
        raise NotAllowedError("the request names another site than the token's")
    enrolments.enrol(
        coordinator,
        token=token,
        tls_request=parts[rules.TLS_REQUEST],
        signing_request=parts[rules.SIGNING_REQUEST],
        witness_key=parts[rules.WITNESS_KEY],
    )
    return _imported(coordinator, stick.index)


def _check_signer(coordinator: Coordinator, stick: Stick) -> None:
    chain = certificates.from_pem(stick.read(rules.CHAIN))
    site = callers.authenticate_signer(coordinator, chain)
    documents.open_signed(
        stick.envelope,
        rules.PAYLOAD_TYPE,
        chain,
        signer=identity.site(coordinator.config.federation, site),
        root=callers.root_of(coordinator, site),
        now=coordinator.now(),
    )
    if stick.index.site != site:
        raise NotAllowedError(f"the file speaks for another site than `{site}`, which signed it")
    if rules.is_expired(stick.index, coordinator.now()):
        raise NotAllowedError(
            f"the file was valid until {stick.index.expires}",
            hint="the hospital writes it again with the same command",
        )


def _settle_signer(coordinator: Coordinator, stick: Stick) -> None:
    """Note that a renewed signing certificate is in use: the one before it is superseded now."""
    [leaf, *_] = certificates.from_pem(stick.read(rules.CHAIN))
    with coordinator.write() as tx:
        row = registry.active_site(tx, stick.index.site)
        rekeying.settle_signer(tx, row, certificates.fingerprint(leaf))


def _take(coordinator: Coordinator, stick: Stick) -> Imported:
    """Do what a signed file asks for, in the order in which a site would call."""
    site = stick.index.site
    result: dict[str, str] = {}
    requests.contact(coordinator, site, _message(pb.ContactRequest, stick.read(rules.CONTACT)))
    if stick.has(rules.COSIGN):
        word = _message(pb.CosignRequest, stick.read(rules.COSIGN))
        requests.cosign(coordinator, site, word, oldest=WORD_AGE)
    orders = _withdraw_all(coordinator, stick)
    if stick.has(rules.BEGIN):
        digest = _receive(coordinator, stick)
        _take_in(coordinator)
        status = submissions.one_status(coordinator, site, digest)
        result |= {"blueprint": digest, "state": status.state, "reason": status.reason}
    standing = {digest: _state_of(coordinator, site, digest) for digest in orders}
    renewed = _renew(coordinator, stick)
    found = _imported(coordinator, stick.index)
    return replace(found, orders=standing, renewed=renewed, **result)


def _withdraw_all(coordinator: Coordinator, stick: Stick) -> list[str]:
    """Carry out every order before saying that one of them does not count."""
    orders: list[str] = []
    refused: list[StateError] = []
    for part in stick.index.orders:
        try:
            orders.append(_withdraw(coordinator, stick, part.name))
        except StateError as error:
            refused.append(error)
    if refused:
        raise refused[0]
    return orders


def _withdraw(coordinator: Coordinator, stick: Stick, part: str) -> str:
    """Carry out one order; what ended in another way meanwhile needs none."""
    asked = _message(pb.WithdrawRequest, stick.read(part))
    try:
        return requests.withdraw(coordinator, stick.index.site, asked)
    except StateError:
        digest = revocation.ordered(asked.envelope).blueprint
        if _state_of(coordinator, stick.index.site, digest) not in _ENDED:
            raise
        return digest


def _state_of(coordinator: Coordinator, site: str, digest: str) -> str:
    try:
        return submissions.one_status(coordinator, site, digest).state
    except NotFoundError:
        return NOT_HERE


def _receive(coordinator: Coordinator, stick: Stick) -> str:
    """Bring a blueprint in as an upload would; what is here already is not read again."""
    site = stick.index.site
    request = _message(pb.BeginRequest, stick.read(rules.BEGIN))
    stick.check(rules.CIPHERTEXT)  # a torn file leaves no trace, not even an open upload
    progress = requests.begin(coordinator, site, request)
    if progress.state == submissions.BlueprintState.RECEIVING:
        with submissions.uploading(coordinator, site, progress.digest) as upload:
            for data in stick.stream(rules.CIPHERTEXT, upload.size):
                if upload.append(upload.size, data):
                    submissions.require_receiving(coordinator, site, progress.digest)
            progress = submissions.commit(coordinator, site, progress.digest, upload)
    if progress.state == submissions.BlueprintState.RECEIVING:
        raise StateError(
            "the payload on the stick is not as long as its statement says",
            hint="the hospital writes the file again with the same command",
        )
    return progress.digest


def _take_in(coordinator: Coordinator) -> None:
    """Run the intake, unless a running server does: it must not run twice at once."""
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive(coordinator.home.path / SERVE_LOCK, busy="being served"))
        except KitError:
            return
        supervisor.run_waiting(coordinator)


def _renew(coordinator: Coordinator, stick: Stick) -> tuple[str, ...]:
    """Renew certificates once per file, and for no file older than the last.

    A stolen old key with its old request must not become a certificate again.
    """
    site, number = stick.index.site, stick.index.number
    asked = [name for name in (rules.RENEW, rules.REKEY) if stick.has(name)]
    last_of = f"{_RENEWED}/{site}"
    with coordinator.state.read() as tx:
        last = int(tx.get(last_of) or 0)
    if number <= last or not asked:
        return ()
    if rules.RENEW in asked:
        request = _message(pb.RenewRequest, stick.read(rules.RENEW))
        requests.renew(coordinator, site, request)
    if rules.REKEY in asked:
        order = _message(pb.RekeyRequest, stick.read(rules.REKEY))
        requests.rekey(coordinator, site, order, oldest=WORD_AGE)
    with coordinator.write() as tx:
        tx.put(last_of, str(number))
    return tuple(_RENEWALS[name] for name in asked)


def _imported(coordinator: Coordinator, index: Index) -> Imported:
    found = next((s for s in registry.list_sites(coordinator) if s.id == index.site), None)
    state = found.state if found is not None else "unknown"
    return Imported(site=index.site, kind=index.kind, site_state=state)


def _message(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise FormatError("a part of the file is not a message of the exchange") from error


def export(
    coordinator: Coordinator, site: str, out: Path, *, studies: Iterable[str] = ()
) -> Exported:
    """Write everything a site would ask for over a line: news with proofs, certificates, models.

    The models and bases are the newest current ones of each study (or only of `studies`, by id).

    Raises:
        NotAllowedError: the site is not active.
        KitError: the file does not fit the medium.
    """
    issued_to = enrolments.issued_to(coordinator, site)
    metadata = publication.current(coordinator, stick_days=coordinator.config.stick_days)
    news = contacts.news(coordinator, site, known_size=0, first_leaf=0, files=metadata)
    head = Checkpoint.verify(
        news.checkpoint,
        origin=coordinator.log_origin,
        key=keys.public_bytes(coordinator.log_key),
    )
    chosen = [
        *_newest(news.releases, tuple(studies)),
        *_newest(news.bases, tuple(studies)),
    ]
    contents: dict[str, Content] = {
        rules.CERTIFICATES: messages.enrol_reply(issued_to).SerializeToString(),
        rules.CONTACT: messages.contact_reply(replace(news, leaves=())).SerializeToString(),
        rules.LEAVES: pb.LeavesReply(leaves=_leaves(coordinator, head.size)).SerializeToString(),
    }
    with ExitStack() as copies:
        files = [artefact.sha256 for release in chosen for artefact in release.artefacts]
        for number, digest in enumerate(files, start=1):
            name = releases.require_file(coordinator, digest)
            model = copies.enter_context(coordinator.stores.releases.local(name))
            contents[rules.model_name(number)] = model
        index, length = _save(coordinator, site, out, head.size, contents)
    return Exported(
        site=site,
        file=str(out),
        bytes=length,
        log_size=head.size,
        releases=tuple(release.digest for release in chosen),
        install_until=index.expires,
        not_vouched=tuple(_not_vouched(coordinator, site, chosen, news)),
    )


def _save(
    coordinator: Coordinator, site: str, out: Path, log_size: int, contents: dict[str, Content]
) -> tuple[Index, int]:
    now, (signing_chain, signing_key) = coordinator.now(), coordinator.signer
    contents = {rules.CHAIN: certificates.pem(*signing_chain), **contents}
    index = Index(
        kind=Kind.TO_SITE,
        federation=coordinator.config.federation,
        site=site,
        number=max(1, log_size),
        issued=clock.rfc3339(now),
        expires=clock.rfc3339(now + timedelta(days=coordinator.config.stick_days)),
        parts=medium.describe(contents),
    )
    length = medium.save(
        out,
        index,
        contents,
        sign=lambda data: documents.sign(data, rules.PAYLOAD_TYPE, signing_key, signing_chain[0]),
    )
    return index, length


def _not_vouched(
    coordinator: Coordinator, site: str, chosen: Iterable[Release], news: contacts.News
) -> Iterator[str]:
    """Say of which models too few other sites have signed the log entry."""
    offers = {_release_of(offer).digest: offer for offer in (*news.releases, *news.bases)}
    with coordinator.state.read() as tx:
        for digest in (release.digest for release in chosen):
            index = Receipt.from_text(offers[digest].published.receipt).index
            have, needed = logbook.vouching(tx, site, index)
            if have < needed:
                yield f"`{digest[:16]}` ({have} of {needed})"


def _release_of(offer: contacts.ReleaseOffer) -> Release:
    return Release.from_bytes(dsse.parse(offer.envelope, documents.RELEASE_TYPE).payload)


def _leaves(coordinator: Coordinator, size: int) -> list[bytes]:
    """Return the log up to a checkpoint, which a site reads page by page over a line."""
    found: list[bytes] = []
    while len(found) < size:
        found += logbook.page(coordinator, len(found))
    return found[:size]


def _newest(offers: Iterable[contacts.ReleaseOffer], studies: tuple[str, ...]) -> list[Release]:
    """Return, per study, the release that a site would install: the last one published."""
    newest: dict[str, tuple[int, str, Release]] = {}
    for offer in offers:
        release = _release_of(offer)
        place = (Receipt.from_text(offer.published.receipt).index, release.digest, release)
        if not offer.withdrawn and (not studies or release.study in studies):
            newest[release.study] = max(
                place, newest.get(release.study, place), key=lambda found: found[:2]
            )
    return [newest[study][2] for study in sorted(newest)]
