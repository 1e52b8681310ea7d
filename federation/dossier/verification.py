"""Checking a dossier with nothing but its files and the root that the reader pinned.

Steps, by the numbers of docs/forgetting.md:

1. The dossier is signed by the coordinator of its federation, under the root, as of `made`.
2. The checkpoint is signed by the log key; where the reader knows log key or leaves, by theirs.
3. Every entry is in the log of that checkpoint, in order; the first founded it with this root.
4. The blueprint was revoked, and is not restored since.
5. Who asked signed for it: the site's order, or a quorum of the study's reviewers.
6. What fell is all that the revocation list gained, entry for entry.
7. What was destroyed has its entry; what was not has a time at which it is due.
8. Releases since are signed by the coordinator, on the log, and descend from nothing that fell.
9. Each acknowledgement is a cosignature of that very site over a log that holds the revocation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509

from federation import dsse, study
from federation.auditlog import merkle
from federation.auditlog.checkpoint import Checkpoint, cosignatures
from federation.auditlog.events import Event, Kind, read_leaf
from federation.auditlog.history import History, revocations_digest, witness_name
from federation.blueprint import approval
from federation.blueprint.approval import Approval, Decision
from federation.dossier.document import MAX_BYTES, PAYLOAD_TYPE, Dossier, Paper, SiteWord
from federation.release import statement as documents
from federation.release.statement import Release, Withdrawal
from federation.study import Study
from kit import canonical, clock
from kit.errors import FormatError
from pki import certificates, identity, keys, verification

COORDINATOR = "coordinator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Who asked: a site, reviewers by name, or nobody, where it fell with `cause`."""

    site: str = ""
    reviewers: tuple[str, ...] = ()
    cause: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Destroyed:
    """A key, and when it was destroyed by the log; else `due`, which may be empty."""

    subject: str
    what: str
    time: str
    due: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Since:
    """A release published since, without anything of what fell."""

    digest: str
    labels: tuple[str, ...]
    time: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledgement:
    """What a site signed: the size of the log it saw, and when; nothing if `log_size` is 0."""

    pseudonym: str
    site: str
    log_size: int
    time: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What a dossier proves."""

    federation: str
    made: str
    blueprint: str
    study: str
    revoked: str
    asked: Asked
    fallen_blueprints: tuple[str, ...]
    fallen_releases: tuple[str, ...]
    destroyed: tuple[Destroyed, ...]
    releases_since: tuple[Since, ...]
    acknowledgements: tuple[Acknowledgement, ...]
    log_origin: str
    log_size: int
    log_root: str
    log_key_is: str
    not_reached: tuple[str, ...]


def verify(
    envelope: bytes,
    chain: Sequence[x509.Certificate],
    *,
    root: x509.Certificate,
    log_key: bytes | None = None,
    leaves: Sequence[bytes] = (),
    revocations: verification.Revocations | None = None,
) -> Verified:
    """Run steps 1 to 9.

    `leaves` is a copy of the log that the reader trusts, if there is one: what the dossier says of
    the log must be there, and every site that was active at the revocation must be named.

    Raises:
        FormatError: the first step that does not hold.
        IdentityError: a signature or certificate does not hold.
    """
    dossier = _signed_by_coordinator(envelope, chain, root, revocations)
    return _Check(dossier, root, leaves).run(log_key)


def _signed_by_coordinator(
    envelope: bytes,
    chain: Sequence[x509.Certificate],
    root: x509.Certificate,
    revocations: verification.Revocations | None,
) -> Dossier:
    parsed = dsse.parse(envelope, PAYLOAD_TYPE, limit=MAX_BYTES)
    claimed = Dossier.from_bytes(parsed.payload)  # for the time alone, until the signature fits
    proven = verification.verify_signing(
        chain, root=root, now=clock.parse_rfc3339(claimed.made), revocations=revocations
    )
    signer = identity.coordinator(claimed.federation)
    if proven != signer or parsed.keyid != certificates.fingerprint(chain[0]):
        raise FormatError(f"the dossier is not signed by `{signer.uri}`")
    raw = keys.public_bytes(chain[0].public_key())  # type: ignore[arg-type]
    return Dossier.from_bytes(dsse.verify(parsed, keys.verifying_key(raw)))


class _Check:
    """One dossier whose coordinator's signature holds (step 1)."""

    def __init__(self, dossier: Dossier, root: x509.Certificate, leaves: Sequence[bytes]) -> None:
        self._dossier, self._root, self._leaves = dossier, root, leaves
        self._entries = [(entry.index, entry.event) for entry in dossier.entries]

    def run(self, log_key: bytes | None) -> Verified:
        dossier = self._dossier
        head = self._check_log(log_key)
        index, revoked = self._revocation()
        asked = self._asked(index, revoked)
        blueprints, releases = self._gained(index)
        return Verified(
            federation=dossier.federation,
            made=dossier.made,
            blueprint=dossier.blueprint,
            study=str(revoked.details.get("study", "")),
            revoked=revoked.time,
            asked=asked,
            fallen_blueprints=tuple(sorted(blueprints - {dossier.blueprint})),
            fallen_releases=tuple(sorted(releases)),
            destroyed=self._destroyed(blueprints),
            releases_since=self._since(index, blueprints),
            acknowledgements=self._acknowledgements(index, head),
            log_origin=head.origin,
            log_size=head.size,
            log_root=head.root.hex(),
            log_key_is="the dossier's own" if log_key is None else "yours",
            not_reached=dossier.not_reached,
        )

    def _check_log(self, log_key: bytes | None) -> Checkpoint:
        """Run steps 2 and 3."""
        dossier = self._dossier
        if log_key is not None and log_key != dossier.log_key:
            raise FormatError("step 2: the dossier is about the log of another key than yours")
        origin, key = dossier.log_origin, dossier.log_key
        head = Checkpoint.verify(dossier.checkpoint, origin=origin, key=key)
        if len(self._leaves) >= head.size:
            hashes = [merkle.leaf_hash(leaf) for leaf in self._leaves[: head.size]]
            if merkle.root(hashes) != head.root:
                raise FormatError("step 2: the dossier is about another log than your copy")
        last = -1
        for entry in dossier.entries:
            if entry.index <= last:
                raise FormatError("step 3: the entries are not in the order of the log")
            last = entry.index
            leaf = merkle.leaf_hash(entry.leaf)
            merkle.verify_inclusion(leaf, entry.index, head.size, entry.path, head.root)
            if entry.index < len(self._leaves) and self._leaves[entry.index] != entry.leaf:
                raise FormatError("step 3: an entry is not the one of your copy of the log")
        self._check_founding()
        return head

    def _check_founding(self) -> None:
        index, first = self._entries[0] if self._entries else (-1, None)
        founding = (certificates.fingerprint(self._root), canonical.digest(self._dossier.study_key))
        if (
            first is None
            or (index, first.kind) != (0, Kind.FEDERATION_CREATED)
            or (first.subject, first.details.get("study_key")) != founding
        ):
            raise FormatError("step 3: the log does not begin with this root and this study key")

    def _revocation(self) -> tuple[int, Event]:
        """Run step 4."""
        known = [Event.from_leaf(leaf) for leaf in self._leaves if self._names_it(leaf)]
        ends = (Kind.BLUEPRINT_REVOKED, Kind.BLUEPRINT_RESTORED)
        states = [
            (index, event)
            for index, event in self._entries
            if event.subject == self._dossier.blueprint and event.kind in ends
        ]
        standing = [
            event.kind
            for event in known
            if event.subject == self._dossier.blueprint and event.kind in ends
        ][-1:]
        if (
            not states
            or states[-1][1].kind is not Kind.BLUEPRINT_REVOKED
            or Kind.BLUEPRINT_RESTORED in standing
        ):
            raise FormatError("step 4: the log does not say that this blueprint is revoked")
        return states[-1]

    def _names_it(self, leaf: bytes) -> bool:
        return self._dossier.blueprint.encode() in leaf

    def _asked(self, index: int, revoked: Event) -> Asked:
        """Run step 5."""
        if "cause" in revoked.details:
            return Asked(cause=str(revoked.details["cause"]))
        if revoked.actor != COORDINATOR:
            self._check_order(index, revoked)
            return Asked(site=revoked.actor)
        return Asked(reviewers=self._quorum(index, str(revoked.details.get("study", ""))))

    def _check_order(self, index: int, revoked: Event) -> None:
        for paper in self._papers("order"):
            if paper.digest != revoked.details.get("order"):
                continue
            parsed = dsse.parse(paper.envelope, documents.WITHDRAWAL_TYPE)
            leaf = certificates.from_pem(paper.chain)[0]
            self._require_signer(certificates.fingerprint(leaf), revoked.actor, index)
            if parsed.keyid != certificates.fingerprint(leaf):
                raise FormatError("step 5: the order names another certificate than its own")
            raw = keys.public_bytes(leaf.public_key())  # type: ignore[arg-type]
            order = Withdrawal.from_bytes(dsse.verify(parsed, keys.verifying_key(raw)))
            if order.blueprint != self._dossier.blueprint:
                raise FormatError("step 5: the order is about another blueprint")
            return
        raise FormatError("step 5: the site's signed order is missing")

    def _require_signer(self, fingerprint: str, pseudonym: str, before: int) -> None:
        kinds = (Kind.SITE_CONFIRMED, Kind.SIGNING_KEY_RENEWED)
        for index, event in self._entries:
            is_its = event.kind in kinds and event.details.get("site") == pseudonym
            if is_its and event.subject == fingerprint and index < before:
                return
        raise FormatError(
            "step 5: the log does not know the certificate of the order as the site's"
        )

    def _quorum(self, index: int, study_digest: str) -> tuple[str, ...]:
        found = self._study(study_digest)
        recorded = {
            event.details.get("record")
            for at, event in self._entries
            if event.kind is Kind.APPROVAL_RECORDED and at < index
        }
        records = []
        for paper in self._papers("approval"):
            record = Approval.verify(paper.envelope, study=found, blueprint=self._dossier.blueprint)
            if paper.digest not in recorded:
                raise FormatError("step 5: a reviewer's record is not on the log")
            records.append(record)
        if not approval.has_quorum(records, found, Decision.REVOKE):
            raise FormatError("step 5: no quorum of the study's reviewers signed for it")
        return tuple(sorted({r.reviewer for r in records if r.decision is Decision.REVOKE}))

    def _study(self, digest: str) -> Study:
        for paper in self._papers("study"):
            key = self._dossier.study_key
            found = Study.from_bytes(dsse.open_with_key(paper.envelope, study.PAYLOAD_TYPE, key))
            if found.digest == digest:
                return found
        raise FormatError("step 5: the signed manifest of the study is missing")

    def _gained(self, index: int) -> tuple[set[str], set[str]]:
        """Run step 6; returns the blueprints and the releases that this revocation took."""
        before, after = self._dossier.before, self._dossier.after
        bounds = []
        for held in (before, after):
            digest = revocations_digest(held.blueprints, held.releases)
            places = [
                at
                for at, event in self._entries
                if event.kind is Kind.REVOCATIONS_CHANGED
                and (event.subject, event.details.get("number")) == (digest, held.number)
            ]
            if not places:
                raise FormatError("step 6: a revocation list is not the one on the log")
            bounds.append(places[0])
        gained = set(after.blueprints) - set(before.blueprints)
        releases = set(after.releases) - set(before.releases)
        is_next = after.number == before.number + 1 and bounds[0] < index < bounds[1]
        if not is_next or self._dossier.blueprint not in gained:
            raise FormatError("step 6: the revocation is not what changed the list")
        between = {
            (event.kind, event.subject) for at, event in self._entries if bounds[0] < at < bounds[1]
        }
        wanted = {(Kind.BLUEPRINT_REVOKED, digest) for digest in gained}
        wanted |= {(Kind.RELEASE_WITHDRAWN, digest) for digest in releases}
        if wanted - between:
            raise FormatError("step 6: the entry of something that fell is missing")
        return gained, releases

    def _destroyed(self, blueprints: set[str]) -> tuple[Destroyed, ...]:
        """Run step 7."""
        found = [self._end_of(digest, "blueprint's key") for digest in sorted(blueprints)]
        kid = self._dossier.recipient_key
        issued = (Kind.RECIPIENT_ISSUED, kid)
        if issued not in {(event.kind, event.subject) for _, event in self._entries}:
            raise FormatError("step 7: the recipient key is not one of the log")
        found.append(self._end_of(kid, "recipient key"))
        return tuple(found)

    def _end_of(self, subject: str, what: str) -> Destroyed:
        time, due = "", ""
        for _, event in self._entries:
            if event.subject != subject:
                continue
            if event.kind is Kind.KEY_DESTROYED:
                time = event.time
            elif event.kind is Kind.BLUEPRINT_REVOKED:
                until = event.details.get("until", 0)
                due = clock.rfc3339(datetime.fromtimestamp(until, UTC)) if until else ""
        return Destroyed(subject=subject, what=what, time=time, due=due)

    def _since(self, index: int, blueprints: set[str]) -> tuple[Since, ...]:
        """Run step 8."""
        published = {
            (event.subject, event.details.get("statement")): event.time
            for at, event in self._entries
            if event.kind is Kind.RELEASE_PUBLISHED and at > index
        }
        found = []
        for paper in self._papers("release"):
            payload = dsse.parse(paper.envelope, documents.RELEASE_TYPE).payload
            release = Release.from_bytes(payload)
            time = published.get((release.digest, canonical.digest(payload)))
            if time is None:
                raise FormatError("step 8: a release is not one that the log has since")
            documents.open_signed(
                paper.envelope,
                documents.RELEASE_TYPE,
                certificates.from_pem(paper.chain),
                signer=identity.coordinator(self._dossier.federation),
                root=self._root,
                now=clock.parse_rfc3339(time),
            )
            if set(release.ancestors) & blueprints:
                raise FormatError("step 8: a release since descends from what fell")
            found.append(Since(digest=release.digest, labels=release.labels, time=time))
        return tuple(found)

    def _acknowledgements(self, index: int, head: Checkpoint) -> tuple[Acknowledgement, ...]:
        """Run step 9."""
        sites = self._dossier.sites
        if len({site.pseudonym for site in sites}) != len(sites):
            raise FormatError("step 9: a site is named twice")
        if index < len(self._leaves):
            history = History().read([read_leaf(leaf) for leaf in self._leaves[:index]])
            active = {name for name, state in history.sites.items() if state == "active"}
            if active - {site.pseudonym for site in sites}:
                raise FormatError("step 9: a site that was active at the revocation is not named")
        return tuple(self._acknowledged(site, index, head) for site in sites)

    def _acknowledged(self, site: SiteWord, index: int, head: Checkpoint) -> Acknowledgement:
        keys_held = [
            bytes.fromhex(event.subject)
            for _, event in self._entries
            if event.kind is Kind.WITNESS_REGISTERED and event.details.get("site") == site.pseudonym
        ]
        if not keys_held:
            raise FormatError(f"step 9: the log knows no witness key of `{site.pseudonym}`")
        if not site.checkpoint:
            return Acknowledgement(pseudonym=site.pseudonym, site=site.id, log_size=0, time="")
        seen = Checkpoint.verify(site.checkpoint, origin=head.origin, key=self._dossier.log_key)
        [leaf] = [entry.leaf for entry in self._dossier.entries if entry.index == index]
        merkle.verify_inclusion(merkle.leaf_hash(leaf), index, seen.size, site.path, seen.root)
        name = witness_name(head.origin, site.pseudonym)
        for key in keys_held:
            signed = cosignatures(site.checkpoint, {name: key})
            if name in signed:
                time = clock.rfc3339(signed[name])
                return Acknowledgement(
                    pseudonym=site.pseudonym, site=site.id, log_size=seen.size, time=time
                )
        raise FormatError(f"step 9: `{site.pseudonym}` did not sign what stands as its word")

    def _papers(self, kind: str) -> list[Paper]:
        return [paper for paper in self._dossier.papers if paper.kind == kind]
