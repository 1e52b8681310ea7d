"""A small federation in memory: real keys and certificates, a study, two sites, a log.

Nothing is mocked: every object here is what the real code makes, only small. The tensor table is
made by hand, so that blueprints are sealed and opened without torch.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from cryptography import x509

from edge_agent.trust import Entry, News, ReleaseNews, StatusNews, StudyNews
from federation import accounting, dsse
from federation import study as studies
from federation.auditlog import merkle
from federation.auditlog.checkpoint import Checkpoint, Receipt
from federation.auditlog.events import Event, Kind
from federation.auditlog.history import revocations_digest
from federation.blueprint import envelope, weights
from federation.blueprint.privacy import DeclaredEvent, GaussianMechanism, PrivacyClaim
from federation.blueprint.statement import (
    SUITE,
    VERSION,
    Context,
    Gate,
    Statement,
)
from federation.build_policy import BuildPolicy
from federation.release import statement as documents
from federation.study import (
    ArchitectureRef,
    ImageRule,
    PersonalData,
    PrivacyPolicy,
    RecipientKey,
    Reviewer,
    Study,
    Unit,
)
from kit import canonical, clock
from kit.errors import FormatError
from pki import certificates, crl, identity, kem, keys
from pki.enrolment import Pins

NAME = "riverside"
NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
DELTA = 1e-6
TABLE: weights.Table = {"head.bias": ("BF16", (3,)), "label.weight": ("BF16", (3, 4))}
EMBEDDING = "label.weight"
CLASSES = ("cat", "dog", "eel")
OUTPUTS = ("cat", "dog")
ARCHITECTURE: dict[str, Any] = {"kind": "hand-made", "version": 1, "preset": "tiny"}
ZERO_DIGEST = "0" * 64


def tensors() -> weights.Arrays:
    """Return values that bfloat16 holds exactly; the row of the undeclared class is zero."""
    label = np.arange(12, dtype=np.float32).reshape(3, 4) / 8
    label[2] = 0
    return {"head.bias": np.array([0.5, -0.25, 3.0], dtype=np.float32), EMBEDDING: label}


def mechanism(*before: accounting.DpEvent, **changes: Any) -> GaussianMechanism:
    """Return honest privacy parameters of a short run, after the events `before` it."""
    base = {"sample_rate": 0.01, "noise_multiplier": 2.0, "steps": 50, "delta": DELTA}
    base |= {name: value for name, value in changes.items() if name != "epsilon"}
    delta = base.pop("delta")
    events = (*before, accounting.DpEvent(**base))
    honest = changes["epsilon"] if "epsilon" in changes else accounting.compose(events, delta)
    declared = tuple(DeclaredEvent(**asdict(event)) for event in events)
    return GaussianMechanism(events=declared, delta=delta, epsilon=honest)


def claims(**changes: Any) -> envelope.Claims:
    """Return honest claims; `privacy` fields may be given one by one."""
    privacy = PrivacyClaim(
        unit=changes.pop("unit", "image"),
        gaussian=changes.pop("gaussian", mechanism()),
        ledger_head=canonical.digest(b"ledger"),
        ledger_counter=changes.pop("ledger_counter", 3),
    )
    base = envelope.Claims(
        outputs=OUTPUTS,
        privacy=privacy,
        gate=Gate(passed=True, report=canonical.digest(b"report")),
        issued=NOW,
    )
    return replace(base, **changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A site or the coordinator: its identity, keys and chains (leaf first)."""

    identity: identity.Identity
    tls_key: keys.TlsKey
    tls_chain: tuple[x509.Certificate, ...]
    signing_key: keys.SigningKey
    signing_chain: tuple[x509.Certificate, ...]

    @property
    def name(self) -> str:
        return self.identity.name

    @property
    def keyid(self) -> str:
        return certificates.fingerprint(self.signing_chain[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Federation:
    """Everything that exists before the first blueprint."""

    root: certificates.Authority
    issuing: certificates.Authority
    coordinator: Member
    a: Member
    b: Member
    study_key: keys.SigningKey
    log_key: keys.SigningKey
    reviewer_keys: tuple[keys.SigningKey, ...]
    study: Study
    recipient_seed: bytes
    recipient: bytes

    @property
    def pins(self) -> Pins:
        return Pins(
            federation=NAME,
            root_der=certificates.der(self.root.certificate),
            study_key=keys.public_bytes(self.study_key),
            log_origin=f"{NAME}/log",
            log_key=keys.public_bytes(self.log_key),
        )

    def context(self, site: Member, **changes: Any) -> Context:
        """Return the honest context of `site`'s first blueprint."""
        base = Context(
            version=VERSION,
            suite=SUITE,
            sender=site.identity.uri,
            sender_cert=site.keyid,
            recipient=self.coordinator.identity.uri,
            kid=kem.key_id(self.recipient),
            study_digest=self.study.digest,
            round=self.study.round,
            base=None,
            seq=7,
            id="b-1",
        )
        return replace(base, **changes)

    def seal(
        self,
        site: Member,
        *,
        context: Context | None = None,
        claimed: envelope.Claims | None = None,
        data: bytes | None = None,
        architecture: Mapping[str, object] = ARCHITECTURE,
    ) -> envelope.Sealed:
        """Return `site`'s sealed blueprint."""
        return envelope.seal(
            weights.write(tensors()) if data is None else data,
            architecture,
            context or self.context(site),
            claimed or claims(),
            recipient=self.recipient,
            key=site.signing_key,
        )

    def expectations(self, site: Member, **changes: Any) -> envelope.Expectations:
        """Return what the coordinator knows when `site` submits for the first time."""
        base = envelope.Expectations(
            now=NOW,
            root=self.root.certificate,
            channel=site.identity,
            recipient=self.coordinator.identity,
            study=self.study,
            study_open=True,
            kid=kem.key_id(self.recipient),
            last_seq=6,
            ledger_counter=3,
            used_digests=frozenset(),
            architecture=_only_the_hand_made,
        )
        return replace(base, **changes)

    def verify(
        self,
        site: Member,
        sealed: envelope.Sealed,
        chain: tuple[x509.Certificate, ...] | None = None,
        **changes: Any,
    ) -> Statement:
        """Run steps 1 to 15."""
        return envelope.verify_statement(
            sealed.envelope,
            sealed.wrapped_key,
            site.signing_chain if chain is None else chain,
            self.expectations(site, **changes),
        )

    def open(self, site: Member, sealed: envelope.Sealed) -> bytes:
        """Run steps 1 to 22 and return the plaintext."""
        statement = self.verify(site, sealed)
        key = envelope.unwrap_key(sealed.wrapped_key, self.recipient_seed, statement)
        plaintext = envelope.open_payload(sealed.ciphertext, key, statement)
        envelope.check_files(plaintext, statement, TABLE, embedding=EMBEDDING, classes=CLASSES)
        return plaintext


def _only_the_hand_made(_study: Study, declared: Mapping[str, object]) -> None:
    if declared != ARCHITECTURE:
        raise FormatError("the architecture is not one that the study allows")


def found(*, personal_data: PersonalData = PersonalData.REFUSED, reviewers: int = 3) -> Federation:
    """Return a fresh federation as of `NOW`."""
    root = certificates.new_root(NAME, now=NOW)
    issuing = certificates.new_issuing(root, NAME, now=NOW)
    reviewer_keys = tuple(keys.new_signing_key() for _ in range(reviewers))
    seed = kem.new_seed()
    return Federation(
        root=root,
        issuing=issuing,
        coordinator=member(issuing, identity.coordinator(NAME)),
        a=member(issuing, identity.site(NAME, "a")),
        b=member(issuing, identity.site(NAME, "b")),
        study_key=keys.new_signing_key(),
        log_key=keys.new_signing_key(),
        reviewer_keys=reviewer_keys,
        study=study(reviewer_keys, personal_data=personal_data),
        recipient_seed=seed,
        recipient=kem.public_key(seed),
    )


def member(issuing: certificates.Authority, who: identity.Identity) -> Member:
    """Return a member with fresh keys and certificates."""
    tls_key, signing_key = keys.new_tls_key(), keys.new_signing_key()
    client = certificates.issue_tls_client(issuing, who, tls_key.public_key(), now=NOW)
    signing = certificates.issue_signing(issuing, who, signing_key.public_key(), now=NOW)
    return Member(
        identity=who,
        tls_key=tls_key,
        tls_chain=(client, issuing.certificate),
        signing_key=signing_key,
        signing_chain=(signing, issuing.certificate),
    )


def study(
    reviewer_keys: tuple[keys.SigningKey, ...],
    *,
    personal_data: PersonalData = PersonalData.REFUSED,
) -> Study:
    """Return a study of three classes with a quorum of two (or one lone reviewer)."""
    return Study(
        federation=NAME,
        id="animals",
        round=1,
        title="Animals",
        classes=CLASSES,
        image=ImageRule(channels=1, height=8, width=8),
        method="federated-factory",
        architectures=(ArchitectureRef(kind="edm-unet2d", version=1, preset="tiny"),),
        privacy=PrivacyPolicy(
            personal_data=personal_data, unit=Unit.IMAGE, epsilon=8.0, delta=1e-5
        ),
        minimum_per_class=10,
        build=BuildPolicy(
            version=1, shard_size=16, sampler_steps=3, classifier="small", classifier_steps=1
        ),
        quorum=min(2, len(reviewer_keys)),
        reviewers=tuple(
            Reviewer(name=f"reviewer-{i}", public_key=keys.public_bytes(key).hex())
            for i, key in enumerate(reviewer_keys)
        ),
        created="2026-01-01T00:00:00Z",
    )


class MemoryCoordinator:
    """A coordinator that keeps its log in a list and answers contacts; lies only when told to."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.leaves: list[bytes] = []
        self.number = 0
        self.revoked: set[str] = set()
        self.withdrawn: set[str] = set()
        self.states: dict[str, str] = {}
        self.releases: list[documents.Release] = []
        self.revoked_certificates: list[crl.Revoked] = []
        self.now = NOW
        self.first_leaf = 0
        self.witnessed: tuple[str, ...] = ()
        root = certificates.fingerprint(federation.root.certificate)
        study_key = canonical.digest(federation.pins.study_key)
        self.record(Kind.FEDERATION_CREATED, root, study_key=study_key, cosigners=1)
        study = federation.study.digest
        self.record(Kind.STUDY_CREATED, study, round=1)
        for name in ("a", "b"):
            kid = kem.key_id(federation.recipient)
            self.record(Kind.RECIPIENT_ISSUED, kid, study=study, site=f"s-{name}")
        self.change_list(number=0)

    def record(self, kind: Kind, subject: str, **details: Any) -> None:
        """Append one event to the log."""
        if kind in (Kind.TOKEN_ISSUED, Kind.SITE_REVOKED):
            details.setdefault("site", "s-z")
        event = Event(
            kind=kind,
            time=clock.rfc3339(self.now),
            subject=subject,
            actor="coordinator",
            details=details,
        )
        self.leaves.append(event.to_leaf())

    def set_state(self, digest: str, state: str, kind: Kind) -> None:
        """Move a blueprint of site a, with its log entry."""
        self.states[digest] = state
        self.record(kind, digest)

    def publish(self, *ancestors: str, model: bytes = b"model") -> documents.Release:
        """Publish a release that descends from `ancestors`."""
        made = release(self.federation, *ancestors, model=model)
        statement = canonical.digest(made.to_bytes())
        self.record(Kind.RELEASE_PUBLISHED, made.digest, statement=statement)
        self.releases.append(made)
        return made

    def revoke(self, blueprint: str) -> None:
        """Revoke a blueprint and withdraw every release that descends from it."""
        self.set_state(blueprint, "revoked", Kind.BLUEPRINT_REVOKED)
        self.revoked.add(blueprint)
        for item in self.releases:
            if blueprint in item.ancestors:
                self.record(Kind.RELEASE_WITHDRAWN, item.digest)
                self.withdrawn.add(item.digest)
        self.change_list(number=self.number + 1)

    def change_list(self, *, number: int) -> None:
        """Give the revocation list a number, on the log."""
        self.number = number
        content = revocations_digest(self.revoked, self.withdrawn)
        self.record(Kind.REVOCATIONS_CHANGED, content, number=number)

    def news(self, known_size: int = 0) -> News:
        """Answer one contact of site a."""
        who = self.federation.coordinator
        hashes = [merkle.leaf_hash(leaf) for leaf in self.leaves]
        proof = merkle.consistency_proof(known_size, hashes) if known_size else []
        return News(
            checkpoint=self.checkpoint(),
            consistency=tuple(proof),
            revocations=documents.sign(
                self.revocations().to_bytes(),
                documents.REVOCATIONS_TYPE,
                who.signing_key,
                who.signing_chain[0],
            ),
            certificate_revocations=self.certificate_revocations(),
            authority_revocations=b"",
            signing_chain=certificates.pem(*who.signing_chain),
            pseudonym_salt=b"",
            studies=(self.study_news(),),
            blueprints=tuple(self._status(d, s) for d, s in self.states.items()),
            releases=tuple(self._release(item) for item in self.releases),
            first_leaf=self.first_leaf,
            leaves=tuple(self.leaves[self.first_leaf :]),
            witnessed=self.witnessed,
        )

    def checkpoint(self) -> str:
        """Return the signed note of the log as it is."""
        hashes = [merkle.leaf_hash(leaf) for leaf in self.leaves]
        origin = self.federation.pins.log_origin
        head = Checkpoint(origin=origin, size=len(hashes), root=merkle.root(hashes))
        return head.sign(self.federation.log_key)

    def revocations(self) -> documents.Revocations:
        """Return the current list, unsigned."""
        return documents.Revocations(
            federation=NAME,
            number=self.number,
            issued=clock.rfc3339(self.now),
            blueprints=tuple(sorted(self.revoked)),
            releases=tuple(sorted(self.withdrawn)),
        )

    def certificate_revocations(self, *, number: int | None = None) -> bytes:
        """Return the list of revoked certificates as of `now`."""
        return crl.issue(
            self.federation.issuing,
            self.revoked_certificates,
            number=len(self.revoked_certificates) + 1 if number is None else number,
            now=self.now,
        )

    def study_news(self, *, site: str = "a") -> StudyNews:
        """Return the signed study with the signed key of one site."""
        world = self.federation
        keyid = canonical.digest(keys.public_bytes(world.study_key))
        recipient = RecipientKey(
            study_digest=world.study.digest, round=1, site=site, public=world.recipient
        )
        return StudyNews(
            manifest=dsse.sign(
                world.study.to_bytes(), studies.PAYLOAD_TYPE, world.study_key, keyid=keyid
            ),
            recipient_key=dsse.sign(
                recipient.to_bytes(), studies.RECIPIENT_KEY_TYPE, world.study_key, keyid=keyid
            ),
            open=True,
        )

    def entries(self, subject: str) -> list[Entry]:
        """Return every entry about one digest, with receipts to the current checkpoint."""
        hashes = [merkle.leaf_hash(leaf) for leaf in self.leaves]
        return [
            Entry(
                leaf=leaf,
                receipt=Receipt(
                    index=index,
                    path=tuple(merkle.inclusion_proof(index, hashes)),
                    checkpoint=self.checkpoint(),
                ).to_text(),
            )
            for index, leaf in enumerate(self.leaves)
            if Event.from_leaf(leaf).subject == subject
        ]

    def _status(self, digest: str, state: str) -> StatusNews:
        return StatusNews(
            digest=digest,
            study_digest=self.federation.study.digest,
            state=state,
            reason="",
            entries=tuple(self.entries(digest)),
        )

    def _release(self, item: documents.Release) -> ReleaseNews:
        who = self.federation.coordinator
        published, *later = self.entries(item.digest)
        return ReleaseNews(
            envelope=documents.sign(
                item.to_bytes(), documents.RELEASE_TYPE, who.signing_key, who.signing_chain[0]
            ),
            signing_chain=certificates.pem(*who.signing_chain),
            withdrawn=item.digest in self.withdrawn,
            published=published,
            withdrawal=tuple(later),
            earlier=(),
        )


def release(
    federation: Federation, *ancestors: str, model: bytes = b"model", **changes: Any
) -> documents.Release:
    """Return a release of the study."""
    base = documents.Release(
        study=federation.study.id,
        study_digest=federation.study.digest,
        round=1,
        plan=canonical.digest(b"plan"),
        labels=OUTPUTS,
        personal_data=False,
        ancestors=tuple(sorted(ancestors)),
        artefacts=(
            documents.Artefact(
                role=documents.Role.INFERENCE_MODEL,
                media_type=documents.ONNX_MEDIA_TYPE,
                sha256=canonical.digest(model),
                length=len(model),
                licence="CC-BY-4.0",
            ),
        ),
        numerics=canonical.digest(b"numerics"),
        created=clock.rfc3339(NOW),
        lease_until=clock.rfc3339(NOW + timedelta(days=90)),
    )
    return replace(base, **changes)
