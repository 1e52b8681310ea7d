"""Endorsement: a site's word, under its signing key, that a reviewer is one of its people (A15).

Without it, whoever holds the study key could list reviewers who do not exist. A manifest that says
"this reviewer is of site X" carries X's signed word for the name and the key, and the certificate
that signed it. What makes that certificate X's is the audit log, which names it under X's pseudonym
and which X itself reads: a chain alone would prove no more than that the coordinator's CA agrees.
"""

from collections.abc import Collection
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Endorsement:
    """One site's word for one reviewer's name and public key (Ed25519, hexadecimal)."""

    federation: str
    site: str
    reviewer: str
    public_key: str
    time: str

    def to_bytes(self) -> bytes:
        """Return the canonical bytes that are signed."""
        return canonical.encode(asdict(self) | {"version": VERSION})

    @property
    def digest(self) -> str:
        """The hexadecimal SHA-256 by which the site remembers its word, whenever it gave it."""
        return canonical.digest(canonical.encode(asdict(self) | {"time": ""}))

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
    def verify(cls, reviewer: Reviewer, *, federation: str, known: Collection[str]) -> Self:
        """Check the word that a listed reviewer comes with.

        `known` are the fingerprints of the document-signing certificates that the site is known to
        have held.

        Raises:
            FormatError: it is off, about somebody else, or the certificate is not the site's.
            IdentityError: the certificate names nobody, or the signature does not fit.
        """
        certificate = certificates.from_der(canonical.b64decode(reviewer.certificate))
        fingerprint = certificates.fingerprint(certificate)
        who = identity.site(federation, reviewer.site)
        key = certificate.public_key()
        if fingerprint not in known or verification.claimed_identity(certificate) != who:
            raise FormatError(f"the certificate is not one of site `{reviewer.site}`")
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
        return found

    @classmethod
    def _parse(cls, payload: bytes) -> Self:
        names = set(cls.__slots__) | {"version"}
        table = canonical.fields(canonical.decode(payload), names, what="endorsement")
        canonical.version(table.pop("version"), expected=VERSION, what="endorsement")
        for name in ("federation", "site", "reviewer"):
            canonical.name(table[name], what=name)
        canonical.sha256_hex(table["public_key"], what="reviewer key")
        clock.parse_rfc3339(table["time"])
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
