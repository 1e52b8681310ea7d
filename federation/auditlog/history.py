"""What a log says, read from its first entry on: a pure fold over events.

Both sides read the log by these rules: a site to know whose cosignatures count and which documents
are on record, the coordinator to compare its tables with what it logged.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from federation.auditlog.events import PROOF_OF_STATE, Event, Kind
from kit import canonical
from kit.errors import FormatError

_STATE_OF = {kind: state for state, kind in PROOF_OF_STATE.items()}
_SITE_STATE = {
    Kind.TOKEN_ISSUED: "invited",
    Kind.SITE_REQUESTED: "requested",
    Kind.SITE_CONFIRMED: "active",
    Kind.SITE_REVOKED: "revoked",
}
_PAPERS = ("outbound", "order")  # details that name a signed document of a site


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """One site's witness key, and the tree sizes at which it counts: from `since` up to `until`."""

    pseudonym: str
    key: bytes
    since: int
    until: int | None = None

    def counts_at(self, size: int) -> bool:
        """Say whether this was a witness's key when the log had `size` entries."""
        return self.since < size and (self.until is None or size <= self.until)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """A document-signing certificate that a site held from entry `since` to entry `until`."""

    certificate: str
    since: int
    until: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """Where a study stands on the log, and the latest time that the log gave up to there.

    The latest, so that an entry dated back behind earlier ones gains nothing by it.
    """

    index: int
    time: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """A revocation that may still be undone: until `until` (Unix seconds), by whom it was made."""

    blueprint: str
    actor: str
    time: str
    until: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Founding:
    """What a log begins with: digests of the root certificate and of the study key."""

    root: str
    study_key: str


@dataclass(slots=True, kw_only=True)
class History:
    """What the entries read so far say; `size` of them."""

    size: int = 0
    founding: Founding | None = None  # of the first entry; a later one founds nothing
    newest: str = ""  # the latest time of an entry
    cosigners: int = 0
    witnesses: list[Witness] = field(default_factory=list)
    sites: dict[str, str] = field(default_factory=dict)
    signers: dict[str, list[Signer]] = field(default_factory=dict)  # of a site, oldest first
    studies: dict[str, Logged] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)
    delegations: dict[str, str] = field(default_factory=dict)  # of a study: the newest
    recipients: dict[tuple[str, str], str] = field(default_factory=dict)
    revocations: tuple[int, str] = (0, "")
    authorities: str = ""  # digest of the root's newest list of revoked issuing CAs
    blueprints: dict[str, str] = field(default_factory=dict)
    destroyed: set[str] = field(default_factory=set)
    releases: dict[str, bool] = field(default_factory=dict)
    approvals: dict[str, int] = field(default_factory=dict)
    papers: dict[str, int] = field(default_factory=dict)
    epochs: list[tuple[int, Event]] = field(default_factory=list)
    alarms: dict[str, Alarm] = field(default_factory=dict)
    restored: set[str] = field(default_factory=set)

    def read(self, events: Sequence[Event | None]) -> "History":
        """Read on, in log order; returns itself. An entry of an unknown kind (None) only counts.

        Raises:
            FormatError: an entry lacks what its kind must carry.
        """
        for event in events:
            if event is not None:
                self.newest = max(self.newest, event.time)
                self._read(event)
            self.size += 1
        return self

    def active_witnesses(self, size: int) -> list[Witness]:
        """Return the keys that counted when the log had `size` entries."""
        return [witness for witness in self.witnesses if witness.counts_at(size)]

    def signer_at(self, pseudonym: str, index: int) -> str | None:
        """Return the certificate with which an active site signed documents at a log entry."""
        for signer in self.signers.get(pseudonym, ()):
            if signer.since < index and (signer.until is None or index < signer.until):
                return signer.certificate
        return None

    def needed(self, own: bytes | None) -> int:
        """Return how many other sites must vouch before a release is taken.

        The number that the federation was founded with, or all others that were ever confirmed if
        they are fewer: shutting sites out does not lower it.
        """
        return min(self.cosigners, len({w.pseudonym for w in self.others(own)}))

    def others(self, own: bytes | None) -> list[Witness]:
        """Return every witness ever registered but the site that holds the key `own`."""
        mine = {w.pseudonym for w in self.witnesses if w.key == own}
        return [witness for witness in self.witnesses if witness.pseudonym not in mine]

    def _read(self, event: Event) -> None:
        kind, details = event.kind, event.details
        if kind in _NOTES:
            _NOTES[kind](self, event)
        if kind in _STATE_OF:
            self.blueprints[event.subject] = _STATE_OF[kind]
            self._papers(details)
        elif kind in _SITE_STATE:
            self._site(_text(details, "site"), _SITE_STATE[kind])
        elif kind is Kind.WITNESS_REGISTERED:
            self._end(_text(details, "site"))
            key = bytes.fromhex(event.subject)
            who = _text(details, "site")
            self.witnesses.append(Witness(pseudonym=who, key=key, since=self.size))
        elif kind is Kind.FEDERATION_CREATED:
            self._found(event)
        elif kind is Kind.STUDY_CREATED:
            here = Logged(index=self.size, time=self.newest)
            self.studies.setdefault(event.subject, here)
        elif kind is Kind.RECIPIENT_ISSUED:
            self.recipients[_text(details, "study"), _text(details, "site")] = event.subject
        elif kind is Kind.REVOCATIONS_CHANGED:
            self.revocations = (_number(details.get("number")), event.subject)
        else:
            self._rest(event)

    def _rest(self, event: Event) -> None:
        if event.kind is Kind.KEY_DESTROYED and "what" not in event.details:
            self.destroyed.add(event.subject)
        elif event.kind is Kind.RELEASE_PUBLISHED:
            self.releases[event.subject] = False
        elif event.kind is Kind.RELEASE_WITHDRAWN:
            self.releases[event.subject] = True
        elif event.kind is Kind.APPROVAL_RECORDED:
            self.approvals[_text(event.details, "record")] = self.size
        elif event.kind is Kind.BLUEPRINT_RESTORED:
            self.alarms.pop(event.subject, None)
            self.restored.add(event.subject)
            self._papers(event.details)
        elif event.kind is Kind.ISSUING_RENEWED and "revocations" in event.details:
            self.authorities = _text(event.details, "revocations")
        elif event.kind is Kind.STUDY_CLOSED:
            self.closed.add(event.subject)
        elif event.kind is Kind.RECIPIENTS_DELEGATED:
            self.delegations[_text(event.details, "study")] = event.subject
        elif event.kind is Kind.LOG_RECOVERED:
            self.epochs.append((self.size, event))
            first = _number(event.details.get("restored"))  # what people signed since is lost
            self.approvals = {digest: at for digest, at in self.approvals.items() if at < first}
            self.papers = {digest: at for digest, at in self.papers.items() if at < first}

    def _found(self, event: Event) -> None:
        if self.size == 0:
            study_key = canonical.sha256_hex(event.details.get("study_key"), what="study key")
            self.founding = Founding(root=event.subject, study_key=study_key)
            self.cosigners = _number(event.details.get("cosigners", 0))

    def _signer(self, event: Event) -> None:
        who = _text(event.details, "site")
        self._end_signer(who)
        fresh = Signer(certificate=event.subject, since=self.size)
        self.signers.setdefault(who, []).append(fresh)

    def _end_signer(self, pseudonym: str) -> None:
        held = self.signers.get(pseudonym)
        if held and held[-1].until is None:
            held[-1] = replace(held[-1], until=self.size)

    def _papers(self, details: dict[str, Any]) -> None:
        self.papers |= {_text(details, n): self.size for n in _PAPERS if n in details}

    def _alarm(self, event: Event) -> None:
        """Note a revocation; one without a time was of a version that knew no undo."""
        self.restored.discard(event.subject)
        self.alarms[event.subject] = Alarm(
            blueprint=event.subject,
            actor=event.actor,
            time=event.time,
            until=_number(event.details.get("until", 0)),
        )

    def _site(self, pseudonym: str, state: str) -> None:
        self.sites[pseudonym] = state
        if state == "revoked":
            self._end(pseudonym)
            self._end_signer(pseudonym)

    def _end(self, pseudonym: str) -> None:
        """From here on an earlier key of this site counts no more."""
        self.witnesses = [
            Witness(pseudonym=w.pseudonym, key=w.key, since=w.since, until=self.size)
            if w.pseudonym == pseudonym and w.until is None
            else w
            for w in self.witnesses
        ]


# What is noted beside what every entry of its kind does.
_NOTES = {
    Kind.BLUEPRINT_REVOKED: History._alarm,
    Kind.SITE_CONFIRMED: History._signer,
    Kind.SIGNING_KEY_RENEWED: History._signer,
}


def witness_name(origin: str, pseudonym: str) -> str:
    """Return the key name under which a site cosigns, e.g. `lung/log/s-0a1b2c3d4e5f`."""
    return f"{origin}/{pseudonym}"


def revocations_digest(blueprints: Iterable[str], releases: Iterable[str]) -> str:
    """Return the digest by which the log names what a revocation list holds."""
    table = {"blueprints": sorted(blueprints), "releases": sorted(releases)}
    return canonical.digest(canonical.encode(table))


def _text(details: dict[str, Any], name: str) -> str:
    value = details.get(name)
    if not isinstance(value, str):
        raise FormatError(f"a log entry lacks its `{name}`")
    return value


def _number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise FormatError("a log entry lacks its number")
    return value
