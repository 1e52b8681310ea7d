"""A reviewer signs on a machine of their own: what goes there, and what comes back (A15).

The package carries the statement and the manifest as they were signed; both digests are computed
where the reviewer sits, and the reviewer types digits of the blueprint's back, so that the
coordinator's machine cannot have something else signed than it shows. The private key never comes
near it. What the review aids found travels along as the coordinator's word: it cannot be recomputed
there.
"""

import os
from dataclasses import dataclass
from datetime import datetime

from coordinator import inspections, registry, restoration, reviews, revocation
from coordinator.context import Coordinator
from coordinator.restoration import Restoration
from coordinator.revocation import Revocation
from federation.blueprint import approval
from federation.blueprint.approval import Approval, Decision
from federation.blueprint.outbound import require_typed
from federation.blueprint.statement import Statement
from federation.study import Study
from kit import canonical, clock
from kit.errors import FormatError
from pki import keys

VERSION = 2
_RECORD_VERSION = 1
MAX_PACKAGE_BYTES = 1 << 20
MAX_RECORD_BYTES = 64 << 10
_MAX_LINE = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """What a reviewer is asked to sign about, read on the reviewer's machine."""

    statement: Statement
    study: Study
    aids: tuple[str, ...]

    @classmethod
    def from_bytes(cls, data: bytes) -> "Package":
        """Parse a package; the statement must be for the study beside it.

        Raises:
            FormatError: it is not one.
        """
        table = canonical.decode(data, limit=MAX_PACKAGE_BYTES)
        canonical.fields(table, {"version", "statement", "study", "aids"}, what="review package")
        canonical.version(table["version"], expected=VERSION, what="review package")
        statement = Statement.from_bytes(canonical.b64decode(table["statement"]))
        study = Study.from_bytes(canonical.b64decode(table["study"]))
        if statement.context.study_digest != study.digest:
            raise FormatError("the statement is for another study than the manifest beside it")
        if not isinstance(table["aids"], list):
            raise FormatError("the review package's aids are no list")
        aids = tuple(canonical.printable(line, width=_MAX_LINE) for line in table["aids"])
        return cls(statement=statement, study=study, aids=aids)

    def shown(self) -> dict[str, object]:
        """Return what the reviewer has to see before signing."""
        mechanism = self.statement.privacy.gaussian
        return {
            "blueprint": self.statement.digest,
            "study": f"{self.study.id}, {self.study.digest}",
            "sender": self.statement.context.sender,
            "outputs": self.statement.outputs,
            "privacy": "contains personal data"
            if mechanism is None
            else f"epsilon {mechanism.epsilon:g}, delta {mechanism.delta:g} per"
            f" {self.statement.privacy.unit}, declared",
            "gate_passed": self.statement.gate.passed,
            "issued": self.statement.issued,
            "aids_by_the_coordinator": self.aids,
        }


def package(coordinator: Coordinator, prefix: str) -> bytes:
    """Return what a reviewer takes to a machine of their own.

    Raises:
        NotFoundError: no such blueprint.
    """
    with coordinator.state.read() as tx:
        row = reviews.find(tx, prefix)
        manifest = registry.find_study(tx, row.study_digest).manifest
        aids = inspections.of(tx, row).lines()
    return canonical.encode(
        {
            "version": VERSION,
            "statement": canonical.b64encode(row.statement),
            "study": canonical.b64encode(manifest),
            "aids": list(aids),
        }
    )


def sign(
    asked: Package,
    decision: Decision,
    *,
    key: keys.SigningKey,
    reason: str,
    typed: str,
    now: datetime,
) -> bytes:
    """Return the signed record with the words and salt behind its commitment.

    Raises:
        FormatError: other digits were typed, or the key is no reviewer's of this study.
    """
    require_typed(asked.statement.digest, typed)
    salt = os.urandom(approval.SALT_BYTES)
    reason = reviews.printable_reason(reason)
    record = Approval(
        blueprint=asked.statement.digest,
        study=asked.study.digest,
        decision=decision,
        reason_commitment=approval.commitment(reason, salt),
        time=clock.rfc3339(now),
        scheme=approval.SCHEME,
        reviewer=reviews.reviewer_name(asked.study, keys.public_bytes(key)),
    )
    envelope = record.sign(key)
    Approval.verify(envelope, study=asked.study, blueprint=asked.statement.digest)
    return canonical.encode(
        {
            "version": _RECORD_VERSION,
            "envelope": canonical.b64encode(envelope),
            "reason": reason,
            "salt": salt.hex(),
        }
    )


def read_record(data: bytes) -> reviews.Signed:
    """Read what `sign` returned; nothing in it is verified yet.

    Raises:
        FormatError: it is no such record.
    """
    table = canonical.decode(data, limit=MAX_RECORD_BYTES)
    canonical.fields(table, {"version", "envelope", "reason", "salt"}, what="signed record")
    canonical.version(table["version"], expected=_RECORD_VERSION, what="signed record")
    try:
        salt = bytes.fromhex(table["salt"])
    except (TypeError, ValueError) as error:
        raise FormatError("the salt of the signed record is not hexadecimal") from error
    return reviews.Signed(
        envelope=canonical.b64decode(table["envelope"]),
        reason=reviews.printable_reason(table["reason"]),
        salt=salt,
    )


def take(
    coordinator: Coordinator, prefix: str, decision: Decision, signed: reviews.Signed
) -> reviews.Review | Revocation | Restoration:
    """Record a decision that was signed elsewhere, as if it had been signed here.

    Raises:
        FormatError: it is another decision, or its words are not those it commits to;
            of a revocation or its undo: it is of another time.
        NotFoundError: no such blueprint.
        StateError: it is in no state for that, or this reviewer decided so before.
    """
    if decision is Decision.REVOKE:
        return revocation.take(coordinator, prefix, signed)
    if decision is Decision.RESTORE:
        return restoration.take(coordinator, prefix, signed)
    return reviews.take(coordinator, prefix, decision, signed)
