"""Approvals: a reviewer's signed record on one blueprint; a quorum is a rule over such records.

The reason stays outside the record as a salted commitment, so that a person's words can be erased
and the record still stands.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Self

from federation import dsse
from federation.study import Study
from kit import canonical, clock
from kit.errors import FormatError
from pki import keys

PAYLOAD_TYPE = "application/vnd.hospital-edge-kit.approval+json"
VERSION = 1
SCHEME = "ed25519-file"
SALT_BYTES = 16


class Decision(StrEnum):
    """What a reviewer decided."""

    APPROVE = "approve"
    REJECT = "reject"
    REVOKE = "revoke"
    RESTORE = "restore"


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """One reviewer's decision on one blueprint of one study."""

    blueprint: str
    study: str
    decision: Decision
    reason_commitment: str
    time: str
    scheme: str
    reviewer: str

    def sign(self, key: keys.SigningKey) -> bytes:
        """Return the signed record."""
        payload = canonical.encode(asdict(self) | {"version": VERSION})
        keyid = canonical.digest(keys.public_bytes(key))
        return dsse.sign(payload, PAYLOAD_TYPE, key, keyid=keyid)

    @classmethod
    def verify(cls, envelope: bytes, *, study: Study, blueprint: str) -> Self:
        """Check a record against the reviewers of a study and the blueprint it must be about.

        Raises:
            FormatError: the record is off, of a stranger, or about something else.
            IdentityError: the signature does not fit.
        """
        keyid = dsse.parse(envelope, PAYLOAD_TYPE).keyid
        for reviewer in study.reviewers:
            public = bytes.fromhex(reviewer.public_key)
            if canonical.digest(public) == keyid:
                record = cls._parse(dsse.open_with_key(envelope, PAYLOAD_TYPE, public))
                break
        else:
            raise FormatError("approval is signed by nobody on the study's list of reviewers")
        if record.reviewer != reviewer.name:
            raise FormatError("approval names another reviewer than its key")
        if (record.study, record.blueprint) != (study.digest, blueprint):
            raise FormatError("approval is about another study or blueprint")
        return record

    @classmethod
    def _parse(cls, payload: bytes) -> Self:
        names = set(cls.__slots__) | {"version"}
        table = canonical.fields(canonical.decode(payload), names, what="approval")
        canonical.version(table.pop("version"), expected=VERSION, what="approval")
        if table["scheme"] != SCHEME:
            raise FormatError("approval scheme is not in the registry")
        for name in ("blueprint", "study", "reason_commitment"):
            canonical.sha256_hex(table[name], what=name)
        canonical.name(table["reviewer"], what="reviewer")
        clock.parse_rfc3339(table["time"])
        try:
            table["decision"] = Decision(table["decision"])
        except ValueError as error:
            raise FormatError("decision is not in the registry") from error
        return cls(**table)


def commitment(reason: str, salt: bytes) -> str:
    """Return the salted commitment to a reason: SHA-256 of salt and text."""
    return hashlib.sha256(b"reason v1" + salt + reason.encode()).hexdigest()


def has_quorum(records: Iterable[Approval], study: Study, decision: Decision) -> bool:
    """Say whether enough different reviewers made one decision.

    One rejection is enough to reject; everything else takes the study's quorum.
    """
    reviewers = {record.reviewer for record in records if record.decision is decision}
    return len(reviewers) >= (1 if decision is Decision.REJECT else study.quorum)
