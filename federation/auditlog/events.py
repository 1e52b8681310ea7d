"""What the log records: one canonical JSON leaf per event, digests and pseudonyms only.

No name of a person, no free text, no count of patients. Sites appear under the pseudonym they
were given at enrolment; the table that resolves it stays outside the log.
"""

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from kit import canonical, clock
from kit.errors import FormatError

VERSION = 1
MAX_LEAF_BYTES = 4096
MAX_DETAILS = 16
_DIGEST_CHARACTERS = 64


class Kind(StrEnum):
    """The events of a federation's life."""

    FEDERATION_CREATED = "federation.created"
    STUDY_CREATED = "study.created"
    STUDY_CLOSED = "study.closed"
    RECIPIENTS_DELEGATED = "recipients.delegated"
    RECIPIENT_ISSUED = "recipient.issued"
    REVOCATIONS_CHANGED = "revocations.changed"
    TOKEN_ISSUED = "token.issued"  # noqa: S105
    SITE_REQUESTED = "site.requested"
    SITE_CONFIRMED = "site.confirmed"
    WITNESS_REGISTERED = "witness.registered"
    SITE_REVOKED = "site.revoked"
    CERTIFICATE_RENEWED = "certificate.renewed"
    CERTIFICATE_REVOKED = "certificate.revoked"
    SIGNING_KEY_RENEWED = "signing-key.renewed"
    READMISSION_RECORDED = "readmission.recorded"
    TOKEN_REUSED = "token.reused"  # noqa: S105
    AUTHORITY_ADDED = "authority.added"
    AUTHORITY_REMOVED = "authority.removed"
    DOCUMENT_KEY_RENEWED = "document-key.renewed"
    ISSUING_RENEWED = "issuing.renewed"
    PSEUDONYMS_SALTED = "pseudonyms.salted"
    BLUEPRINT_RECEIVED = "blueprint.received"
    BLUEPRINT_PENDING = "blueprint.pending"
    BLUEPRINT_REFUSED = "blueprint.refused"
    APPROVAL_RECORDED = "approval.recorded"
    BLUEPRINT_APPROVED = "blueprint.approved"
    BLUEPRINT_REJECTED = "blueprint.rejected"
    BLUEPRINT_REVOKED = "blueprint.revoked"
    BLUEPRINT_RESTORED = "blueprint.restored"
    KEY_DESTROYED = "key.destroyed"
    RELEASE_PUBLISHED = "release.published"
    RELEASE_WITHDRAWN = "release.withdrawn"
    METRICS_REPORTED = "metrics.reported"
    LOG_RECOVERED = "log.recovered"


# The entry that each state of a blueprint rests on.
PROOF_OF_STATE = {
    "received": Kind.BLUEPRINT_RECEIVED,
    "pending": Kind.BLUEPRINT_PENDING,
    "refused": Kind.BLUEPRINT_REFUSED,
    "approved": Kind.BLUEPRINT_APPROVED,
    "rejected": Kind.BLUEPRINT_REJECTED,
    "revoked": Kind.BLUEPRINT_REVOKED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One leaf: what happened to which digest, when, by which pseudonym."""

    kind: Kind
    time: str
    subject: str
    actor: str
    details: dict[str, Any]

    def to_leaf(self) -> bytes:
        """Return the canonical leaf bytes.

        Raises:
            FormatError: a value has no place in the log.
        """
        table = {name: getattr(self, name) for name in self.__slots__} | {"version": VERSION}
        self._checked(table | {"kind": str(self.kind)})
        leaf = canonical.encode(table)
        if len(leaf) > MAX_LEAF_BYTES:
            raise FormatError(f"a log entry is over {MAX_LEAF_BYTES} bytes")
        return leaf

    @classmethod
    def from_leaf(cls, leaf: bytes) -> Self:
        """Parse a leaf.

        Raises:
            FormatError: it is not one.
        """
        return cls._checked(canonical.decode(leaf, limit=MAX_LEAF_BYTES))

    @classmethod
    def _checked(cls, value: Any) -> Self:
        table = dict(canonical.fields(value, set(cls.__slots__) | {"version"}, what="leaf"))
        canonical.version(table.pop("version"), expected=VERSION, what="leaf")
        try:
            table["kind"] = Kind(table["kind"])
        except ValueError as error:
            raise FormatError("leaf kind is unknown") from error
        clock.parse_rfc3339(table["time"])
        canonical.name(table["actor"], what="actor")
        canonical.sha256_hex(table["subject"], what="subject")
        _details(table["details"])
        return cls(**table)


def read_leaf(leaf: bytes) -> Event | None:
    """Parse a leaf of a log that is read as a whole; None for a kind that this version lacks.

    Raises:
        FormatError: it is no leaf.
    """
    table = canonical.decode(leaf, limit=MAX_LEAF_BYTES)
    kind = table.get("kind") if isinstance(table, dict) else None
    if isinstance(kind, str) and kind not in _KINDS:
        canonical.name(kind, what="leaf kind")
        return None
    return Event.from_leaf(leaf)


def reread_leaf(leaf: bytes) -> Event | None:
    """Parse a leaf that `read_leaf` passed before, four times as fast: nothing is checked again."""
    table = json.loads(leaf)
    if table["kind"] not in _KINDS:
        return None
    del table["version"]
    return Event(**table | {"kind": Kind(table["kind"])})


_KINDS = frozenset(str(kind) for kind in Kind)


def _details(value: Any) -> None:
    if not isinstance(value, dict) or len(value) > MAX_DETAILS:
        raise FormatError("leaf details are not a small object")
    for name, item in value.items():
        canonical.name(name.replace("_", "-"), what="detail")
        for entry in item if isinstance(item, list) else [item]:
            if isinstance(entry, str) and len(entry) == _DIGEST_CHARACTERS:
                canonical.sha256_hex(entry, what="detail value")
            elif isinstance(entry, str):
                canonical.name(entry, what="detail value")
            elif not isinstance(entry, int):
                raise FormatError("leaf details are names, digests and integers")
