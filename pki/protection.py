"""Secrets at rest: Argon2id (RFC 9106) and AES-256-GCM (NIST SP 800-38D), over bytes.

A `Protection` is a random 256-bit key wrapped under a passphrase; the secrets of a home are sealed
under that key, so that a process derives from the passphrase once, and a new passphrase rewrites
one small file. A secret that travels alone (a reviewer's key, the root key) carries a protection
of its own.

Invariants:

- Everything that stands beside a ciphertext is authenticated with it (as associated data).
- A sealed secret begins with `MAGIC`; nothing else that is kept as a key does.
- Placement is not authenticated: whoever may write to the folder can exchange two sealed files.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from kit import canonical
from kit.errors import FormatError
from pki.errors import IdentityError, WrongPassphraseError

MAGIC = b"hospital-edge-kit secret 1\n"
FILE = "protection.json"
VERSION = 1
MAX_PROTECTION_BYTES = 4096
MAX_SEALED_BYTES = 64 * 1024
MIN_PASSPHRASE_CHARACTERS = 12
KEY_BYTES, SALT_BYTES, NONCE_BYTES, TAG_BYTES = 32, 16, 12, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one guess at a passphrase costs (Argon2id: memory in KiB, passes, lanes)."""

    memory_kib: int
    iterations: int
    lanes: int


COST = Cost(memory_kib=64 * 1024, iterations=3, lanes=2)  # half a second on a small server
# A damaged or hostile file must not make this machine allocate what it does not have.
_MAX_COST = Cost(memory_kib=1024 * 1024, iterations=16, lanes=16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Protection:
    """A sealing key, wrapped under a passphrase; `id` stays when the passphrase changes."""

    id: str
    cost: Cost
    salt: bytes
    nonce: bytes
    wrapped: bytes

    @classmethod
    def create(cls, passphrase: str) -> tuple[Self, bytes]:
        """Return a fresh protection and its sealing key (sensitive).

        Raises:
            IdentityError: the passphrase is too short.
        """
        key = os.urandom(KEY_BYTES)
        blank = cls(id=os.urandom(16).hex(), cost=COST, salt=b"", nonce=b"", wrapped=b"")
        return blank.rewrap(key, passphrase), key

    def rewrap(self, key: bytes, passphrase: str) -> Self:
        """Return the same protection under another passphrase.

        Raises:
            IdentityError: the passphrase is too short.
        """
        if len(passphrase) < MIN_PASSPHRASE_CHARACTERS:
            raise IdentityError(
                f"a passphrase has at least {MIN_PASSPHRASE_CHARACTERS} characters",
                hint="several words that nobody would guess are easier to keep than signs",
            )
        salt, nonce = os.urandom(SALT_BYTES), os.urandom(NONCE_BYTES)
        head = replace(self, cost=COST, salt=salt, nonce=nonce, wrapped=b"")
        box = AESGCM(head._derive(passphrase))
        return replace(head, wrapped=box.encrypt(nonce, key, head._associated()))

    def open(self, passphrase: str) -> bytes:
        """Return the sealing key; sensitive.

        Raises:
            WrongPassphraseError: another passphrase, or the file was altered.
        """
        try:
            return AESGCM(self._derive(passphrase)).decrypt(
                self.nonce, self.wrapped, self._associated()
            )
        except InvalidTag as error:
            raise WrongPassphraseError(
                "the passphrase does not fit, or the file that it protects was altered"
            ) from error

    def to_table(self) -> dict[str, Any]:
        """Return the JSON form."""
        return self._head() | {"wrapped": canonical.b64encode(self.wrapped)}

    def to_bytes(self) -> bytes:
        """Return the canonical bytes of `protection.json`."""
        return canonical.encode(self.to_table())

    @classmethod
    def from_table(cls, value: object) -> Self:
        """Read the JSON form.

        Raises:
            FormatError: a field is missing, off, or asks for more than the named limits.
        """
        names = {"version", "kdf", "id", "memory_kib", "iterations", "lanes", "salt", "nonce"}
        table = canonical.fields(value, names | {"wrapped"}, what="protection")
        canonical.version(table["version"], expected=VERSION, what="protection")
        if table["kdf"] != "argon2id":
            raise FormatError("protection names another derivation than argon2id")
        iterations = canonical.integer(
            table["iterations"], low=1, high=_MAX_COST.iterations, what="iterations"
        )
        lanes = canonical.integer(table["lanes"], low=1, high=_MAX_COST.lanes, what="lanes")
        memory = canonical.integer(
            table["memory_kib"], low=8 * lanes, high=_MAX_COST.memory_kib, what="memory_kib"
        )
        return cls(
            id=_identifier(table["id"]),
            cost=Cost(memory_kib=memory, iterations=iterations, lanes=lanes),
            salt=_bytes(table["salt"], SALT_BYTES),
            nonce=_bytes(table["nonce"], NONCE_BYTES),
            wrapped=_bytes(table["wrapped"], KEY_BYTES + TAG_BYTES),
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read `protection.json`. Raises as `from_table`."""
        return cls.from_table(canonical.decode(data, limit=MAX_PROTECTION_BYTES))

    def _head(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "kdf": "argon2id",
            "id": self.id,
            "memory_kib": self.cost.memory_kib,
            "iterations": self.cost.iterations,
            "lanes": self.cost.lanes,
            "salt": canonical.b64encode(self.salt),
            "nonce": canonical.b64encode(self.nonce),
        }

    def _associated(self) -> bytes:
        return MAGIC + canonical.encode(self._head())

    def _derive(self, passphrase: str) -> bytes:
        return Argon2id(
            salt=self.salt,
            length=KEY_BYTES,
            iterations=self.cost.iterations,
            lanes=self.cost.lanes,
            memory_cost=self.cost.memory_kib,
        ).derive(passphrase.encode())


def is_sealed(data: bytes) -> bool:
    """Say whether a file's bytes are a sealed secret."""
    return data.startswith(MAGIC)


def seal(secret: bytes, key: bytes, *, home: str) -> bytes:
    """Seal a secret under the key of the protection with the id `home`."""
    return _seal(secret, key, {"home": home})


def seal_alone(secret: bytes, passphrase: str) -> bytes:
    """Seal a secret that carries its own protection, to be kept anywhere."""
    own, key = Protection.create(passphrase)
    return _seal(secret, key, {"protection": own.to_table()})


def protection_of(data: bytes) -> "Protection | str":
    """Return the protection a sealed secret carries, or the id of its home's.

    Raises:
        FormatError: the bytes are no sealed secret.
    """
    place, _, _ = _parse(data)
    return _identifier(place["home"]) if "home" in place else _own(place)


def open_sealed(data: bytes, key: bytes) -> bytes:
    """Return a sealed secret; sensitive.

    Raises:
        FormatError: the bytes are no sealed secret.
        IdentityError: they were altered, or sealed under another key.
    """
    place, nonce, sealed = _parse(data)
    try:
        return AESGCM(key).decrypt(nonce, sealed, _context(place, nonce))
    except InvalidTag as error:
        raise IdentityError("a sealed key was altered, or belongs to another home") from error


def _seal(secret: bytes, key: bytes, place: Mapping[str, Any]) -> bytes:
    nonce = os.urandom(NONCE_BYTES)
    sealed = AESGCM(key).encrypt(nonce, secret, _context(place, nonce))
    table = {**place, "nonce": canonical.b64encode(nonce), "sealed": canonical.b64encode(sealed)}
    return MAGIC + canonical.encode(table)


def _context(place: Mapping[str, Any], nonce: bytes) -> bytes:
    return MAGIC + canonical.encode({**place, "nonce": canonical.b64encode(nonce)})


def _parse(data: bytes) -> tuple[dict[str, Any], bytes, bytes]:
    if not is_sealed(data):
        raise FormatError("bytes are not a sealed secret")
    value = canonical.decode(data.removeprefix(MAGIC), limit=MAX_SEALED_BYTES)
    where = "protection" if isinstance(value, dict) and "protection" in value else "home"
    table = canonical.fields(value, {where, "nonce", "sealed"}, what="sealed secret")
    nonce = _bytes(table["nonce"], NONCE_BYTES)
    return {where: table[where]}, nonce, canonical.b64decode(table["sealed"])


def _own(place: Mapping[str, Any]) -> Protection:
    return Protection.from_table(place["protection"])


def _identifier(text: object) -> str:
    if not isinstance(text, str) or len(text) != 32 or set(text) - set("0123456789abcdef"):
        raise FormatError("a protection's id is 32 hexadecimal digits")
    return text


def _bytes(text: object, count: int) -> bytes:
    data = canonical.b64decode(text)
    if len(data) != count:
        raise FormatError(f"a field of a protected key does not have {count} bytes")
    return data
