import hashlib
import random

import pytest

from federation.auditlog import merkle
from kit.errors import FormatError

LARGEST = 33
LEAVES = [merkle.leaf_hash(b"leaf %d" % i) for i in range(LARGEST)]


def naive_root(leaves):
    """Return the root by RFC 9162's definition, written down once more in another way."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    level = [[leaf, 1] for leaf in leaves]
    while len(level) > 1:
        paired = []
        for i in range(0, len(level) - 1, 2):
            node = hashlib.sha256(b"\x01" + level[i][0] + level[i + 1][0]).digest()
            paired.append([node, level[i][1] + level[i + 1][1]])
        level = paired + ([level[-1]] if len(level) % 2 else [])
    return level[0][0]


ROOTS = [naive_root(LEAVES[:n]) for n in range(LARGEST + 1)]


def test_hashes_of_leaves_and_nodes_are_told_apart():
    assert merkle.leaf_hash(b"x") == hashlib.sha256(b"\x00x").digest()
    left, right = LEAVES[:2]
    assert merkle.node_hash(left, right) == hashlib.sha256(b"\x01" + left + right).digest()
    assert merkle.node_hash(left, right) != merkle.leaf_hash(left + right)


def test_roots_are_those_of_a_naive_tree():
    for size in range(LARGEST + 1):
        assert merkle.root(LEAVES[:size]) == ROOTS[size]


def test_kept_subtree_roots_give_every_root_and_proof_of_a_growing_tree():
    kept, asked = {}, []

    def node(level, index):
        asked.append((level, index))
        return kept[level, index]

    assert merkle.Tree(0, node).root() == merkle.EMPTY_ROOT
    for position, leaf in enumerate(LEAVES):
        kept[0, position] = leaf
        for level, index, root in merkle.completed(position, leaf, node):
            kept[level, index] = root
        size = position + 1
        tree = merkle.Tree(size, node)
        for smaller in range(1, size + 1):
            assert tree.root(smaller) == ROOTS[smaller]
            proof = tree.inclusion_proof(smaller - 1)
            merkle.verify_inclusion(LEAVES[smaller - 1], smaller - 1, size, proof, ROOTS[size])
            grown = tree.consistency_proof(smaller)
            merkle.verify_consistency(smaller, ROOTS[smaller], size, ROOTS[size], grown)
    assert len(kept) < 2 * LARGEST


def test_proofs_of_a_tree_of_a_million_leaves_ask_for_a_handful_of_subtree_roots():
    asked = []

    def node(level, index):
        asked.append((level, index))
        return hashlib.sha256(b"%d %d" % (level, index)).digest()

    tree = merkle.Tree(1_000_003, node)
    for work in (tree.root, lambda: tree.inclusion_proof(777), lambda: tree.consistency_proof(9)):
        asked.clear()
        work()
        assert 0 < len(asked) <= 40


def test_every_leaf_of_every_tree_is_proven_and_only_at_its_place():
    for size in range(1, LARGEST + 1):
        for index in range(size):
            proof = merkle.inclusion_proof(index, LEAVES[:size])
            merkle.verify_inclusion(LEAVES[index], index, size, proof, ROOTS[size])
            for wrong in {(index + 1) % size, (index + size // 2) % size} - {index}:
                with pytest.raises(FormatError):
                    merkle.verify_inclusion(LEAVES[index], wrong, size, proof, ROOTS[size])
                with pytest.raises(FormatError):
                    merkle.verify_inclusion(LEAVES[wrong], index, size, proof, ROOTS[size])


def test_every_tree_is_proven_to_extend_every_smaller_one():
    for size in range(1, LARGEST + 1):
        for old in range(1, size + 1):
            proof = merkle.consistency_proof(old, LEAVES[:size])
            merkle.verify_consistency(old, ROOTS[old], size, ROOTS[size], proof)
            with pytest.raises(FormatError):
                merkle.verify_consistency(old, ROOTS[old - 1], size, ROOTS[size], proof)
            with pytest.raises(FormatError):
                merkle.verify_consistency(old, ROOTS[old], size, ROOTS[size - 1], proof)
            if old < size:
                with pytest.raises(FormatError):
                    merkle.verify_consistency(old, ROOTS[old], size, ROOTS[size], [])


def damaged(proof):
    """Yield the proof with one thing wrong."""
    yield [*proof, LEAVES[0]]
    yield [LEAVES[0], *proof]
    for i in range(len(proof)):
        yield proof[:i] + proof[i + 1 :]
        yield [*proof[:i], bytes([proof[i][0] ^ 1]) + proof[i][1:], *proof[i + 1 :]]
        yield [*proof[:i], proof[i][:-1], *proof[i + 1 :]]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 31, 32, 33])
def test_no_damaged_proof_holds(size):
    for index in range(size):
        proof = merkle.inclusion_proof(index, LEAVES[:size])
        merkle.verify_inclusion(LEAVES[index], index, size, proof, ROOTS[size])
        for wrong in damaged(proof):
            with pytest.raises(FormatError):
                merkle.verify_inclusion(LEAVES[index], index, size, wrong, ROOTS[size])
        old = index + 1
        grown = merkle.consistency_proof(old, LEAVES[:size])
        merkle.verify_consistency(old, ROOTS[old], size, ROOTS[size], grown)
        for wrong in damaged(grown):
            with pytest.raises(FormatError):
                merkle.verify_consistency(old, ROOTS[old], size, ROOTS[size], wrong)


@pytest.mark.parametrize("old", range(1, 13))
def test_a_rebuilt_log_is_not_an_extension_of_the_old_one(old):
    """An insider changes one old entry, rebuilds the whole tree and proves what he can."""
    size = 16
    honest = merkle.consistency_proof(old, LEAVES[:size])
    merkle.verify_consistency(old, ROOTS[old], size, ROOTS[size], honest)
    forged = list(LEAVES[:size])
    forged[random.Random(old).randrange(old)] = merkle.leaf_hash(b"forged")
    proof = merkle.consistency_proof(old, forged)
    with pytest.raises(FormatError, match="rewritten or forked"):
        merkle.verify_consistency(old, ROOTS[old], size, merkle.root(forged), proof)


def test_two_forks_of_a_log_do_not_extend_each_other():
    one, other = LEAVES[:10], [*LEAVES[:8], *LEAVES[20:24]]
    trunk = merkle.consistency_proof(8, other)
    merkle.verify_consistency(8, ROOTS[8], 12, merkle.root(other), trunk)
    proof = merkle.consistency_proof(10, other)
    with pytest.raises(FormatError):
        merkle.verify_consistency(10, merkle.root(one), 12, merkle.root(other), proof)
    same_size = [*LEAVES[:9], LEAVES[20]]
    with pytest.raises(FormatError):
        merkle.verify_consistency(10, merkle.root(one), 10, merkle.root(same_size), [])


def test_a_log_never_becomes_shorter():
    proof = merkle.consistency_proof(5, LEAVES[:9])
    merkle.verify_consistency(5, ROOTS[5], 9, ROOTS[9], proof)
    with pytest.raises(FormatError, match="shorter"):
        merkle.verify_consistency(9, ROOTS[9], 5, ROOTS[5], proof)
    with pytest.raises(FormatError, match="shorter"):
        merkle.verify_consistency(-1, ROOTS[0], 5, ROOTS[5], [])


def test_nothing_is_proven_about_growth_from_nothing():
    merkle.verify_consistency(0, ROOTS[0], 0, ROOTS[0], [])
    for proof in ([], [LEAVES[0]]):
        with pytest.raises(FormatError):
            merkle.verify_consistency(0, ROOTS[0], 3, ROOTS[3], proof)


def test_a_proof_has_at_most_64_hashes_of_32_bytes():
    proof = merkle.inclusion_proof(3, LEAVES[:8])
    merkle.verify_inclusion(LEAVES[3], 3, 8, proof, ROOTS[8])
    for wrong in ([LEAVES[0]] * 65, [b""], [bytes(33)]):
        with pytest.raises(FormatError, match="64 hashes"):
            merkle.verify_inclusion(LEAVES[3], 3, 8, wrong, ROOTS[8])
        with pytest.raises(FormatError, match="64 hashes"):
            merkle.verify_consistency(3, ROOTS[3], 8, ROOTS[8], wrong)
    with pytest.raises(FormatError):
        merkle.verify_inclusion(LEAVES[3][:31], 3, 8, proof, ROOTS[8])


def test_proofs_of_what_is_not_there_are_a_programming_error():
    for index in (-1, 8):
        with pytest.raises(RuntimeError):
            merkle.inclusion_proof(index, LEAVES[:8])
        with pytest.raises(FormatError):
            merkle.verify_inclusion(LEAVES[3], index, 8, [], ROOTS[8])
    for old in (0, 9):
        with pytest.raises(RuntimeError):
            merkle.consistency_proof(old, LEAVES[:8])
