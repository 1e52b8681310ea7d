"""Keys that live in a PKCS#11 token (OASIS PKCS#11 3.0) and never leave it.

Invariants:

- A key file of such a key is a reference: a PKCS#11 URI (RFC 7512) and the public key. It holds no
  secret; the PIN comes from the operator's sources, and a wrong one is never tried twice.
- Keys are made in the token, sensitive and not extractable; nothing is ever imported.
- A reference whose public key is not that of the token's key is refused.
"""

import hashlib
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Self, cast
from urllib.parse import quote, unquote

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils

from kit import canonical
from kit.errors import FormatError
from pki import unlocking
from pki.errors import IdentityError

if TYPE_CHECKING:
    import pkcs11

MAGIC = b"hospital-edge-kit token 1\n"
MAX_REFERENCE_BYTES = 4096
ID_BYTES = 16
_SCALAR_BYTES = 32
_P256 = bytes.fromhex("06082a8648ce3d030107")  # DER of the curves' object identifiers
_ED25519 = bytes.fromhex("06032b6570")
_ATTRIBUTE = re.compile(r"([a-z-]+)=([A-Za-z0-9._~:\[\]@!$'()*+,=&/%-]*)")
_lock = threading.RLock()


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenUri:
    """Which key of which token, through which module (RFC 7512, the attributes used here)."""

    module: str
    token: str
    object: str = ""
    id: bytes = b""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `pkcs11:token=NAME[;object=LABEL][;id=%..]?module-path=FILE`.

        Raises:
            FormatError: another form, an unknown attribute, or no token or module named.
        """
        path, _, query = text.removeprefix("pkcs11:").partition("?")
        found: dict[str, str] = {}
        for part in [*path.split(";"), *query.split("&")]:
            match = _ATTRIBUTE.fullmatch(part)
            if match is None or match[1] in found:
                raise FormatError(f"`{canonical.printable(text)}` is not a PKCS#11 URI", hint=_HINT)
            found[match[1]] = match[2]
        unknown = set(found) - {"token", "object", "id", "module-path"}
        if not text.startswith("pkcs11:") or unknown or not found.get("token"):
            raise FormatError(f"`{canonical.printable(text)}` is not a PKCS#11 URI", hint=_HINT)
        module = unquote(found.get("module-path", ""))
        if not module.startswith("/"):
            raise FormatError("the PKCS#11 URI names no module by its whole path", hint=_HINT)
        return cls(
            module=module,
            token=unquote(found["token"]),
            object=unquote(found.get("object", "")),
            id=_percent_bytes(found.get("id", "")),
        )

    def __str__(self) -> str:
        """Return the URI."""
        parts = [f"token={quote(self.token, safe='')}"]
        if self.object:
            parts.append(f"object={quote(self.object, safe='')}")
        if self.id:
            parts.append("id=" + "".join(f"%{byte:02x}" for byte in self.id))
        return f"pkcs11:{';'.join(parts)}?module-path={quote(self.module)}"


_HINT = "e.g. `pkcs11:token=north?module-path=/usr/lib/softhsm/libsofthsm2.so`"


class TokenTlsKey(ec.EllipticCurvePrivateKey):
    """A P-256 key in a token; signs there."""

    def __init__(self, uri: TokenUri, public: ec.EllipticCurvePublicKey) -> None:
        self.uri, self._public = uri, public

    @property
    def curve(self) -> ec.EllipticCurve:
        """P-256."""
        return self._public.curve

    @property
    def key_size(self) -> int:
        """256."""
        return self._public.key_size

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """Return the public half."""
        return self._public

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """Return the DER signature of `data` (ECDSA with SHA-256 only).

        Raises:
            IdentityError: another algorithm, or the token does not answer.
        """
        if not isinstance(signature_algorithm.algorithm, hashes.SHA256):
            raise IdentityError("a TLS key in a token signs with SHA-256 only")
        digest = hashlib.sha256(data).digest()
        raw = _sign(self.uri, digest, "ECDSA")
        r, s = raw[:_SCALAR_BYTES], raw[_SCALAR_BYTES:]
        return utils.encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))

    def exchange(self, _algorithm: ec.ECDH, _peer: ec.EllipticCurvePublicKey) -> bytes:
        """Refuse: this key signs."""
        raise _stays(self.uri)

    def private_numbers(self) -> ec.EllipticCurvePrivateNumbers:
        """Refuse: the key does not leave its token."""
        raise _stays(self.uri)

    def private_bytes(self, *_: Any, **__: Any) -> bytes:
        """Refuse: the key does not leave its token."""
        raise _stays(self.uri)

    def __copy__(self) -> Self:
        """Return this: there is one key."""
        return self

    def __deepcopy__(self, _memo: dict[Any, Any]) -> Self:
        """Return this: there is one key."""
        return self


class TokenSigningKey(ed25519.Ed25519PrivateKey):
    """An Ed25519 key in a token; signs there."""

    def __init__(self, uri: TokenUri, public: ed25519.Ed25519PublicKey) -> None:
        self.uri, self._public = uri, public

    def public_key(self) -> ed25519.Ed25519PublicKey:
        """Return the public half."""
        return self._public

    def sign(self, data: Any) -> bytes:
        """Return the 64-byte signature of `data` (RFC 8032).

        Raises:
            IdentityError: the token does not answer.
        """
        return _sign(self.uri, bytes(data), "EDDSA")

    def private_bytes(self, *_: Any, **__: Any) -> bytes:
        """Refuse: the key does not leave its token."""
        raise _stays(self.uri)

    def private_bytes_raw(self) -> bytes:
        """Refuse: the key does not leave its token."""
        raise _stays(self.uri)

    def __copy__(self) -> Self:
        """Return this: there is one key."""
        return self

    def __deepcopy__(self, _memo: dict[Any, Any]) -> Self:
        """Return this: there is one key."""
        return self


TokenKey = TokenTlsKey | TokenSigningKey


def is_reference(data: bytes) -> bool:
    """Say whether a key file's bytes refer to a token."""
    return data.startswith(MAGIC)


def reference(key: TokenKey) -> bytes:
    """Return the key file of a key in a token; not secret."""
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return MAGIC + canonical.encode({"uri": str(key.uri), "public": canonical.b64encode(public)})


def load(data: bytes) -> TokenKey:
    """Return the key that a key file refers to, after looking for it in its token.

    Raises:
        FormatError: the bytes are no reference.
        IdentityError: token, PIN or key are missing or wrong.
    """
    table = canonical.fields(
        canonical.decode(data.removeprefix(MAGIC), limit=MAX_REFERENCE_BYTES),
        {"uri", "public"},
        what="token reference",
    )
    uri = TokenUri.parse(table["uri"])
    try:
        public = serialization.load_der_public_key(canonical.b64decode(table["public"]))
    except ValueError as error:
        raise FormatError("a token reference holds no public key") from error
    found = _public_key(uri)
    if found != public:
        raise IdentityError(f"the key in token `{uri.token}` is not the one this home refers to")
    return _wrap(uri, found)


def new_tls_key(uri: TokenUri) -> TokenTlsKey:
    """Make a P-256 key in the token. Raises `IdentityError` if the token does not."""
    key = _generate(replace(uri, object=uri.object or "edge-tls"), "EC", _P256)
    if not isinstance(key, TokenTlsKey):
        raise IdentityError(f"token `{uri.token}` made another key than it was asked for")
    return key


def new_signing_key(uri: TokenUri) -> TokenSigningKey:
    """Make an Ed25519 key in the token. Raises `IdentityError` if the token does not."""
    key = _generate(replace(uri, object=uri.object or "edge-signing"), "EC_EDWARDS", _ED25519)
    if not isinstance(key, TokenSigningKey):
        raise IdentityError(f"token `{uri.token}` made another key than it was asked for")
    return key


def destroy(key: TokenKey) -> None:
    """Delete a key from its token. Raises `IdentityError` if the token does not."""
    from pkcs11 import Attribute

    with _session(key.uri) as session:
        for found in list(session.get_objects({Attribute.ID: key.uri.id})):
            found.destroy()


def _generate(uri: TokenUri, kind: str, curve: bytes) -> TokenKey:
    made = replace(uri, id=os.urandom(ID_BYTES))
    with _session(uri) as session:
        from pkcs11 import Attribute, KeyType, Mechanism

        parameters = session.create_domain_parameters(
            KeyType[kind], {Attribute.EC_PARAMS: curve}, local=True
        )
        parameters.generate_keypair(
            mechanism=Mechanism[f"{kind}_KEY_PAIR_GEN"],
            store=True,
            id=made.id,
            label=made.object,
            private_template={Attribute.EXTRACTABLE: False, Attribute.SENSITIVE: True},
        )
    return _wrap(made, _public_key(made))


def _wrap(uri: TokenUri, public: object) -> TokenKey:
    if isinstance(public, ec.EllipticCurvePublicKey):
        return TokenTlsKey(uri, public)
    if isinstance(public, ed25519.Ed25519PublicKey):
        return TokenSigningKey(uri, public)
    raise IdentityError(f"the key in token `{uri.token}` is neither P-256 nor Ed25519")


def _public_key(uri: TokenUri) -> object:
    from pkcs11 import Attribute, ObjectClass

    with _session(uri) as session:
        found = session.get_key(object_class=ObjectClass.PUBLIC_KEY, id=uri.id)
        session.get_key(object_class=ObjectClass.PRIVATE_KEY, id=uri.id)
        curve, point = bytes(found[Attribute.EC_PARAMS]), bytes(found[Attribute.EC_POINT])
    if curve == _P256:
        raw = point[-(1 + 2 * _SCALAR_BYTES) :]  # inside a DER octet string
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), raw)
    if curve == _ED25519:
        return ed25519.Ed25519PublicKey.from_public_bytes(point[-_SCALAR_BYTES:])
    return None


def _sign(uri: TokenUri, data: bytes, mechanism: str) -> bytes:
    with _session(uri) as session:
        from pkcs11 import Mechanism, ObjectClass

        found = session.get_key(object_class=ObjectClass.PRIVATE_KEY, id=uri.id)
        key = cast(Any, found)  # its stub leaves out what the key type brings
        signature: bytes = key.sign(data, mechanism=Mechanism[mechanism])
    if len(signature) != 2 * _SCALAR_BYTES:
        raise IdentityError(f"token `{uri.token}` gave a signature of {len(signature)} bytes")
    return signature


@contextmanager
def _session(uri: TokenUri) -> Iterator["pkcs11.Session"]:
    """Yield this process's session with a token; gRPC signs from threads of its own."""
    try:
        from pkcs11 import exceptions
    except ImportError as error:
        raise IdentityError(
            "keys in a token need python-pkcs11", hint="install the kit with the extra `hsm`"
        ) from error
    with _lock:
        try:
            yield _open(uri.module, uri.token)
        except exceptions.NoSuchKey as error:
            raise IdentityError(f"the key is not in token `{uri.token}` any more") from error
        except exceptions.PKCS11Error as error:
            raise IdentityError(
                f"token `{uri.token}` refuses: {type(error).__name__}",
                hint="is it plugged in, and its service running?",
            ) from error


@cache
def _open(module: str, token: str) -> "pkcs11.Session":
    import pkcs11
    from pkcs11 import exceptions

    try:
        found = pkcs11.lib(module).get_token(token_label=token)
    except exceptions.NoSuchToken as error:
        raise IdentityError(
            f"there is no token `{token}`", hint="is it plugged in? `softhsm2-util --show-slots`"
        ) from error
    except (exceptions.PKCS11Error, RuntimeError, OSError) as error:
        raise IdentityError(f"PKCS#11 module `{module}` cannot be used: {error}") from error
    pin = unlocking.pin(f"token `{token}` (its PIN)")
    try:
        return found.open(rw=True, user_pin=pin)
    except (exceptions.PinIncorrect, exceptions.PinLenRange, exceptions.PinInvalid) as error:
        raise IdentityError(
            f"wrong PIN for token `{token}`",
            hint="it was tried once; a few wrong ones lock a token",
        ) from error
    except exceptions.PinLocked as error:
        raise IdentityError(f"token `{token}` is locked after wrong PINs") from error


def _stays(uri: TokenUri) -> IdentityError:
    return IdentityError(f"the key is in token `{uri.token}` and does not leave it")


def _percent_bytes(text: str) -> bytes:
    if not re.fullmatch("(?:%[0-9a-fA-F]{2})*", text):
        raise FormatError("the id of a PKCS#11 URI is not percent-encoded bytes")
    return bytes.fromhex(text.replace("%", ""))
