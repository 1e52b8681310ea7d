"""Key encapsulation: X-Wing (ML-KEM-768 with X25519) through HPKE (RFC 9180, base mode).

A recipient key is kept as its 32-byte X-Wing seed (draft-connolly-cfrg-xwing-kem, section 5.2) and
published as 1216 raw bytes, ML-KEM encapsulation key first.
"""

import hashlib
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from pki.errors import IdentityError

SEED_BYTES = 32
PUBLIC_BYTES = 1216
WRAPPED_BYTES = 1120 + 32 + 16  # encapsulation, 32-byte content key, tag
_MLKEM_PUBLIC_BYTES = 1184
_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def new_seed() -> bytes:
    """Return a fresh X-Wing seed; sensitive."""
    return os.urandom(SEED_BYTES)


def public_key(seed: bytes) -> bytes:
    """Return the 1216-byte public key of a seed."""
    lattice, curve = _halves(seed)
    return _raw(lattice.public_key()) + _raw(curve.public_key())


def key_id(public: bytes) -> str:
    """Return the hexadecimal SHA-256 that names a recipient key."""
    return hashlib.sha256(public).hexdigest()


def wrap(content_key: bytes, public: bytes, *, info: bytes) -> bytes:
    """Encrypt a content key to a recipient, bound to `info` (HPKE SealBase).

    Raises:
        IdentityError: `public` is not an X-Wing key.
    """
    if len(public) != PUBLIC_BYTES:
        raise IdentityError(f"a recipient key has {PUBLIC_BYTES} bytes")
    try:
        recipient = MLKEM768X25519PublicKey(
            mlkem.MLKEM768PublicKey.from_public_bytes(public[:_MLKEM_PUBLIC_BYTES]),
            x25519.X25519PublicKey.from_public_bytes(public[_MLKEM_PUBLIC_BYTES:]),
        )
        return _SUITE.encrypt(content_key, recipient, info=info)
    except ValueError as error:
        raise IdentityError("bytes are not an X-Wing public key") from error


def unwrap(wrapped: bytes, seed: bytes, *, info: bytes) -> bytes:
    """Decrypt a content key; sensitive (HPKE OpenBase).

    Raises:
        IdentityError: wrong key, wrong `info` or altered bytes.
    """
    try:
        return _SUITE.decrypt(wrapped, MLKEM768X25519PrivateKey(*_halves(seed)), info=info)
    except (InvalidTag, ValueError) as error:
        raise IdentityError(
            "the wrapped key does not open for this recipient and context"
        ) from error


def _halves(seed: bytes) -> tuple[mlkem.MLKEM768PrivateKey, x25519.X25519PrivateKey]:
    if len(seed) != SEED_BYTES:
        raise IdentityError(f"an X-Wing seed has {SEED_BYTES} bytes")
    expanded = hashlib.shake_256(seed).digest(96)
    return (
        mlkem.MLKEM768PrivateKey.from_seed_bytes(expanded[:64]),
        x25519.X25519PrivateKey.from_private_bytes(expanded[64:]),
    )


def _raw(public: mlkem.MLKEM768PublicKey | x25519.X25519PublicKey) -> bytes:
    return public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
