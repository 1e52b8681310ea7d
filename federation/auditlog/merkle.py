"""The Merkle tree of RFC 9162 section 2.1: roots, inclusion and consistency proofs.

Pure functions over hashes (32 bytes each, in log order). A `Tree` asks for the roots of complete
subtrees, `node(level, index)`, and nothing else: with those kept in a table, roots and proofs of
any size take logarithmic time.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Self

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


# The root of the complete subtree number `index` among those of 2**level leaves.
Node = Callable[[int, int], bytes]


class Tree:
    """The first `size` leaves of a log, seen through the roots of its complete subtrees."""

    def __init__(self, size: int, node: Node) -> None:
        self.size = size
        self.node = node

    @classmethod
    def of(cls, leaves: Sequence[bytes]) -> Self:
        """Return the tree over leaf hashes held in memory."""
        levels = [list(leaves)]
        while len(levels[-1]) > 1:
            below = levels[-1]
            pairs = zip(below[::2], below[1::2], strict=False)
            levels.append([node_hash(left, right) for left, right in pairs])
        return cls(len(leaves), lambda level, index: levels[level][index])

    def root(self, size: int | None = None) -> bytes:
        """Return the Merkle tree hash of the first `size` leaves (RFC 9162 section 2.1.1).

        Raises:
            RuntimeError: the tree has not that many.
        """
        size = self.size if size is None else size
        if not 0 <= size <= self.size:
            raise RuntimeError("size outside the tree")
        return self._root(0, size) if size else EMPTY_ROOT

    def inclusion_proof(self, index: int, size: int | None = None) -> list[bytes]:
        """Return the audit path of leaf `index`, bottom up (RFC 9162 section 2.1.3.1).

        Raises:
            RuntimeError: there is no such leaf among the first `size`.
        """
        size = self.size if size is None else size
        if not 0 <= index < size <= self.size:
            raise RuntimeError("leaf index outside the tree")
        path, start, end = [], 0, size
        while end - start > 1:
            split = start + _split(end - start)
            if index < split:
                path.append(self._root(split, end))
                end = split
            else:
                path.append(self._root(start, split))
                start = split
        return path[::-1]

    def consistency_proof(self, old_size: int) -> list[bytes]:
        """Return the proof that the first `old_size` leaves are a prefix (RFC 9162 2.1.4.1).

        Raises:
            RuntimeError: `old_size` is outside 1..size.
        """
        if not 0 < old_size <= self.size:
            raise RuntimeError("old size outside the tree")
        path, start, end = [], 0, self.size
        while end != old_size:
            split = start + _split(end - start)
            if old_size <= split:
                path.append(self._root(split, end))
                end = split
            else:
                path.append(self._root(start, split))
                start = split
        return path[::-1] if start == 0 else [self._root(start, end), *path[::-1]]

    def _root(self, start: int, end: int) -> bytes:
        """Return the root over leaves `start` to `end`; `start` is a multiple of what it splits."""
        count = end - start
        if count & (count - 1) == 0:
            level = count.bit_length() - 1
            return self.node(level, start >> level)
        split = start + _split(count)
        return node_hash(self._root(start, split), self._root(split, end))


def completed(position: int, leaf: bytes, node: Node) -> list[tuple[int, int, bytes]]:
    """Return every complete subtree (level, index, root) above level 0 that a new leaf closes."""
    closed, level, index, root_ = [], 0, position, leaf
    while index & 1:
        root_ = node_hash(node(level, index - 1), root_)
        level, index = level + 1, index >> 1
        closed.append((level, index, root_))
    return closed


def root(leaves: Sequence[bytes]) -> bytes:
    """Return the Merkle tree hash of leaf hashes (RFC 9162 section 2.1.1)."""
    return Tree.of(leaves).root()


def inclusion_proof(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    """Return the audit path of leaf `index` among leaf hashes; see `Tree.inclusion_proof`."""
    return Tree.of(leaves).inclusion_proof(index)


def consistency_proof(old_size: int, leaves: Sequence[bytes]) -> list[bytes]:
    """Return the proof that the first `old_size` leaf hashes are a prefix of all of them."""
    return Tree.of(leaves).consistency_proof(old_size)


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
