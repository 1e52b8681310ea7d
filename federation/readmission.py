"""Readmission: reviewers' signed consent to another enrolment of a site id that is known (A1).

Whoever holds the CA, or one operator, must not be able to put a second hospital under the name of
the first. A record names the last signing certificate of the site, so it serves one enrolment.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Self

from federation import dsse
from federation.study import Reviewer, Study
from kit import canonical, clock
from pki import keys

PAYLOAD_TYPE = "application/vnd.hospital-edge-kit.readmission+json"
VERSION = 1
MAX_AGE = timedelta(days=7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Readmission:
    """One reviewer's consent; `previous` is the fingerprint of the last signing certificate."""

    federation: str
    site: str
    previous: str
    reason_commitment: str
    time: str

    def sign(self, key: keys.SigningKey) -> bytes:
        """Return the signed record."""
        payload = canonical.encode(asdict(self) | {"version": VERSION})
        return dsse.sign(payload, PAYLOAD_TYPE, key, keyid=canonical.digest(keys.public_bytes(key)))

    @classmethod
    def verify(cls, envelope: bytes, *, public: bytes) -> Self:
        """Check a record under one reviewer's key (32 bytes).

        Raises:
            FormatError: the record is off, or another key's.
            IdentityError: the signature does not fit.
        """
        payload = dsse.open_with_key(envelope, PAYLOAD_TYPE, public)
        names = set(cls.__slots__) | {"version"}
        table = canonical.fields(canonical.decode(payload), names, what="readmission")
        canonical.version(table.pop("version"), expected=VERSION, what="readmission")
        canonical.name(table["federation"], what="federation")
        canonical.name(table["site"], what="site id")
        for name in ("previous", "reason_commitment"):
            canonical.sha256_hex(table[name], what=name)
        clock.parse_rfc3339(table["time"])
        return cls(**table)


def reviewer_of(studies: Iterable[Study], public: bytes) -> Reviewer | None:
    """Return the reviewer who holds a key in any of the studies."""
    found = (r for study in studies for r in study.reviewers if r.public_key == public.hex())
    return next(found, None)


def missing(
    records: Iterable[bytes],
    studies: Iterable[Study],
    *,
    federation: str,
    site: str,
    previous: str,
    now: datetime,
) -> list[str]:
    """Return the ids of the studies whose quorum has not consented; records are signed envelopes.

    Every open study counts with its own reviewers and quorum: in each of them the site will sign.

    Raises:
        KitError: a record is damaged.
    """
    envelopes = list(records)
    short = []
    for study in studies:
        keys_of_study = {canonical.digest(bytes.fromhex(r.public_key)): r for r in study.reviewers}
        consenting = set()
        for envelope in envelopes:
            reviewer = keys_of_study.get(dsse.parse(envelope, PAYLOAD_TYPE).keyid)
            if reviewer is None:
                continue
            public = bytes.fromhex(reviewer.public_key)
            record = Readmission.verify(envelope, public=public)
            same = (record.federation, record.site, record.previous) == (federation, site, previous)
            if same and now - clock.parse_rfc3339(record.time) <= MAX_AGE:
                consenting.add(reviewer.public_key)
        if len(consenting) < study.quorum:
            short.append(study.id)
    return short
