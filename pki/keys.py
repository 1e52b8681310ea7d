"""Private keys: made here, stored 0600, never in JSON.

TLS keys are ECDSA P-256 (gRPC refuses Ed25519 client certificates); everything that signs
documents is Ed25519 (RFC 8032).
"""

from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from kit.files import read_limited, write_secret
from pki.errors import IdentityError

MAX_KEY_BYTES = 8 * 1024

TlsKey = ec.EllipticCurvePrivateKey
SigningKey = ed25519.Ed25519PrivateKey
VerifyingKey = ed25519.Ed25519PublicKey
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def new_tls_key() -> TlsKey:
    """Return a fresh P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def new_signing_key() -> SigningKey:
    """Return a fresh Ed25519 key."""
    return ed25519.Ed25519PrivateKey.generate()


def pem(key: PrivateKey) -> bytes:
    """Return the key as unencrypted PKCS#8 PEM; sensitive."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def save(path: Path, key: PrivateKey) -> None:
    """Write a private key readable by its owner only."""
    write_secret(path, pem(key))


def load_tls(path: Path) -> TlsKey:
    """Read a P-256 private key.

    Raises:
        IdentityError: the file is not such a key, or others may read it.
    """
    key = _load(path)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != ec.SECP256R1.name:
        raise IdentityError(f"`{path}` is not an ECDSA P-256 key")
    return key


def load_signing(path: Path) -> SigningKey:
    """Read an Ed25519 private key.

    Raises:
        IdentityError: the file is not such a key, or others may read it.
    """
    key = _load(path)
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise IdentityError(f"`{path}` is not an Ed25519 key")
    return key


def _load(path: Path) -> object:
    data = read_limited(path, limit=MAX_KEY_BYTES, what="key")
    if path.stat().st_mode & 0o077:
        raise IdentityError(
            f"key `{path}` can be read by others",
            hint=f"run `chmod 600 {path}` and check who could",
        )
    try:
        return serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise IdentityError(f"`{path}` is not a private key in PEM form") from error


def public_bytes(key: SigningKey | VerifyingKey) -> bytes:
    """Return the 32 raw bytes of an Ed25519 public key."""
    public = key.public_key() if isinstance(key, ed25519.Ed25519PrivateKey) else key
    return public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def verifying_key(raw: bytes) -> VerifyingKey:
    """Return an Ed25519 public key from 32 raw bytes.

    Raises:
        IdentityError: the bytes are not a key.
    """
    try:
        return ed25519.Ed25519PublicKey.from_public_bytes(raw)
    except ValueError as error:
        raise IdentityError("bytes are not an Ed25519 public key") from error


def verify(key: VerifyingKey, signature: bytes, message: bytes, *, what: str) -> None:
    """Check an Ed25519 signature; returns nothing.

    Raises:
        IdentityError: the signature does not fit; the message says of `what`.
    """
    try:
        key.verify(signature, message)
    except InvalidSignature as error:
        raise IdentityError(f"signature of {what} does not fit") from error
