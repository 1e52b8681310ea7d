"""The Merkle tree of RFC 9162 section 2.1: roots, inclusion and consistency proofs.

Pure functions over leaf hashes (32 bytes each, in log order). `Frontier` grows a root in
logarithmic time per leaf.
"""

import hashlib
from collections.abc import Sequence

from kit.errors import FormatError

HASH_BYTES = 32
MAX_PROOF_HASHES = 64  # a tree of 2^64 leaves
EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """Return HASH(0x00 || data) (RFC 9162 section 2.1.1)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return HASH(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """Return the Merkle tree hash of leaf hashes (RFC 9162 section 2.1.1)."""
    if not leaves:
        return EMPTY_ROOT
    if len(leaves) == 1:
        return leaves[0]
    split = _split(len(leaves))
    return node_hash(root(leaves[:split]), root(leaves[split:]))


def inclusion_proof(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    """Return the audit path of leaf `index`, bottom up (RFC 9162 section 2.1.3.1).

    Raises:
        RuntimeError: there is no such leaf.
    """
    if not 0 <= index < len(leaves):
        raise RuntimeError("leaf index outside the tree")
    if len(leaves) == 1:
        return []
    split = _split(len(leaves))
    if index < split:
        return [*inclusion_proof(index, leaves[:split]), root(leaves[split:])]
    return [*inclusion_proof(index - split, leaves[split:]), root(leaves[:split])]


def verify_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], expected_root: bytes
) -> None:
    """Check that `leaf` (a leaf hash) is number `index` of `size` (RFC 9162 section 2.1.3.2).

    Raises:
        FormatError: it is not, by this proof.
    """
    if not 0 <= index < size:
        raise FormatError("leaf index is outside the tree")
    _check_hashes([leaf, *proof])
    fn, sn, node = index, size - 1, leaf
    for sibling in proof:
        if sn == 0:
            raise FormatError("inclusion proof is too long")
        if fn & 1 or fn == sn:
            node = node_hash(sibling, node)
            while fn and not fn & 1:
                fn, sn = fn >> 1, sn >> 1
        else:
            node = node_hash(node, sibling)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0 or node != expected_root:
        raise FormatError("inclusion proof does not lead to the root")


def consistency_proof(old_size: int, leaves: Sequence[bytes]) -> list[bytes]:
    """Return the proof that the first `old_size` leaves are a prefix (RFC 9162 section 2.1.4.1).

    Raises:
        RuntimeError: `old_size` is outside 1..len(leaves).
    """
    if not 0 < old_size <= len(leaves):
        raise RuntimeError("old size outside the tree")
    return [] if old_size == len(leaves) else _subproof(old_size, leaves, complete=True)


def _subproof(old_size: int, leaves: Sequence[bytes], *, complete: bool) -> list[bytes]:
    if old_size == len(leaves):
        return [] if complete else [root(leaves)]
    split = _split(len(leaves))
    if old_size <= split:
        return [*_subproof(old_size, leaves[:split], complete=complete), root(leaves[split:])]
    inner = _subproof(old_size - split, leaves[split:], complete=False)
    return [*inner, root(leaves[:split])]


def verify_consistency(
    old_size: int, old_root: bytes, size: int, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that a tree only grew (RFC 9162 section 2.1.4.2).

    Nothing is proven about growth from size 0: whoever holds no checkpoint has nothing to check.

    Raises:
        FormatError: it did not only grow, by this proof.
    """
    _check_hashes(proof)
    if old_size < 0 or old_size > size:
        raise FormatError("the log became shorter")
    if old_size == size:
        _expect(not proof and old_root == new_root and (size > 0 or new_root == EMPTY_ROOT))
        return
    path = list(proof)
    _expect(old_size != 0)
    if old_size & (old_size - 1) == 0:
        path.insert(0, old_root)
    _expect(bool(path))
    fn, sn = old_size - 1, size - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for node in path[1:]:
        _expect(sn != 0)
        if fn & 1 or fn == sn:
            fr, sr = node_hash(node, fr), node_hash(node, sr)
            while fn and not fn & 1:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node_hash(sr, node)
        fn, sn = fn >> 1, sn >> 1
    _expect(fr == old_root and sr == new_root and sn == 0)


def _expect(holds: bool) -> None:
    if not holds:
        raise FormatError("consistency proof does not hold: the log was rewritten or forked")


def _check_hashes(proof: Sequence[bytes]) -> None:
    if len(proof) > MAX_PROOF_HASHES or any(len(h) != HASH_BYTES for h in proof):
        raise FormatError("a proof is a list of at most 64 hashes of 32 bytes")


def _split(size: int) -> int:
    """Return the largest power of two smaller than `size`."""
    return 1 << ((size - 1).bit_length() - 1)


class Frontier:
    """The roots of the complete subtrees on the right edge: enough to append and get the root."""

    def __init__(self) -> None:
        self.size = 0
        self._roots: list[tuple[int, bytes]] = []  # (height, root), highest first

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash."""
        height, node = 0, leaf
        while self._roots and self._roots[-1][0] == height:
            node = node_hash(self._roots.pop()[1], node)
            height += 1
        self._roots.append((height, node))
        self.size += 1

    def root(self) -> bytes:
        """Return the root of everything appended so far."""
        if not self._roots:
            return EMPTY_ROOT
        node = self._roots[-1][1]
        for _, left in reversed(self._roots[:-1]):
            node = node_hash(left, node)
        return node
