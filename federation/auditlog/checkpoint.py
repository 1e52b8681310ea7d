"""Checkpoints and receipts as text: C2SP signed-note, tlog-checkpoint and tlog-proof.

A checkpoint is `origin`, tree size and root under the log key, then the cosignatures of witnesses
(C2SP tlog-cosignature, Ed25519, `cosignature/v1`). A receipt is an inclusion proof with the
checkpoint it leads to; it verifies offline against pinned keys.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from federation.auditlog import merkle
from kit import canonical
from kit.errors import FormatError
from pki import keys

MAX_TEXT_BYTES = 64 * 1024
MAX_SIGNATURES = 256
_ED25519 = b"\x01"  # signed-note algorithm byte
_COSIGNATURE = b"\x04"  # the same key under `cosignature/v1`
_SIGNATURE_BYTES = 64
_LINE = re.compile("\u2014 ([^ +\\s]{1,200}) ([A-Za-z0-9+/=]{1,400})")
_MARK = "— "
_LAST_SECOND = 253402300799  # the year 9999
_PROOF_HEADER = "c2sp.org/tlog-proof@v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The state of a log: how many leaves, and the root over them."""

    origin: str
    size: int
    root: bytes

    def _body(self) -> str:
        return f"{self.origin}\n{self.size}\n{canonical.b64encode(self.root)}\n"

    def sign(self, key: keys.SigningKey, cosignatures: Iterable[str] = ()) -> str:
        """Return the signed note, with the cosignature lines of witnesses below the log's own."""
        body = self._body()
        raw = _key_hash(self.origin, _ED25519, keys.public_bytes(key)) + key.sign(body.encode())
        lines = [f"{_MARK}{self.origin} {canonical.b64encode(raw)}", *cosignatures]
        return f"{body}\n" + "".join(f"{line}\n" for line in lines)

    @classmethod
    def verify(cls, text: str, *, origin: str, key: bytes) -> Self:
        """Read a signed note of one log; what others signed below it is for `cosignatures`.

        Raises:
            FormatError: not such a note, or of another log or key.
            IdentityError: the signature does not fit.
        """
        checkpoint, lines = cls._parse(text)
        name, raw = lines[0]
        if checkpoint.origin != origin or name != origin:
            raise FormatError("checkpoint is not one of this log")
        if raw[:4] != _key_hash(origin, _ED25519, key):
            raise FormatError("checkpoint is signed by another key than the pinned one")
        message = checkpoint._body().encode()
        keys.verify(keys.verifying_key(key), raw[4:], message, what="the checkpoint")
        return checkpoint

    @classmethod
    def _parse(cls, text: str) -> tuple[Self, list[tuple[str, bytes]]]:
        if len(text) > MAX_TEXT_BYTES or not text.endswith("\n"):
            raise FormatError("checkpoint is too long or cut off")
        body, _, signatures = text.partition("\n\n")
        lines = body.split("\n")
        if len(lines) != 3:
            raise FormatError("checkpoint does not have three lines")
        signed = [_LINE.fullmatch(line) for line in signatures.removesuffix("\n").split("\n")]
        if not 0 < len(signed) <= MAX_SIGNATURES or None in signed:
            raise FormatError("a signature line of the checkpoint is off")
        pairs = [(m[1], canonical.b64decode(m[2])) for m in signed if m is not None]
        if len({(name, raw[:4]) for name, raw in pairs}) != len(pairs):
            raise FormatError("a checkpoint carries two signatures of one key")
        root = canonical.b64decode(lines[2])
        if len(root) != merkle.HASH_BYTES:
            raise FormatError("checkpoint root does not have 32 bytes")
        return cls(origin=lines[0], size=_number(lines[1]), root=root), pairs

    def cosign(self, key: keys.SigningKey, *, name: str, at: datetime) -> str:
        """Return the signature line by which a witness says that it saw no larger tree `at`."""
        seconds = int(at.timestamp())
        head = _key_hash(name, _COSIGNATURE, keys.public_bytes(key)) + seconds.to_bytes(8, "big")
        raw = head + key.sign(self._cosigned(seconds))
        return f"{_MARK}{name} {canonical.b64encode(raw)}"

    def check_cosignature(self, line: str, *, name: str, key: bytes) -> datetime:
        """Return the time of a witness's signature line.

        Raises:
            FormatError: it is not one of this witness.
            IdentityError: it does not fit this checkpoint.
        """
        found = _LINE.fullmatch(line)
        if found is None or found[1] != name:
            raise FormatError("the cosignature is not one of this witness")
        return self._check(canonical.b64decode(found[2]), name, key)

    def _check(self, raw: bytes, name: str, key: bytes) -> datetime:
        if len(raw) != 12 + _SIGNATURE_BYTES or raw[:4] != _key_hash(name, _COSIGNATURE, key):
            raise FormatError(f"the cosignature of `{name}` is under another key")
        seconds = int.from_bytes(raw[4:12], "big")
        if seconds > _LAST_SECOND:
            raise FormatError(f"the cosignature of `{name}` has no time")
        message = self._cosigned(seconds)
        keys.verify(keys.verifying_key(key), raw[12:], message, what=f"witness `{name}`")
        return datetime.fromtimestamp(seconds, UTC)

    def _cosigned(self, seconds: int) -> bytes:
        return f"cosignature/v1\ntime {seconds}\n{self._body()}".encode()


def cosignatures(text: str, witnesses: Mapping[str, bytes]) -> dict[str, datetime]:
    """Return who of `witnesses` (name -> Ed25519 key) cosigned a note, and when.

    Lines of names and keys that are not among them say nothing, and are passed over.

    Raises:
        FormatError: the text is no checkpoint.
        IdentityError: the line of a known witness does not fit.
    """
    checkpoint, (_, *lines) = Checkpoint._parse(text)
    return {
        name: checkpoint._check(raw, name, witnesses[name])
        for name, raw in lines
        if name in witnesses and raw[:4] == _key_hash(name, _COSIGNATURE, witnesses[name])
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Proof that a leaf is in the log: its index, the audit path, and a signed checkpoint."""

    index: int
    path: tuple[bytes, ...]
    checkpoint: str

    def to_text(self) -> str:
        """Return the tlog-proof text."""
        hashes = "".join(canonical.b64encode(h) + "\n" for h in self.path)
        return f"{_PROOF_HEADER}\nindex {self.index}\n{hashes}\n{self.checkpoint}"

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Parse tlog-proof text.

        Raises:
            FormatError: it is not.
        """
        head, _, checkpoint = text.partition("\n\n")
        lines = head.split("\n")
        if len(text) > MAX_TEXT_BYTES or len(lines) < 2 or lines[0] != _PROOF_HEADER:
            raise FormatError("receipt is not a tlog-proof")
        if not lines[1].startswith("index "):
            raise FormatError("receipt has no index")
        path = tuple(canonical.b64decode(line) for line in lines[2:])
        return cls(index=_number(lines[1][6:]), path=path, checkpoint=checkpoint)

    def verify(self, leaf: bytes, *, origin: str, key: bytes) -> Checkpoint:
        """Check that `leaf` (its data) is in the log; return the checkpoint that says so.

        Raises:
            FormatError: it is not, or the checkpoint is another log's.
            IdentityError: the checkpoint's signature does not fit.
        """
        checkpoint = Checkpoint.verify(self.checkpoint, origin=origin, key=key)
        merkle.verify_inclusion(
            merkle.leaf_hash(leaf), self.index, checkpoint.size, self.path, checkpoint.root
        )
        return checkpoint


def claimed_size(note: str) -> int:
    """Return the tree size that a checkpoint names, before anything of it is verified.

    Raises:
        FormatError: it names none.
    """
    lines = note.split("\n", 2)
    if len(lines) != 3 or not lines[1].isdecimal() or len(lines[1]) > 18:
        raise FormatError("checkpoint has no size")
    return int(lines[1])


def _key_hash(name: str, algorithm: bytes, key: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + algorithm + key).digest()[:4]


def _number(text: str) -> int:
    if not re.fullmatch("0|[1-9][0-9]{0,17}", text):
        raise FormatError("a tree size is a plain decimal number")
    return int(text)
