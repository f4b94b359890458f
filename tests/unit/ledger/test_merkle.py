"""Trees and proofs: equal to pymerkle's and to the RFC's own recursion, and refused when bent."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pymerkle  # type: ignore[import-untyped]
import pytest

from keyd.domain import merkle
from keyd.errors import InvalidRequest

LARGEST = 257
LEAVES = [f"leaf {n}".encode() for n in range(LARGEST)]


class Nodes:
    """Complete subtrees, filed under the position that storage gives them."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self.hashes = [merkle.leaf_hash(leaf) for leaf in leaves]
        self.interior: list[bytes] = []
        self.roots = [merkle.EMPTY_ROOT]
        self.reads = 0
        frontier = merkle.Frontier()
        for leaf in self.hashes:
            self.interior += frontier.append(leaf)
            self.roots.append(frontier.root())

    def __call__(self, level: int, index: int) -> bytes:
        self.reads += 1
        if level == 0:
            return self.hashes[index]
        return self.interior[merkle.interior_position(level, index)]


def textbook_root(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962 2.1."""
    if len(leaves) == 1:
        return merkle.leaf_hash(leaves[0])
    k = textbook_split(len(leaves))
    return merkle.node_hash(textbook_root(leaves[:k]), textbook_root(leaves[k:]))


def textbook_split(size: int) -> int:
    k = 1
    while k * 2 < size:
        k *= 2
    return k


def textbook_subproof(m: int, leaves: Sequence[bytes], complete: bool) -> list[bytes]:
    """SUBPROOF of RFC 6962 2.1.2."""
    if m == len(leaves):
        return [] if complete else [textbook_root(leaves)]
    k = textbook_split(len(leaves))
    if m <= k:
        return [*textbook_subproof(m, leaves[:k], complete), textbook_root(leaves[k:])]
    return [*textbook_subproof(m - k, leaves[k:], False), textbook_root(leaves[:k])]


@pytest.fixture(scope="module")
def nodes() -> Nodes:
    return Nodes(LEAVES)


@pytest.fixture(scope="module")
def oracle() -> pymerkle.InmemoryTree:
    return pymerkle.InmemoryTree.init_from_entries(LEAVES, algorithm="sha256")


def test_roots_equal_pymerkle_for_every_size(nodes: Nodes, oracle: pymerkle.InmemoryTree) -> None:
    for size in range(1, LARGEST + 1):
        assert nodes.roots[size] == oracle.get_root(size)
        assert merkle.root_at(nodes, size) == nodes.roots[size]


def test_inclusion_proofs_equal_pymerkle_for_every_leaf(
    nodes: Nodes, oracle: pymerkle.InmemoryTree
) -> None:
    for size in range(1, LARGEST + 1):
        for index in {0, size // 3, size // 2, size - 1}:
            proof = merkle.inclusion_proof(nodes, index, size)
            assert list(proof) == oracle.prove_inclusion(index + 1, size).path[1:]
            merkle.verify_inclusion(nodes.hashes[index], index, size, proof, nodes.roots[size])


def test_consistency_proofs_equal_the_rfc_recursion(nodes: Nodes) -> None:
    chosen = random.Random(6962)
    pairs = [(first, LARGEST) for first in range(1, LARGEST + 1)]
    pairs += [(chosen.randint(1, second), second) for second in range(1, LARGEST + 1)]
    for first, second in pairs:
        proof = merkle.consistency_proof(nodes, first, second)
        assert list(proof) == textbook_subproof(first, LEAVES[:second], True)


def test_consistency_proofs_join_pymerkle_roots(
    nodes: Nodes, oracle: pymerkle.InmemoryTree
) -> None:
    chosen = random.Random(2026)
    for _ in range(2000):
        first, second = sorted(chosen.choices(range(1, LARGEST + 1), k=2))
        proof = merkle.consistency_proof(nodes, first, second)
        old, new = oracle.get_root(first), oracle.get_root(second)
        merkle.verify_consistency(first, old, second, new, proof)
        oracle.prove_consistency(first, second).verify(
            nodes.roots[first], nodes.roots[second], prior_size=first, later_size=second
        )


def bent(proof: tuple[bytes, ...]) -> list[tuple[bytes, ...]]:
    """Proofs that are wrong in one way each."""
    flipped = [
        (*proof[:n], bytes([part[0] ^ 1]) + part[1:], *proof[n + 1 :])
        for n, part in enumerate(proof)
    ]
    return [*flipped, proof[:-1], (*proof, bytes(32))]


def test_bent_inclusion_proofs_are_refused(nodes: Nodes) -> None:
    refused = 0
    for size in (2, 3, 7, 8, 100, 257):
        for index in (0, size - 1):
            proof = merkle.inclusion_proof(nodes, index, size)
            leaf, root = nodes.hashes[index], nodes.roots[size]
            for wrong in bent(proof):
                with pytest.raises(InvalidRequest) as caught:
                    merkle.verify_inclusion(leaf, index, size, wrong, root)
                assert caught.value.reason == "INCLUSION_PROOF_WRONG"
                refused += 1
            for other in {index ^ 1, size}:
                with pytest.raises(InvalidRequest):
                    merkle.verify_inclusion(leaf, other, size, proof, root)
    assert refused > 60


def test_bent_consistency_proofs_are_refused(nodes: Nodes) -> None:
    for first, second in ((1, 2), (3, 7), (4, 8), (6, 257), (128, 200), (5, 5)):
        proof = merkle.consistency_proof(nodes, first, second)
        roots = nodes.roots[first], nodes.roots[second]
        for wrong in bent(proof) if proof else [(bytes(32),)]:
            with pytest.raises(InvalidRequest) as caught:
                merkle.verify_consistency(first, roots[0], second, roots[1], wrong)
            assert caught.value.reason == "CONSISTENCY_PROOF_WRONG"
        with pytest.raises(InvalidRequest):
            merkle.verify_consistency(first, roots[0], second, bytes(32), proof)
        with pytest.raises(InvalidRequest):
            merkle.verify_consistency(first, bytes(32), second, roots[1], proof)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (3, 3), (-1, 3)])
def test_no_inclusion_proof_outside_the_tree(nodes: Nodes, index: int, size: int) -> None:
    with pytest.raises(InvalidRequest) as caught:
        merkle.inclusion_proof(nodes, index, size)
    assert caught.value.reason == "LEAF_OUT_OF_RANGE"


@pytest.mark.parametrize(("first", "second"), [(0, 3), (4, 3), (-1, 3)])
def test_no_consistency_proof_between_senseless_sizes(
    nodes: Nodes, first: int, second: int
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        merkle.consistency_proof(nodes, first, second)
    assert caught.value.reason == "TREE_SIZE_OUT_OF_RANGE"


def test_proofs_read_few_nodes() -> None:
    many = Nodes([str(n).encode() for n in range(10_000)])
    for index in (0, 4_999, 9_999):
        many.reads = 0
        merkle.inclusion_proof(many, index, 10_000)
        assert many.reads <= 2 * (10_000).bit_length()
    many.reads = 0
    merkle.consistency_proof(many, 4_999, 10_000)
    assert many.reads <= 2 * (10_000).bit_length()


def test_interior_positions_are_dense(nodes: Nodes) -> None:
    assert len(nodes.interior) == merkle.interior_count(LARGEST)
    positions = {
        merkle.interior_position(level, index)
        for level in range(1, 9)
        for index in range(LARGEST >> level)
    }
    assert positions == set(range(len(nodes.interior)))


def test_a_frontier_needs_as_many_peaks_as_its_size_has_ones() -> None:
    with pytest.raises(ValueError, match="2 peaks"):
        merkle.Frontier(3, [bytes(32)])
