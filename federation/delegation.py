"""Delegation: what the offline study key lets a key in the coordinator's home do, and for how long.

Recipient keys have to be made while nobody holds a ceremony: at a confirmation, a refusal, a
revocation. So the study key, which every site pinned and which lies offline, signs one record per
study: this key may sign recipient keys of this one study and round, until then. It can sign nothing
else: no study, no other key, no delegation (there is no second level). The log names the record; a
later one replaces it, so one signature takes a copied key out of use.

A TUF delegation names keys and paths, but has no end of its own: this record stays beside the
repository, which says which recipient keys are current (ADR 0030).
"""

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Self

from federation import dsse
from federation.study import MAX_ROUND, RECIPIENT_KEY_TYPE, RecipientKey, Study
from kit import canonical, clock
from kit.errors import FormatError, KitError
from pki import keys

PAYLOAD_TYPE = "application/vnd.hospital-edge-kit.delegation+json"
VERSION = 1
ROLE = "recipient-keys"
DEFAULT_DAYS, MAX_DAYS = 180, 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Delegation:
    """One key (Ed25519, hexadecimal) that may sign the recipient keys of one study and round."""

    federation: str
    role: str
    study: str
    round: int
    public_key: str
    issued: str
    expires: str

    @classmethod
    def of(cls, study: Study, public: bytes, *, now: datetime, days: int) -> Self:
        """Return the delegation of a study to a key, from `now` on.

        Raises:
            FormatError: the days are out of bounds.
        """
        canonical.integer(days, low=1, high=MAX_DAYS, what="number of days of a delegation")
        return cls(
            federation=study.federation,
            role=ROLE,
            study=study.digest,
            round=study.round,
            public_key=public.hex(),
            issued=clock.rfc3339(now),
            expires=clock.rfc3339(now + timedelta(days=days)),
        )

    def to_bytes(self) -> bytes:
        """Return the canonical bytes that are signed."""
        return canonical.encode(asdict(self) | {"version": VERSION})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse canonical bytes.

        Raises:
            FormatError: a field is missing, unknown or out of range.
        """
        names = set(cls.__slots__) | {"version"}
        table = canonical.fields(canonical.decode(data), names, what="delegation")
        canonical.version(table.pop("version"), expected=VERSION, what="delegation")
        canonical.name(table["federation"], what="federation")
        if table["role"] != ROLE:
            raise FormatError("the delegation is for a role that is not in the registry")
        for name in ("study", "public_key"):
            canonical.sha256_hex(table[name], what=name)  # a key has 32 bytes as well
        canonical.integer(table["round"], low=1, high=MAX_ROUND, what="round")
        issued = clock.parse_rfc3339(table["issued"], what="issued")
        expires = clock.parse_rfc3339(table["expires"], what="expires")
        if not timedelta() < expires - issued <= timedelta(days=MAX_DAYS):
            raise FormatError(f"a delegation lasts at most {MAX_DAYS} days")
        return cls(**table)

    def sign(self, key: keys.SigningKey) -> bytes:
        """Return the record signed with the study key."""
        keyid = canonical.digest(keys.public_bytes(key))
        return dsse.sign(self.to_bytes(), PAYLOAD_TYPE, key, keyid=keyid)

    @property
    def digest(self) -> str:
        """The hexadecimal SHA-256 by which the log names this delegation."""
        return canonical.digest(self.to_bytes())

    def check_time(self, study: Study, now: datetime) -> None:
        """Refuse to seal by a delegation that has ended; what was sealed before is not touched.

        Raises:
            KitError: it has.
        """
        if now > clock.parse_rfc3339(self.expires):
            raise KitError(
                f"the coordinator's right to hand out keys of study `{study.id}` ended on"
                f" {self.expires}",
                hint=f"nothing is sealed to them; ask it to run `coordinator study extend"
                f" {study.id}`, with the study key",
            )


def open_delegation(envelope: bytes, study_key: bytes, expected: Study) -> Delegation:
    """Return a study's delegation after checking it under the study key (32 bytes).

    Raises:
        FormatError: it is off, or for another study or round.
        IdentityError: the signature does not fit.
    """
    found = Delegation.from_bytes(dsse.open_with_key(envelope, PAYLOAD_TYPE, study_key))
    scope = (found.federation, found.study, found.round)
    if scope != (expected.federation, expected.digest, expected.round):
        raise FormatError("the delegation is for another study or round")
    return found


def open_recipient_key(
    envelope: bytes, delegation: Delegation | None, study_key: bytes
) -> RecipientKey:
    """Return a recipient key that the study key signed, or the key it delegated that to.

    Raises:
        FormatError: it is off, signed by another key, or outside the delegation.
        IdentityError: the signature does not fit.
    """
    public = study_key if delegation is None else bytes.fromhex(delegation.public_key)
    found = RecipientKey.from_bytes(dsse.open_with_key(envelope, RECIPIENT_KEY_TYPE, public))
    if delegation is not None and (found.study_digest, found.round) != (
        delegation.study,
        delegation.round,
    ):
        raise FormatError("the recipient key is outside the scope of its delegation")
    return found
