"""What a site believes, and why: pure rules over what the coordinator sent.

Invariants:

- The log only grows: every contact proves consistency with the newest checkpoint held here.
- The revocation list's number, and the newest signed time seen, never go back (A18).
- A state of a blueprint or release counts only with the log entry that made it so, and none after.
- Every leaf of the log is read, and their root is the checkpoint's; studies, recipient keys and the
  revocation list are those that the log records.
- The root and the study key that this site pinned are those that the log begins with (A16).
- Every receipt leads to the very checkpoint of the contact that brought it.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Self

from edge_agent.errors import TrustError
from edge_agent.witness import EXPLAIN, LogView, Milestone, Vouching
from federation import delegation as delegations
from federation import dsse, study
from federation.auditlog import merkle
from federation.auditlog.checkpoint import Checkpoint, Receipt
from federation.auditlog.events import PROOF_OF_STATE, Event, Kind
from federation.auditlog.history import Founding, History, revocations_digest
from federation.delegation import Delegation
from federation.release import statement as documents
from federation.release.statement import Release, Revocations
from federation.study import RecipientKey, Study
from kit import canonical, clock
from kit.errors import FormatError, KitError
from pki import certificates, identity, kem, verification
from pki.crl import RevocationList, RevocationLists
from pki.enrolment import Pins

VERSION = 1

RECEIVING = "receiving"
MAX_SKEW_S = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One log leaf and the receipt that proves it."""

    leaf: bytes
    receipt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyNews:
    """A signed study with the signed key that this site seals to; no key once it is closed.

    `delegation` says whose signature the key bears; empty: the study key's own.
    """

    manifest: bytes
    recipient_key: bytes
    open: bool
    delegation: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusNews:
    """What the coordinator says of one of this site's blueprints."""

    digest: str
    study_digest: str
    state: str
    reason: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseNews:
    """What the coordinator says of one release."""

    envelope: bytes
    signing_chain: bytes
    withdrawn: bool
    published: Entry
    withdrawal: tuple[Entry, ...]
    earlier: tuple[Entry, ...]

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All that the log says of the release, oldest first."""
        return (*self.earlier, self.published, *self.withdrawal)


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """One contact's answer, as it came."""

    checkpoint: str
    consistency: tuple[bytes, ...]
    revocations: bytes
    certificate_revocations: bytes
    authority_revocations: bytes
    signing_chain: bytes
    pseudonym_salt: bytes
    studies: tuple[StudyNews, ...]
    blueprints: tuple[StatusNews, ...]
    releases: tuple[ReleaseNews, ...]
    first_leaf: int
    leaves: tuple[bytes, ...]
    witnessed: tuple[str, ...]
    repository: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What was proved so far: survives restarts, only moves forward."""

    checkpoint: str
    size: int
    root: str
    revocations: int
    revoked_blueprints: tuple[str, ...]
    withdrawn_releases: tuple[str, ...]
    newest_time: str

    def to_bytes(self) -> bytes:
        """Return the canonical bytes of the state file."""
        table = {name: getattr(self, name) for name in self.__slots__}
        return canonical.encode(table | {"version": VERSION})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read the state file.

        Raises:
            FormatError: it is damaged.
        """
        names = set(cls.__slots__) | {"version"}
        table = canonical.fields(canonical.decode(data), names, what="trust state")
        canonical.version(table.pop("version"), expected=VERSION, what="trust state")
        canonical.integer(table["size"], low=0, high=canonical.MAX_INTEGER, what="size")
        canonical.sha256_hex(table["root"], what="root")
        canonical.integer(table["revocations"], low=0, high=canonical.MAX_INTEGER, what="number")
        clock.parse_rfc3339(table["newest_time"], what="newest time")
        lists = ("revoked_blueprints", "withdrawn_releases")
        if not isinstance(table["checkpoint"], str) or not all(
            isinstance(table[name], list) for name in lists
        ):
            raise FormatError("trust state is damaged")
        for name in lists:
            table[name] = tuple(canonical.sha256_hex(item) for item in table[name])
        return cls(**table)


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """What this site holds when it asks: all of it must be found again in the answer."""

    trust: Trust | None
    leaves: tuple[bytes, ...] = ()
    milestones: tuple[Milestone, ...] = ()
    revoked: RevocationList | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedStudy:
    """A verified study and the verified key to seal to, with the signed documents as they came.

    A closed study has no key.
    """

    study: Study
    recipient_key: RecipientKey | None
    open: bool
    manifest: bytes
    recipient: bytes
    delegation: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedRelease:
    """A verified release."""

    release: Release
    envelope: bytes
    signing_chain: bytes
    withdrawn: bool
    published: Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A contact's answer after every rule above held."""

    trust: Trust
    studies: tuple[OfferedStudy, ...]
    blueprints: tuple[StatusNews, ...]
    releases: tuple[OfferedRelease, ...]
    certificate_revocations: bytes
    authority_revocations: bytes
    pseudonym_salt: bytes
    entries: tuple[Entry, ...]
    witnessed: tuple[str, ...]
    log: LogView
    vouchings: dict[str, Vouching]

    @property
    def notes(self) -> tuple[str, ...]:
        """Every verified checkpoint at hand that other sites may have cosigned."""
        return (*self.witnessed, self.trust.checkpoint)


def accept(news: News, *, pins: Pins, site: str, before: Before, now: datetime) -> World:
    """Verify one contact's answer against what is known.

    Raises:
        TrustError: the log was rewritten, shortened or forked, or a list went back; or the pinned
            keys are not those that the log begins with.
        KitError: a signature, certificate or format is off.
    """
    known = before.trust
    checkpoint = _advance(news, pins, known)
    held = before.leaves[: news.first_leaf]
    log = LogView.read((*held, *news.leaves), checkpoint, passed=len(held))
    log.require(_milestones(before))
    _check_pins(pins, log.history)
    vouchings = log.vouchings((*news.witnessed, news.checkpoint), pins)
    authorities = _authority_revocations(news, pins, log.history, now)
    listed = _certificate_revocations(news, pins, before.revoked, authorities, now)
    revoked = RevocationLists((listed, *authorities))
    revocations = _revocations(news, pins, known, (revoked, log.history), now)
    entries: list[Entry] = []
    for status in news.blueprints:
        entries += check_status(status, pins, checkpoint=news.checkpoint)
    releases = []
    for offer in news.releases:
        releases.append(_check_release(offer, news, pins, revocations, revoked))
        entries += offer.entries
    _check_list_is_logged(revocations, log.history)
    times = [revocations.issued, known.newest_time if known else ""]
    trust = Trust(
        checkpoint=news.checkpoint,
        size=checkpoint.size,
        root=checkpoint.root.hex(),
        revocations=revocations.number,
        revoked_blueprints=revocations.blueprints,
        withdrawn_releases=revocations.releases,
        newest_time=max(times),
    )
    return World(
        trust=trust,
        studies=tuple(_check_study(offer, pins, site, log.history) for offer in news.studies),
        blueprints=news.blueprints,
        releases=tuple(releases),
        certificate_revocations=news.certificate_revocations,
        authority_revocations=news.authority_revocations,
        pseudonym_salt=news.pseudonym_salt,
        entries=tuple(entries),
        witnessed=news.witnessed,
        log=log,
        vouchings=vouchings,
    )


def _milestones(before: Before) -> list[Milestone]:
    marks = list(before.milestones)
    if before.trust is not None:
        root = bytes.fromhex(before.trust.root)
        marks.append(Milestone(size=before.trust.size, root=root, what="what this site saw"))
    return marks


def _check_pins(pins: Pins, history: History) -> None:
    """Compare what the token gave to this site with what every site reads at the log's beginning.

    A token is made of files in the coordinator's home; the first entry is in every site's copy.
    """
    root = certificates.fingerprint(certificates.from_der(pins.root_der))
    if history.founding != Founding(root=root, study_key=canonical.digest(pins.study_key)):
        raise TrustError(
            "the root or the study key that this site pinned is not the one the log begins with",
            hint="the token was made with other keys than the federation's: do not submit, and ask"
            " the coordinator's auditor to explain",
        )


def _check_list_is_logged(revocations: Revocations, history: History) -> None:
    content = revocations_digest(revocations.blueprints, revocations.releases)
    if history.revocations != (revocations.number, content):
        raise TrustError("the log does not record the revocation list as it was sent")


def _advance(news: News, pins: Pins, known: Trust | None) -> Checkpoint:
    checkpoint = Checkpoint.verify(news.checkpoint, origin=pins.log_origin, key=pins.log_key)
    if known is None:
        return checkpoint
    try:
        merkle.verify_consistency(
            known.size,
            bytes.fromhex(known.root),
            checkpoint.size,
            checkpoint.root,
            news.consistency,
        )
    except FormatError as error:
        raise TrustError(
            f"the audit log contradicts what this site saw at size {known.size}: {error}",
            hint=EXPLAIN,
        ) from error
    return checkpoint


def _authority_revocations(
    news: News, pins: Pins, history: History, now: datetime
) -> tuple[RevocationList, ...]:
    """Check the root's list of revoked issuing CAs: the newest one that the log names."""
    data = news.authority_revocations
    if (canonical.digest(data) if data else "") != history.authorities:
        raise TrustError("the log names another list of revoked issuing CAs than was sent")
    root = certificates.from_der(pins.root_der)
    return (RevocationList.verify(data, root, now=now),) if data else ()


def _certificate_revocations(
    news: News,
    pins: Pins,
    held: RevocationList | None,
    authorities: tuple[RevocationList, ...],
    now: datetime,
) -> RevocationList:
    """Check the list of revoked certificates under the CA that issued the coordinator's own."""
    chain = certificates.from_pem(news.signing_chain)
    root, lists = certificates.from_der(pins.root_der), RevocationLists(authorities)
    verification.verify_signing(chain, root=root, now=now, revocations=lists)
    if len(chain) < 2:
        raise TrustError("the coordinator's certificate came without that of its CA")
    found = RevocationList.verify(news.certificate_revocations, chain[1], now=now)
    if held is not None and (found.number < held.number or found.issuer != held.issuer):
        raise TrustError("the list of revoked certificates is older than the one this site holds")
    if held is not None and found.number == held.number and found != held:
        raise TrustError("two lists of revoked certificates carry the same number")
    return found


def _revocations(
    news: News,
    pins: Pins,
    known: Trust | None,
    context: tuple[RevocationLists, History],
    now: datetime,
) -> Revocations:
    revoked, history = context
    payload = open_document(
        news.revocations, documents.REVOCATIONS_TYPE, news.signing_chain, pins, now, revoked
    )
    revocations = Revocations.from_bytes(payload)
    if revocations.federation != pins.federation:
        raise TrustError("the revocation list is another federation's")
    ahead = clock.parse_rfc3339(revocations.issued) - now
    if ahead.total_seconds() > MAX_SKEW_S:  # it would become the floor that no clock goes below
        raise KitError(
            f"the coordinator's revocation list is dated {ahead} ahead of this machine's clock",
            hint="one of the two clocks is wrong; nothing was kept of this contact",
        )
    if known is not None:
        _check_list_grew(revocations, known, history)
    return revocations


def _check_list_grew(revocations: Revocations, known: Trust, history: History) -> None:
    if revocations.number < known.revocations:
        raise TrustError("the revocation list is older than the one this site holds")
    missing = set(known.revoked_blueprints) - set(revocations.blueprints)
    if missing - history.restored:  # an undo within the grace period is on the log (A3)
        raise TrustError("a revoked blueprint is missing from the revocation list")
    same_number = revocations.number == known.revocations
    if same_number and revocations.releases != known.withdrawn_releases:
        raise TrustError("two revocation lists carry the same number")


def open_document(
    envelope: bytes,
    kind: str,
    chain: bytes,
    pins: Pins,
    now: datetime,
    revoked: RevocationLists | None,
) -> bytes:
    """Return the payload of a document that the coordinator signed, at `now`.

    Raises:
        KitError: it did not, or the certificate did not prove it at `now` or is revoked.
    """
    return documents.open_signed(
        envelope,
        kind,
        certificates.from_pem(chain),
        signer=identity.coordinator(pins.federation),
        root=certificates.from_der(pins.root_der),
        now=now,
        revocations=revoked,
    )


def open_study(envelope: bytes, pins: Pins) -> Study:
    """Return a study after checking it under the pinned study key.

    Raises:
        KitError: it is not signed by that key, or not a study of this federation.
    """
    found = Study.from_bytes(dsse.open_with_key(envelope, study.PAYLOAD_TYPE, pins.study_key))
    if found.federation != pins.federation:
        raise TrustError("the study is another federation's")
    return found


def open_delegation(envelope: bytes, pins: Pins, expected: Study) -> Delegation | None:
    """Return whom the pinned study key lets sign a study's recipient keys; None: itself alone.

    Raises:
        KitError: it is not signed by the pinned key, or is for another study or round.
    """
    if not envelope:
        return None
    return delegations.open_delegation(envelope, pins.study_key, expected)


def open_recipient_key(
    envelope: bytes, pins: Pins, expected: Study, site: str, *, delegation: Delegation | None
) -> RecipientKey:
    """Return the key this site seals to, for one study, after checking it.

    Raises:
        KitError: neither the pinned key nor its delegate signed it, or it is for another study,
            round or site.
    """
    found = delegations.open_recipient_key(envelope, delegation, pins.study_key)
    if (found.study_digest, found.round, found.site) != (expected.digest, expected.round, site):
        raise TrustError("the recipient key is for another study, round or site")
    return found


def _check_study(offer: StudyNews, pins: Pins, site: str, history: History) -> OfferedStudy:
    found = open_study(offer.manifest, pins)
    if found.digest not in history.studies or offer.open is (found.digest in history.closed):
        raise TrustError(f"the log does not record study `{found.id}` as it was sent")
    key = None
    if offer.open or offer.recipient_key:
        delegation = open_delegation(offer.delegation, pins, found)
        named = None if delegation is None else delegation.digest
        if history.delegations.get(found.digest) != named:  # nor is one left out that is logged
            raise TrustError(
                f"the log does not record who may sign the recipient keys of study `{found.id}`"
            )
        key = open_recipient_key(offer.recipient_key, pins, found, site, delegation=delegation)
        current = {kid for (of, _), kid in history.recipients.items() if of == found.digest}
        if kem.key_id(key.public) not in current:
            raise TrustError(f"the log does not record the recipient key of study `{found.id}`")
    return OfferedStudy(
        study=found,
        recipient_key=key,
        open=offer.open,
        manifest=offer.manifest,
        recipient=offer.recipient_key,
        delegation=offer.delegation,
    )


def check_entry(entry: Entry, pins: Pins, *, subject: str) -> Event:
    """Check one receipt and return the event it proves.

    Raises:
        KitError: the receipt does not prove the leaf, or the leaf is about something else.
    """
    receipt = Receipt.from_text(entry.receipt)
    receipt.verify(entry.leaf, origin=pins.log_origin, key=pins.log_key)
    event = Event.from_leaf(entry.leaf)
    if event.subject != subject:
        raise TrustError("a receipt is about something else than it was given for")
    return event


def check_status(status: StatusNews, pins: Pins, *, checkpoint: str | None) -> list[Entry]:
    """Check that a blueprint's state rests on its newest log entry; return the entries.

    `checkpoint` is the contact's, which every receipt must lead to; None outside a contact.

    Raises:
        KitError: a receipt does not hold, or the log says something else than the state.
    """
    canonical.sha256_hex(status.digest, what="blueprint digest")
    kinds: dict[int, Kind] = {}
    for entry in status.entries:
        index = Receipt.from_text(entry.receipt).index
        kinds[index] = check_entry(entry, pins, subject=status.digest).kind
        if checkpoint is not None:
            _same_checkpoint(entry, checkpoint)
    states = [kinds[index] for index in sorted(kinds) if kinds[index] in PROOF_OF_STATE.values()]
    last = states[-1] if states else None  # no entry yet: the upload is under way
    if PROOF_OF_STATE.get(status.state) is not last or (last is None) is not (
        status.state == RECEIVING
    ):
        raise TrustError(
            f"the coordinator says `{canonical.printable(status.state)}` of a blueprint, but its"
            " log does not"
        )
    return list(status.entries)


def _same_checkpoint(entry: Entry, checkpoint: str) -> None:
    if Receipt.from_text(entry.receipt).checkpoint != checkpoint:
        raise TrustError("a receipt leads to another checkpoint than the contact's")


def _check_release(
    offer: ReleaseNews,
    news: News,
    pins: Pins,
    revocations: Revocations,
    revoked: RevocationLists,
) -> OfferedRelease:
    """Check a release under the certificate that signed it, at the time that the log gives it.

    So a release outlives the coordinator's certificates, and a key that ran out signs no new one:
    the log, which only grows, would have to give it a time that is past.
    """
    digest = _claimed_release(offer.envelope).digest
    for entry in offer.entries:
        check_entry(entry, pins, subject=digest)
        _same_checkpoint(entry, news.checkpoint)
    event = Event.from_leaf(offer.published.leaf)
    time = clock.parse_rfc3339(event.time)
    kind = documents.RELEASE_TYPE
    payload = open_document(offer.envelope, kind, offer.signing_chain, pins, time, revoked)
    release = Release.from_bytes(payload)
    statement = canonical.digest(payload)
    if event.kind is not Kind.RELEASE_PUBLISHED or event.details.get("statement") != statement:
        raise TrustError("the log does not record this release as it was sent")
    if release.created > event.time:
        raise TrustError("a release says that it was made after the log recorded it")
    kinds = {Event.from_leaf(entry.leaf).kind for entry in offer.withdrawal}
    listed = release.digest in revocations.releases
    if offer.withdrawn != listed or (offer.withdrawn and Kind.RELEASE_WITHDRAWN not in kinds):
        raise TrustError("the revocation list, the log and the release list do not agree")
    if not offer.withdrawn and set(release.ancestors) & set(revocations.blueprints):
        raise TrustError("a current release descends from a revoked blueprint")
    return OfferedRelease(
        release=release,
        envelope=offer.envelope,
        signing_chain=offer.signing_chain,
        withdrawn=offer.withdrawn,
        published=offer.published,
    )


def _claimed_release(envelope: bytes) -> Release:
    """Return what an envelope says, before anything about it is proved."""
    return Release.from_bytes(dsse.parse(envelope, documents.RELEASE_TYPE).payload)


def check_clock(trust: Trust | None, now: datetime) -> None:
    """Refuse a clock that stands before the newest signed time seen here (A18).

    Raises:
        KitError: it does, by more than an hour.
    """
    if trust is None:
        return
    behind = clock.parse_rfc3339(trust.newest_time) - now
    if behind.total_seconds() > MAX_SKEW_S:
        raise KitError(
            f"this machine's clock is {behind} behind the newest time the coordinator signed",
            hint="set the clock; a wound-back clock could revive a withdrawn model",
        )
