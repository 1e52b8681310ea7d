"""Orders for new keys: a site's present signing key signs for the key that follows (A1).

A signing certificate is renewed only on such an order. A TLS certificate renews over mutual TLS
alone; an order for one takes every other TLS certificate of the site out of use: the way back for a
site whose TLS key was copied.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Self

from cryptography import x509

from federation.release.statement import open_signed, sign
from kit import canonical, clock
from kit.errors import FormatError
from pki import certificates, identity, keys
from pki.crl import RevocationList

PAYLOAD_TYPE = "application/vnd.hospital-edge-kit.rekey+json"
VERSION = 1
MAX_AGE = timedelta(days=1)
MAX_CHAIN_BYTES = 16 * 1024
_SKEW = timedelta(minutes=10)


class Usage(StrEnum):
    """Which certificate is asked for."""

    TLS = "tls"
    SIGNING = "signing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rekey:
    """One order: `request` is PKCS#10 DER; `chain` is PEM of the site's own CA, else empty."""

    site: str
    usage: Usage
    previous: str
    request: bytes
    chain: bytes
    time: str

    def to_bytes(self) -> bytes:
        """Return the canonical bytes that are signed."""
        return canonical.encode(
            {
                "version": VERSION,
                "site": self.site,
                "usage": self.usage,
                "previous": self.previous,
                "request": canonical.b64encode(self.request),
                "chain": canonical.b64encode(self.chain),
                "time": self.time,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse canonical bytes.

        Raises:
            FormatError: a field is missing, unknown or out of range.
        """
        names = set(cls.__slots__) | {"version"}
        table = canonical.fields(canonical.decode(data), names, what="rekey order")
        canonical.version(table["version"], expected=VERSION, what="rekey order")
        try:
            usage = Usage(table["usage"])
        except ValueError as error:
            raise FormatError("rekey order asks for an unknown certificate") from error
        return cls(
            site=canonical.name(table["site"], what="site id"),
            usage=usage,
            previous=canonical.sha256_hex(table["previous"], what="previous certificate"),
            request=canonical.b64decode(table["request"], limit=2 * certificates.MAX_REQUEST_BYTES),
            chain=canonical.b64decode(table["chain"], limit=2 * MAX_CHAIN_BYTES),
            time=clock.rfc3339(clock.parse_rfc3339(table["time"])),
        )

    def sign(self, key: keys.SigningKey, certificate: x509.Certificate) -> bytes:
        """Return the order signed with the present signing key."""
        return sign(self.to_bytes(), PAYLOAD_TYPE, key, certificate)

    @classmethod
    def verify(
        cls,
        envelope: bytes,
        chain: tuple[x509.Certificate, ...],
        *,
        signer: identity.Identity,
        root: x509.Certificate,
        now: datetime,
        revocations: RevocationList | None,
        oldest: timedelta = MAX_AGE,
    ) -> Self:
        """Check who signed an order and that it is about the signer's own next key, and recent.

        `oldest` is how old it may be: what comes by post is older than what comes over a line.

        Raises:
            FormatError: it is off, of another site, or old.
            IdentityError: the certificate is not `signer`'s, is revoked, or a bad signature.
        """
        payload = open_signed(
            envelope,
            PAYLOAD_TYPE,
            chain,
            signer=signer,
            root=root,
            now=now,
            revocations=revocations,
        )
        order = cls.from_bytes(payload)
        if order.site != signer.name or order.previous != certificates.fingerprint(chain[0]):
            raise FormatError("rekey order is about another site or certificate than its signer's")
        age = now - clock.parse_rfc3339(order.time)
        if not -_SKEW <= age <= oldest:
            raise FormatError(
                f"rekey order is of {order.time}: too old, or from the future",
                hint="check the clock of this machine",
            )
        return order
