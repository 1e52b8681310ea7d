"""Endorsement: a site's word, under its signing key, that a reviewer is one of its people (A15).

Without it, whoever holds the study key could list reviewers who do not exist. A manifest that says
"this reviewer is of site X" carries X's signed word for the name and the key, and the certificate
that signed it. What makes that certificate X's is the audit log, which names it under X's pseudonym
and which X itself reads: a chain alone would prove no more than that the coordinator's CA agrees.

A word is for studies that the log records until it ends, at most 400 days on, while X is active and
that certificate is its current one; so a new signing key of X takes every earlier word out of use.
"""

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Self

from cryptography import x509

from federation import dsse
from federation.release import statement as documents
from federation.study import Reviewer
from kit import canonical, clock
from kit.errors import FormatError
from pki import certificates, identity, keys, verification

PAYLOAD_TYPE = "application/vnd.hospital-edge-kit.endorsement+json"
VERSION = 1
MAX_FILE_BYTES = 32 << 10
DEFAULT_DAYS = MAX_DAYS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Endorsement:
    """One site's word for one reviewer's name and public key (Ed25519, hexadecimal)."""

    federation: str
    site: str
    reviewer: str
    public_key: str
    time: str
    expires: str

    @classmethod
    def of(cls, *, now: datetime, days: int = DEFAULT_DAYS, **names: str) -> Self:
        """Return a site's word from `now` on.

        Raises:
            FormatError: the days are out of bounds.
        """
        canonical.integer(days, low=1, high=MAX_DAYS, what="number of days of an endorsement")
        expires = clock.rfc3339(now + timedelta(days=days))
        return cls(**names, time=clock.rfc3339(now), expires=expires)

    def to_bytes(self) -> bytes:
        """Return the canonical bytes that are signed."""
        return canonical.encode(asdict(self) | {"version": VERSION})

    @property
    def digest(self) -> str:
        """The hexadecimal SHA-256 by which the site remembers its word, whenever it gave it."""
        return canonical.digest(canonical.encode(asdict(self) | {"time": "", "expires": ""}))

    def sign(self, key: keys.SigningKey, certificate: x509.Certificate) -> Reviewer:
        """Return the reviewer with the site's word, as a manifest lists them."""
        envelope = documents.sign(self.to_bytes(), PAYLOAD_TYPE, key, certificate)
        return Reviewer(
            name=self.reviewer,
            public_key=self.public_key,
            site=self.site,
            endorsement=canonical.b64encode(envelope),
            certificate=canonical.b64encode(certificates.der(certificate)),
        )

    @classmethod
    def verify(
        cls, reviewer: Reviewer, *, federation: str, certified: str | None, logged: datetime
    ) -> Self:
        """Check the word that a listed reviewer of a study comes with.

        `certified` is the fingerprint of the site's current document-signing certificate, None if
        it was not active, when the log recorded the study, which was at `logged`.

        Raises:
            FormatError: it is off, about somebody else, had ended, or the certificate is not the
                site's, or not any more.
            IdentityError: the certificate names nobody, or the signature does not fit.
        """
        certificate = certificates.from_der(canonical.b64decode(reviewer.certificate))
        fingerprint = certificates.fingerprint(certificate)
        who = identity.site(federation, reviewer.site)
        key = certificate.public_key()
        if fingerprint != certified or verification.claimed_identity(certificate) != who:
            raise FormatError(
                f"the certificate is not the current one of an active site `{reviewer.site}`"
            )
        if not isinstance(key, keys.VerifyingKey):
            raise FormatError(f"the certificate of site `{reviewer.site}` is not one for documents")
        envelope = dsse.parse(canonical.b64decode(reviewer.endorsement), PAYLOAD_TYPE)
        if envelope.keyid != fingerprint:
            raise FormatError("the endorsement names another certificate than the one beside it")
        found = cls._parse(dsse.verify(envelope, key))
        listed = (federation, reviewer.site, reviewer.name, reviewer.public_key)
        if (found.federation, found.site, found.reviewer, found.public_key) != listed:
            raise FormatError("the endorsement is for another reviewer, key, site or federation")
        if found.public_key == keys.public_bytes(key).hex():
            raise FormatError("the reviewer's key is the site's own signing key, no person's")
        if logged > clock.parse_rfc3339(found.expires):
            raise FormatError(f"the endorsement had ended, on {found.expires}")
        return found

    @classmethod
    def _parse(cls, payload: bytes) -> Self:
        names = set(cls.__slots__) | {"version"}
        table = canonical.fields(canonical.decode(payload), names, what="endorsement")
        canonical.version(table.pop("version"), expected=VERSION, what="endorsement")
        for name in ("federation", "site", "reviewer"):
            canonical.name(table[name], what=name)
        canonical.sha256_hex(table["public_key"], what="reviewer key")
        time = clock.parse_rfc3339(table["time"])
        expires = clock.parse_rfc3339(table["expires"], what="expires")
        if not timedelta() < expires - time <= timedelta(days=MAX_DAYS):
            raise FormatError(f"an endorsement lasts at most {MAX_DAYS} days")
        return cls(**table)


def to_file(reviewer: Reviewer) -> bytes:
    """Return what a site hands to the coordinator: the reviewer as a manifest would list them."""
    return canonical.encode(asdict(reviewer) | {"version": VERSION})


def from_file(data: bytes) -> Reviewer:
    """Read such a file; nothing in it is verified yet.

    Raises:
        FormatError: it is none.
    """
    names = set(Reviewer.__slots__) | {"version"}
    table = canonical.fields(
        canonical.decode(data, limit=MAX_FILE_BYTES), names, what="endorsed reviewer"
    )
    canonical.version(table.pop("version"), expected=VERSION, what="endorsed reviewer")
    return Reviewer.of(table)
