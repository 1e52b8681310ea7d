"""The statement: what a site signs about its blueprint (in-toto Statement v1).

Its digest, SHA-256 of the canonical bytes, names the blueprint everywhere. The context is bound
twice: signed here, and as HPKE info and payload-encryption context (`Context.binding`).
"""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any, Self

from federation.blueprint import limits
from federation.blueprint.privacy import PrivacyClaim
from kit import canonical, clock
from kit.errors import FormatError

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://hospital-edge-kit.dev/blueprint/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"

VERSION = 1
SUITE = "XWing-HKDFSHA256-AES256GCM+Cobblestone256+Ed25519"
TASK = "classification"
WEIGHTS, ARCHITECTURE = "weights.safetensors", "architecture.json"
CIPHERTEXT, WRAPPED_KEY = "payload.c2sp", "wrapped-key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """From whom, to whom, for what: the part that signature and encryption both bind."""

    version: int
    suite: str
    sender: str
    sender_cert: str
    recipient: str
    kid: str
    study_digest: str
    round: int
    base: str | None
    seq: int
    id: str

    @property
    def binding(self) -> bytes:
        """HPKE info and Cobblestone context: a fixed prefix and SHA-256 of the canonical form."""
        return b"FFBP v1 " + hashlib.sha256(canonical.encode(asdict(self))).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One plaintext file inside the payload: where it lies and its SHA-256."""

    name: str
    sha256: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """The site's own tests on private data: the verdict, and a digest of the local report."""

    passed: bool
    report: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """Everything that leaves the hospital besides the encrypted payload."""

    context: Context
    ciphertext_sha256: str
    ciphertext_length: int
    wrapped_key_sha256: str
    files: tuple[FileEntry, ...]
    task: str
    outputs: tuple[str, ...]
    architecture: dict[str, Any]
    privacy: PrivacyClaim
    gate: Gate
    issued: str
    expires: str

    @property
    def digest(self) -> str:
        """The hexadecimal SHA-256 that names the blueprint."""
        return canonical.digest(self.to_bytes())

    @property
    def plaintext_length(self) -> int:
        """Bytes of the decrypted payload."""
        return sum(entry.length for entry in self.files)

    def file(self, name: str) -> FileEntry:
        """Return the entry of one plaintext file.

        Raises:
            RuntimeError: a parsed statement always has both files.
        """
        for entry in self.files:
            if entry.name == name:
                return entry
        raise RuntimeError(f"statement has no file {name}")

    def to_bytes(self) -> bytes:
        """Return the canonical in-toto statement."""
        subjects: list[dict[str, Any]] = [
            _subject(CIPHERTEXT, self.ciphertext_sha256, 0, self.ciphertext_length),
            *(_subject(f.name, f.sha256, f.offset, f.length) for f in self.files),
            {"name": WRAPPED_KEY, "digest": {"sha256": self.wrapped_key_sha256}},
        ]
        predicate = {
            "context": asdict(self.context),
            "task": self.task,
            "outputs": list(self.outputs),
            "architecture": self.architecture,
            "privacy": self.privacy.to_table(),
            "gate": asdict(self.gate),
            "issued": self.issued,
            "expires": self.expires,
        }
        return canonical.encode(
            {
                "_type": STATEMENT_TYPE,
                "subject": subjects,
                "predicateType": PREDICATE_TYPE,
                "predicate": predicate,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse a statement; every field is checked for form, not yet for truth.

        Raises:
            FormatError: not canonical, or a field is missing, unknown or out of range.
        """
        table = canonical.fields(
            canonical.decode(data, limit=limits.MAX_STATEMENT_BYTES),
            {"_type", "subject", "predicateType", "predicate"},
            what="statement",
        )
        if table["_type"] != STATEMENT_TYPE or table["predicateType"] != PREDICATE_TYPE:
            raise FormatError("statement is not an in-toto blueprint statement")
        names = {"context", "task", "outputs", "architecture", "privacy", "gate"}
        predicate = canonical.fields(
            table["predicate"], names | {"issued", "expires"}, what="predicate"
        )
        cipher, files, wrapped = _subjects(table["subject"])
        statement = cls(
            context=_context(predicate["context"]),
            ciphertext_sha256=cipher.sha256,
            ciphertext_length=cipher.length,
            wrapped_key_sha256=wrapped,
            files=files,
            task=canonical.name(predicate["task"], what="task"),
            outputs=_labels(predicate["outputs"]),
            architecture=_object(predicate["architecture"]),
            privacy=PrivacyClaim.from_table(predicate["privacy"]),
            gate=_gate(predicate["gate"]),
            issued=clock.rfc3339(clock.parse_rfc3339(predicate["issued"], what="issued")),
            expires=clock.rfc3339(clock.parse_rfc3339(predicate["expires"], what="expires")),
        )
        # What is stored, named and shown must be what was signed.
        if statement.to_bytes() != data:
            raise FormatError("statement does not read back as the signed bytes")
        return statement


def _subject(name: str, sha256: str, offset: int, length: int) -> dict[str, Any]:
    place = {"offset": offset, "length": length}
    return {"name": name, "digest": {"sha256": sha256}, "annotations": place}


def _subjects(value: Any) -> tuple[FileEntry, tuple[FileEntry, ...], str]:
    if not isinstance(value, list) or len(value) != 4:
        raise FormatError("a statement has four subjects")
    entries = tuple(_file(item) for item in value[:3])
    if [entry.name for entry in entries] != [CIPHERTEXT, WEIGHTS, ARCHITECTURE]:
        raise FormatError("the subjects are not those of a blueprint, in order")
    wrapped = canonical.fields(value[3], {"name", "digest"}, what="subject")
    if wrapped["name"] != WRAPPED_KEY:
        raise FormatError("the last subject is not the wrapped key")
    return entries[0], entries[1:], _sha256(wrapped["digest"])


def _file(value: Any) -> FileEntry:
    table = canonical.fields(value, {"name", "digest", "annotations"}, what="subject")
    place = canonical.fields(table["annotations"], {"offset", "length"}, what="annotations")
    high = canonical.MAX_INTEGER
    return FileEntry(
        name=canonical.name(table["name"], what="subject name"),
        sha256=_sha256(table["digest"]),
        offset=canonical.integer(place["offset"], low=0, high=high, what="offset"),
        length=canonical.integer(place["length"], low=0, high=high, what="length"),
    )


def _sha256(value: Any) -> str:
    return canonical.sha256_hex(canonical.fields(value, {"sha256"}, what="digest")["sha256"])


def _context(value: Any) -> Context:
    table = canonical.fields(value, set(Context.__slots__), what="context")
    canonical.integer(table["version"], low=1, high=1000, what="version")
    canonical.label(table["suite"], what="suite")
    for name in ("sender_cert", "kid", "study_digest"):
        canonical.sha256_hex(table[name], what=name)
    for name in ("sender", "recipient"):
        if not isinstance(table[name], str) or len(table[name]) > 256:
            raise FormatError(f"{name} is not an identity")
    if table["base"] is not None:
        canonical.sha256_hex(table["base"], what="base")
    canonical.integer(table["round"], low=1, high=1_000_000, what="round")
    canonical.integer(table["seq"], low=1, high=limits.MAX_SEQUENCE, what="seq")
    canonical.name(table["id"], what="id")
    return Context(**table)


def _labels(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise FormatError("outputs is not a list of labels")
    labels = tuple(canonical.label(item, what="output") for item in value)
    if len(set(labels)) != len(labels):
        raise FormatError("outputs are not distinct")
    return labels


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FormatError("architecture is not an object")
    return value


def _gate(value: Any) -> Gate:
    table = canonical.fields(value, {"passed", "report"}, what="gate")
    if not isinstance(table["passed"], bool):
        raise FormatError("gate verdict is not true or false")
    return Gate(passed=table["passed"], report=canonical.sha256_hex(table["report"], what="report"))
