"""An adversary who wants a shredded blueprint back, and holds everything but what was destroyed.

It reads every byte it has as a key: each window of 32 bytes, and what stands there in hexadecimal
or base64. Each candidate is tried as the blueprint's own key, as the content key, as the parent of
the keys of shards, and as the recipient's seed, by the real HPKE open.
"""

import base64
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from hashlib import shake_256
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric import x25519

from coordinator import payloads
from edge_agent import outbox
from federation.blueprint import envelope
from federation.blueprint.errors import RefusalError
from federation.blueprint.statement import WEIGHTS
from kit import seeds
from pki import keys

WAYS = ("own key", "content key", "recipient seed", "shards")
KEY_BYTES = 32
# Of 32 random bytes, 20 or more differ and one is not printable, but for one case in 10^9.
_MIN_DISTINCT = 20
_PRINTABLE = np.zeros(256, dtype=bool)
_PRINTABLE[[*range(0x20, 0x7F), 9, 10, 13]] = True
_BLOCK = 1 << 16
_HEX, _BASE64 = re.compile(rb"[0-9a-fA-F]{64,}"), re.compile(rb"[A-Za-z0-9+/_-]{43,}={0,2}")
_PUBLISHED = b"\x08\x08\x12\x11hospital-edge-kit"  # an ONNX file of ours: read in steps of a key


@dataclass(frozen=True)
class Kept:
    """What was copied of one blueprint before it ended: its envelope, and its sealed payload."""

    folder: Path

    @classmethod
    def take(cls, home, digest, folder, *, hub=None):
        """Copy a site's outbox, and the stores of a coordinator's home if given."""
        shutil.copytree(home.outbox / digest, folder / "outbox")
        for store in ("payloads", "shards", "staging"):
            if hub is not None and (hub / store).is_dir():
                shutil.copytree(hub / store, folder / store)
        return cls(folder)

    @cached_property
    def statement(self):
        return outbox.statement(self.folder / "outbox")

    @cached_property
    def digest(self):
        return self.statement.digest

    @cached_property
    def contexts(self):
        """What each sealed thing is bound to, by its way."""
        at_rest = payloads.payload_context(self.digest)
        shard = b"shard at rest v1 " + bytes.fromhex(self.digest)
        return {
            "own key": at_rest,
            "content key": self.statement.context.binding,
            "shards": {name: shard + name.encode() for name in self.shards},
        }

    @cached_property
    def wrapped(self):
        return (self.folder / "outbox" / outbox.WRAPPED).read_bytes()

    @cached_property
    def ciphertext(self):
        return (self.folder / "outbox" / outbox.CIPHERTEXT).read_bytes()

    @cached_property
    def at_rest(self):
        path = self.folder / "payloads" / payloads.payload_name(self.digest)
        return path.read_bytes() if path.is_file() else b""

    @cached_property
    def shards(self):
        folder = self.folder / "shards" / self.digest
        return {path.stem: path.read_bytes() for path in folder.glob("*.sealed")}


def files(*folders):
    """Return the bytes of every plain file below the folders."""
    paths = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    return [path.read_bytes() for path in paths if path.name != "reserve"]


def recover(kept, loot, *, recipient, enough=frozenset(WAYS)):
    """Return what came back by which way: nothing if it did not; ends once `enough` ways worked.

    `recipient` is the public key that the envelope was sealed to, which everybody may know.
    """
    found, seen = {}, set()
    for data in loot:
        fresh = candidates([data]) - seen
        seen |= fresh
        for candidate in fresh:
            found |= _tried(kept, candidate, recipient)
        if enough <= set(found):
            break
    return found


def _tried(kept, candidate, recipient):
    found = {}
    for way, attempt in _ATTEMPTS.items():
        with suppress(RefusalError):
            restored = attempt(kept, candidate, recipient)
            if restored is not None:
                found[way] = restored
    return found


def _by_own_key(kept, candidate, _recipient):
    if not kept.at_rest:
        return None
    return _weights(kept, envelope.decrypt(kept.at_rest, candidate, kept.contexts["own key"]))


def _by_content_key(kept, candidate, _recipient):
    context = kept.contexts["content key"]
    return _weights(kept, envelope.decrypt(kept.ciphertext, candidate, context))


def _by_seed(kept, candidate, recipient):
    if not _is_seed_of(candidate, recipient):
        return None
    content_key = envelope.unwrap_key(kept.wrapped, candidate, kept.statement)  # HPKE
    return _weights(kept, envelope.open_payload(kept.ciphertext, content_key, kept.statement))


def _by_shards(kept, candidate, _recipient):
    for name, sealed in kept.shards.items():
        key = seeds.derive(candidate, "shard", name)
        return envelope.decrypt(sealed, key, kept.contexts["shards"][name])
    return None


_ATTEMPTS = dict(zip(WAYS, (_by_own_key, _by_content_key, _by_seed, _by_shards), strict=True))


def _is_seed_of(candidate, recipient):
    """Compare the X25519 half of an X-Wing key: a twentieth of the work of a whole one."""
    curve = x25519.X25519PrivateKey.from_private_bytes(shake_256(candidate).digest(96)[64:])
    return curve.public_key().public_bytes_raw() == recipient[-KEY_BYTES:]


def _weights(kept, plaintext):
    return envelope.part(plaintext, kept.statement, WEIGHTS)


def candidates(loot, *, depth=2):
    """Return everything in some bytes that may be a key of 32 bytes."""
    found = set()
    for data in loot:
        found |= _windows(data, step=KEY_BYTES if data.startswith(_PUBLISHED) else 1)
        decoded = [*map(_from_hex, _HEX.findall(data)), *map(_from_base64, _BASE64.findall(data))]
        if depth:
            found |= candidates(decoded, depth=depth - 1)
    return found


def _from_hex(text):
    return bytes.fromhex(text[: len(text) // 2 * 2].decode())


def _from_base64(text):
    flat = text.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
    return base64.b64decode(flat[: len(flat) - (len(flat) % 4 == 1)] + b"==")


def _windows(data, *, step):
    if len(data) == KEY_BYTES:
        return {data}
    array, found = np.frombuffer(data, dtype=np.uint8), set()
    for start in range(0, max(len(array) - KEY_BYTES + 1, 0), _BLOCK):
        block = array[start : start + _BLOCK + KEY_BYTES - 1]
        views = np.lib.stride_tricks.sliding_window_view(block, KEY_BYTES)[::step]
        views = views[~_PRINTABLE[views].all(axis=1)]
        ordered = np.sort(views, axis=1)
        distinct = 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(axis=1)
        found |= {row.tobytes() for row in views[distinct >= _MIN_DISTINCT]}
    return found


def opened_keys(folder):
    """Return what the kit itself reads from every key file below a folder, sealed ones included."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in (".key", ".secret"):
            found.append(keys.read_secret(path))
    return found
