"""Checkpoints and receipts as text: C2SP signed-note, tlog-checkpoint and tlog-proof.

A checkpoint is `origin`, tree size and root under the log key. A receipt is an inclusion proof
with the checkpoint it leads to; it verifies offline against the pinned key.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Self

from federation.auditlog import merkle
from kit import canonical
from kit.errors import FormatError
from pki import keys

MAX_TEXT_BYTES = 16 * 1024
_ED25519 = b"\x01"  # signed-note algorithm byte
_MARK = "— "
_PROOF_HEADER = "c2sp.org/tlog-proof@v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The state of a log: how many leaves, and the root over them."""

    origin: str
    size: int
    root: bytes

    def _body(self) -> str:
        return f"{self.origin}\n{self.size}\n{canonical.b64encode(self.root)}\n"

    def sign(self, key: keys.SigningKey) -> str:
        """Return the signed note."""
        body = self._body()
        raw = _key_hash(self.origin, keys.public_bytes(key)) + key.sign(body.encode())
        return f"{body}\n{_MARK}{self.origin} {canonical.b64encode(raw)}\n"

    @classmethod
    def verify(cls, text: str, *, origin: str, key: bytes) -> Self:
        """Read a signed note of one log.

        Raises:
            FormatError: not such a note, or of another log or key.
            IdentityError: the signature does not fit.
        """
        if len(text) > MAX_TEXT_BYTES or not text.endswith("\n"):
            raise FormatError("checkpoint is too long or cut off")
        body, _, signatures = text.partition("\n\n")
        lines = body.split("\n")
        signature_lines = signatures.removesuffix("\n").split("\n")
        if len(lines) != 3 or len(signature_lines) != 1 or lines[0] != origin:
            raise FormatError("checkpoint is not one of this log")
        checkpoint = cls(origin=origin, size=_number(lines[1]), root=canonical.b64decode(lines[2]))
        prefix = f"{_MARK}{origin} "
        raw = canonical.b64decode(signature_lines[0].removeprefix(prefix))
        if not signature_lines[0].startswith(prefix) or raw[:4] != _key_hash(origin, key):
            raise FormatError("checkpoint is signed by another key than the pinned one")
        if len(checkpoint.root) != merkle.HASH_BYTES:
            raise FormatError("checkpoint root does not have 32 bytes")
        message = checkpoint._body().encode()
        keys.verify(keys.verifying_key(key), raw[4:], message, what="the checkpoint")
        return checkpoint


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


def _key_hash(origin: str, key: bytes) -> bytes:
    return hashlib.sha256(origin.encode() + b"\n" + _ED25519 + key).digest()[:4]


def _number(text: str) -> int:
    if not re.fullmatch("0|[1-9][0-9]{0,17}", text):
        raise FormatError("a tree size is a plain decimal number")
    return int(text)
