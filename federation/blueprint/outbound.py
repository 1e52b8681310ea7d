"""Outbound approval: a second person's signed word that one sealed blueprint may leave its site.

The record is over the statement's digest, and so over everything that the statement signs. Whose
key counts is the site's to say: its signing key vouches for the officer's (`Officer`), so that the
coordinator can check a record without knowing the person.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Self

from cryptography import x509

from federation import dsse
from federation.blueprint.approval import SCHEME
from federation.release import statement as documents
from kit import canonical, clock
from kit.errors import FormatError
from pki import identity, keys

PAYLOAD_TYPE = "application/vnd.hospital-edge-kit.outbound+json"
OFFICER_TYPE = "application/vnd.hospital-edge-kit.officer+json"
VERSION = 1
TYPED_DIGITS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbound:
    """One person's word that one blueprint may leave for one study."""

    blueprint: str
    study: str
    time: str
    scheme: str

    def sign(self, key: keys.SigningKey) -> bytes:
        """Return the signed record."""
        payload = canonical.encode(asdict(self) | {"version": VERSION})
        keyid = canonical.digest(keys.public_bytes(key))
        return dsse.sign(payload, PAYLOAD_TYPE, key, keyid=keyid)

    @classmethod
    def verify(
        cls, envelope: bytes, *, officers: Iterable[bytes], blueprint: str, study: str
    ) -> Self:
        """Check a record against the officers' keys (32 bytes each) and what it must be about.

        Raises:
            FormatError: the record is off, of a stranger, or about something else.
            IdentityError: the signature does not fit.
        """
        keyid = dsse.parse(envelope, PAYLOAD_TYPE).keyid
        public = next((key for key in officers if canonical.digest(key) == keyid), None)
        if public is None:
            raise FormatError("the outbound approval is signed by none of the site's officers")
        payload = dsse.open_with_key(envelope, PAYLOAD_TYPE, public)
        names = set(cls.__slots__) | {"version"}
        table = canonical.fields(canonical.decode(payload), names, what="outbound approval")
        canonical.version(table.pop("version"), expected=VERSION, what="outbound approval")
        if table["scheme"] != SCHEME:
            raise FormatError("the scheme of the outbound approval is not in the registry")
        for name in ("blueprint", "study"):
            canonical.sha256_hex(table[name], what=name)
        clock.parse_rfc3339(table["time"])
        record = cls(**table)
        if (record.blueprint, record.study) != (blueprint, study):
            raise FormatError("the outbound approval is about another blueprint or study")
        return record


@dataclass(frozen=True, slots=True, kw_only=True)
class Officer:
    """A site's word, under its signing key, that a key is that of its officer; names nobody."""

    public_key: str
    time: str

    def sign(self, key: keys.SigningKey, certificate: x509.Certificate) -> bytes:
        """Return the document under the site's document-signing certificate."""
        payload = canonical.encode(asdict(self) | {"version": VERSION})
        return documents.sign(payload, OFFICER_TYPE, key, certificate)

    @classmethod
    def verify(
        cls,
        envelope: bytes,
        chain: Sequence[x509.Certificate],
        *,
        site: identity.Identity,
        root: x509.Certificate,
        now: datetime,
    ) -> bytes:
        """Return the officer's public key (32 bytes) after checking that the site vouches for it.

        Raises:
            FormatError: the document is off, not the site's, or vouches for its own signing key.
            IdentityError: the certificate or the signature does not hold.
        """
        payload = documents.open_signed(
            envelope, OFFICER_TYPE, chain, signer=site, root=root, now=now
        )
        names = set(cls.__slots__) | {"version"}
        table = canonical.fields(canonical.decode(payload), names, what="officer")
        canonical.version(table.pop("version"), expected=VERSION, what="officer")
        clock.parse_rfc3339(table["time"])
        public = bytes.fromhex(canonical.sha256_hex(table["public_key"], what="officer key"))
        if public == keys.public_bytes(chain[0].public_key()):  # type: ignore[arg-type]
            raise FormatError("the officer's key is the site's own signing key, not a second one")
        return public


def require_typed(digest: str, typed: str) -> None:
    """Check the digits that a person typed back before signing (A15).

    Raises:
        FormatError: fewer than eight digits, or others than the first of `digest`.
    """
    typed = typed.strip().lower()
    if len(typed) < TYPED_DIGITS or not digest.startswith(typed):
        raise FormatError(
            f"`{canonical.printable(typed)}` are not the first digits of what would be signed",
            hint=f"compare the digest on both screens, then type at least {TYPED_DIGITS} of them",
        )
