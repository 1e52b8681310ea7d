"""Private keys: made here, stored 0600, sealed where the home has a passphrase.

TLS keys are ECDSA P-256 (gRPC refuses Ed25519 client certificates); everything that signs
documents is Ed25519 (RFC 8032). A key file of a home whose folder holds `protection.json` (beside
it or one folder up) is written sealed and read through `pki.unlocking`; one that refers to a
PKCS#11 token (`pki.tokens`) signs there.
"""

from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from kit import files
from kit.files import read_limited
from pki import protection, tokens, unlocking
from pki.errors import IdentityError
from pki.protection import Protection

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
    """Write a private key, or the reference to one in a token, readable by its owner only.

    Raises: as `write_secret`.
    """
    if isinstance(key, tokens.TokenKey):
        files.write_secret(path, tokens.reference(key))
    else:
        write_secret(path, pem(key))


def put(fresh: Path, path: Path) -> None:
    """Copy a key file to `path`, sealed as it is; a key that this ousts leaves its token too.

    Raises:
        IdentityError: the token does not answer.
    """
    old, new = _token_key(path), _token_key(fresh)
    files.write_secret(path, read_limited(fresh, limit=protection.MAX_SEALED_BYTES, what="key"))
    if old is not None and (new is None or new.uri != old.uri):
        tokens.destroy(old)


def successor_tls(path: Path) -> TlsKey:
    """Return a fresh P-256 key, made in the token if the one at `path` lives there.

    Raises:
        IdentityError: the token does not answer.
    """
    old = _token_key(path)
    return new_tls_key() if old is None else tokens.new_tls_key(old.uri)


def successor_signing(path: Path) -> SigningKey:
    """Return a fresh Ed25519 key, made in the token if the one at `path` lives there.

    Raises:
        IdentityError: the token does not answer.
    """
    old = _token_key(path)
    return new_signing_key() if old is None else tokens.new_signing_key(old.uri)


def _token_key(path: Path) -> tokens.TokenKey | None:
    if not path.is_file():
        return None
    data = read_limited(path, limit=protection.MAX_SEALED_BYTES, what="key")
    return tokens.load(data) if tokens.is_reference(data) else None


def save_alone(path: Path, key: PrivateKey, passphrase: str) -> None:
    """Write a private key that will leave its home, under a passphrase of its own.

    Raises:
        IdentityError: the passphrase is too short.
    """
    files.write_secret(path, protection.seal_alone(pem(key), passphrase))


def write_secret(path: Path, secret: bytes) -> None:
    """Write a secret readable by its owner only, sealed if its home has a passphrase.

    Raises:
        IdentityError: the home's passphrase is missing or wrong.
    """
    home = home_protection(path)
    if home is not None:
        own, where = home
        key = unlocking.sealing_key(own, f"the keys in `{where}`")
        secret = protection.seal(secret, key, home=own.id)
    files.write_secret(path, secret)


def read_secret(path: Path, *, limit: int = MAX_KEY_BYTES, what: str = "key") -> bytes:
    """Return a secret of at most `limit` bytes; sensitive.

    Raises:
        IdentityError: others may read the file, or its passphrase is missing or wrong.
        KitError: it is missing, too large or damaged.
    """
    data = read_limited(path, limit=max(limit, protection.MAX_SEALED_BYTES), what=what)
    if path.stat().st_mode & 0o077:
        raise IdentityError(
            f"key `{path}` can be read by others",
            hint=f"run `chmod 600 {path}` and check who could",
        )
    if protection.is_sealed(data):
        data = protection.open_sealed(data, _sealing_key(path, protection.protection_of(data)))
    if len(data) > limit:
        raise IdentityError(f"{what} `{path}` is over {limit} bytes")
    return data


def home_protection(path: Path) -> tuple[Protection, Path] | None:
    """Return the protection of the home that `path` lies in, and that home; None if it has none."""
    for folder in (path.parent, path.parent.parent):
        file = folder / protection.FILE
        if file.is_file():
            data = read_limited(file, limit=protection.MAX_PROTECTION_BYTES, what="protection")
            return Protection.from_bytes(data), folder
    return None


def _sealing_key(path: Path, sealed_under: Protection | str) -> bytes:
    if isinstance(sealed_under, Protection):
        return unlocking.sealing_key(sealed_under, f"key `{path}`")
    home = home_protection(path)
    if home is None or home[0].id != sealed_under:
        raise IdentityError(
            f"key `{path}` is sealed, and `{protection.FILE}` of its home is not here",
            hint="restore it from the home's backup; without it the key cannot be opened",
        )
    return unlocking.sealing_key(home[0], f"the keys in `{home[1]}`")


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


def public_of(path: Path) -> object:
    """Return the public half of whatever private key is in a file.

    Raises:
        IdentityError: there is none, or it cannot be opened.
    """
    key = _load(path)
    if not isinstance(key, PrivateKey):
        raise IdentityError(f"`{path}` is not a key that the kit uses")
    return key.public_key()


def _load(path: Path) -> object:
    data = read_secret(path)
    if tokens.is_reference(data):
        return tokens.load(data)
    try:
        return serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise IdentityError(f"`{path}` is not a private key in PEM form") from error


def public_bytes(key: SigningKey | VerifyingKey) -> bytes:
    """Return the 32 raw bytes of an Ed25519 public key."""
    public = key.public_key() if isinstance(key, ed25519.Ed25519PrivateKey) else key
    return public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def public_pem(raw: bytes) -> bytes:
    """Return an Ed25519 public key (32 raw bytes) as PEM.

    Raises:
        IdentityError: the bytes are not a key.
    """
    return verifying_key(raw).public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def load_public(path: Path) -> bytes:
    """Return the 32 raw bytes of the Ed25519 public key in a PEM file.

    Raises:
        IdentityError: the file holds no such key.
    """
    try:
        key = serialization.load_pem_public_key(
            read_limited(path, limit=MAX_KEY_BYTES, what="public key")
        )
    except (ValueError, UnsupportedAlgorithm) as error:
        raise IdentityError(f"`{path}` is not a public key in PEM form") from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise IdentityError(f"`{path}` is not an Ed25519 public key")
    return public_bytes(key)


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
