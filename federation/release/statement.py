"""What the coordinator signs towards the sites: releases, and the list of what is revoked.

Both are DSSE envelopes under the coordinator's document-signing certificate, which chains to the
root that every site pinned. A release is named by the digest of its model or base alone.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from cryptography import x509

from federation import dsse
from kit import canonical, clock
from kit.errors import FormatError
from pki import certificates, identity, keys, verification

RELEASE_TYPE = "application/vnd.hospital-edge-kit.release+json"
REVOCATIONS_TYPE = "application/vnd.hospital-edge-kit.revocations+json"
WITHDRAWAL_TYPE = "application/vnd.hospital-edge-kit.withdrawal+json"
RESTORATION_TYPE = "application/vnd.hospital-edge-kit.restoration+json"
VERSION = 1
MAX_ARTEFACTS = 8
MAX_ANCESTORS = 4096
MAX_MODEL_BYTES = 256 << 20
ONNX_MEDIA_TYPE = "application/onnx"
RESEARCH_USE = "research use only, not a medical device"


class Role(StrEnum):
    """What an artefact of a release is for."""

    INFERENCE_MODEL = "inference-model"
    INITIAL_WEIGHTS = "initial-weights"
    ML_BOM = "ml-bom"
    MODEL_SIGNATURE = "model-signature"
    GOLDEN_IMAGES = "golden-images"
    SYNTHETIC_SET = "synthetic-set"


# What each is called: at a site, and in the repository below the release's digest.
FILE_NAMES = {
    Role.INFERENCE_MODEL: "model.onnx",
    Role.INITIAL_WEIGHTS: "start.base",
    Role.ML_BOM: "model.cdx.json",
    Role.MODEL_SIGNATURE: "model.sig",
    Role.GOLDEN_IMAGES: "golden.json",
    Role.SYNTHETIC_SET: "synthetic.set",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """One file of a release."""

    role: Role
    media_type: str
    sha256: str
    length: int
    licence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A published build, or a base; artefacts, labels in order, and everything it came from.

    The first artefact says which: a build's is the inference model, a base's the weights that a
    training may start from. The others lie beside it, one of a role. A base has no ancestors:
    nobody's blueprint went into it.
    """

    study: str
    study_digest: str
    round: int
    plan: str
    labels: tuple[str, ...]
    personal_data: bool
    ancestors: tuple[str, ...]
    artefacts: tuple[Artefact, ...]
    numerics: str
    created: str
    lease_until: str | None
    notice: str = RESEARCH_USE

    @property
    def model(self) -> Artefact:
        """The inference model, or the base's file."""
        return self.artefacts[0]

    @property
    def companions(self) -> tuple[Artefact, ...]:
        """What lies beside the model; none with a release of before there were any."""
        return self.artefacts[1:]

    @property
    def is_base(self) -> bool:
        """Whether this is what a training may start from, and no model to predict with."""
        return self.model.role is Role.INITIAL_WEIGHTS

    @property
    def digest(self) -> str:
        """The digest that names the release: that of its first artefact alone."""
        return self.model.sha256

    def to_bytes(self) -> bytes:
        """Return the canonical bytes that are signed."""
        return canonical.encode(asdict(self) | {"version": VERSION})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse canonical bytes.

        Raises:
            FormatError: a field is missing, unknown or out of range.
        """
        table = _table(data, set(cls.__slots__), what="release")
        canonical.name(table["study"], what="study id")
        for name in ("study_digest", "plan", "numerics"):
            canonical.sha256_hex(table[name], what=name)
        canonical.integer(table["round"], low=1, high=1_000_000, what="round")
        clock.parse_rfc3339(table["created"], what="created")
        if table["lease_until"] is not None:
            clock.parse_rfc3339(table["lease_until"], what="lease_until")
        if not isinstance(table["personal_data"], bool) or table["notice"] != RESEARCH_USE:
            raise FormatError("release notice or personal_data is off")
        table["labels"] = tuple(canonical.label(x) for x in _list(table["labels"], 1000))
        table["ancestors"] = _digests(table["ancestors"])
        table["artefacts"] = tuple(_artefact(x) for x in _list(table["artefacts"], MAX_ARTEFACTS))
        found = cls(**table)
        if found.model.role not in (Role.INFERENCE_MODEL, Role.INITIAL_WEIGHTS):
            raise FormatError("a release does not begin with a model or a base")
        if len({artefact.role for artefact in found.artefacts}) != len(found.artefacts):
            raise FormatError("a release has two artefacts of one role")
        if found.is_base and (found.ancestors or found.personal_data):
            raise FormatError("what blueprints or personal data went into is no base")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocations:
    """Everything out of use, as of a number that only grows; sites keep the highest they saw."""

    federation: str
    number: int
    issued: str
    blueprints: tuple[str, ...]
    releases: tuple[str, ...]

    def to_bytes(self) -> bytes:
        """Return the canonical bytes that are signed."""
        return canonical.encode(asdict(self) | {"version": VERSION})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse canonical bytes.

        Raises:
            FormatError: a field is missing, unknown or out of range.
        """
        table = _table(data, set(cls.__slots__), what="revocation list")
        canonical.name(table["federation"], what="federation")
        canonical.integer(table["number"], low=0, high=canonical.MAX_INTEGER, what="number")
        clock.parse_rfc3339(table["issued"], what="issued")
        table["blueprints"] = _digests(table["blueprints"])
        table["releases"] = _digests(table["releases"])
        return cls(**table)


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawal:
    """A site takes its own blueprint back; signed with its signing key, not its TLS key (A3).

    Of type `RESTORATION_TYPE`, the same fields undo that within the grace period.
    """

    blueprint: str
    study_digest: str
    reason_commitment: str
    time: str

    def to_bytes(self) -> bytes:
        """Return the canonical bytes that are signed."""
        return canonical.encode(asdict(self) | {"version": VERSION})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse canonical bytes.

        Raises:
            FormatError: a field is missing, unknown or out of range.
        """
        table = _table(data, set(cls.__slots__), what="withdrawal")
        for name in ("blueprint", "study_digest", "reason_commitment"):
            canonical.sha256_hex(table[name], what=name)
        clock.parse_rfc3339(table["time"])
        return cls(**table)


def sign(payload: bytes, kind: str, key: keys.SigningKey, certificate: x509.Certificate) -> bytes:
    """Return the envelope of `payload` under a document-signing certificate."""
    return dsse.sign(payload, kind, key, keyid=certificates.fingerprint(certificate))


def open_signed(
    envelope: bytes,
    kind: str,
    chain: Sequence[x509.Certificate],
    *,
    signer: identity.Identity,
    root: x509.Certificate,
    now: datetime,
    revocations: verification.Revocations | None = None,
) -> bytes:
    """Return the payload of an envelope that `signer` signed, at `now`, under the pinned root.

    Raises:
        FormatError: the envelope is off or names another certificate.
        IdentityError: the certificate is not `signer`'s for document signing, or a bad signature.
    """
    parsed = dsse.parse(envelope, kind)
    proven = verification.verify_signing(chain, root=root, now=now, revocations=revocations)
    if proven != signer or parsed.keyid != certificates.fingerprint(chain[0]):
        raise FormatError(f"the document is not signed by `{signer.uri}`")
    raw = keys.public_bytes(chain[0].public_key())  # type: ignore[arg-type]
    return dsse.verify(parsed, keys.verifying_key(raw))


def _table(data: bytes, names: set[str], *, what: str) -> dict[str, Any]:
    table = canonical.fields(canonical.decode(data), names | {"version"}, what=what)
    canonical.version(table.pop("version"), expected=VERSION, what=what)
    return table


def _list(value: Any, most: int) -> list[Any]:
    if not isinstance(value, list) or not 0 < len(value) <= most:
        raise FormatError("a list is missing, empty or too long")
    return value


def _digests(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_ANCESTORS:
        raise FormatError("a list of digests is missing or too long")
    digests = tuple(canonical.sha256_hex(item) for item in value)
    if list(digests) != sorted(set(digests)):
        raise FormatError("digests are not sorted and distinct")
    return digests


def _artefact(value: Any) -> Artefact:
    table = canonical.fields(value, set(Artefact.__slots__), what="artefact")
    try:
        table["role"] = Role(table["role"])
    except ValueError as error:
        raise FormatError("artefact role is unknown") from error
    canonical.sha256_hex(table["sha256"], what="artefact digest")
    canonical.integer(table["length"], low=1, high=MAX_MODEL_BYTES, what="artefact length")
    canonical.label(table["media_type"], what="media type")
    canonical.label(table["licence"], what="licence")
    return Artefact(**table)
