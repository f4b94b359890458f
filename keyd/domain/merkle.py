"""RFC 6962 Merkle trees: hashing, the compact range, proofs and their verification. Pure.

Hashes are 32 bytes of SHA-256. Proofs need only the hashes of complete subtrees: a subtree is
named by its level (0: leaves) and its index on that level.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

from keyd.errors import InvalidRequest

HASH_SIZE = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()

# The hash of the complete subtree at (level, index).
SubtreeHash = Callable[[int, int], bytes]


def leaf_hash(data: bytes) -> bytes:
    """Hash of a leaf's bytes (RFC 6962 2.1: prefix 0x00)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an interior node (RFC 6962 2.1: prefix 0x01)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Frontier:
    """The compact range: roots of the complete subtrees that make up the tree, largest first."""

    def __init__(self, size: int = 0, peaks: Iterable[bytes] = ()) -> None:
        self.size = size
        self.peaks = list(peaks)
        if len(self.peaks) != size.bit_count():
            raise ValueError(f"a tree of {size} leaves has {size.bit_count()} peaks")

    def append(self, leaf: bytes) -> list[bytes]:
        """Add a leaf hash; return the interior nodes it completes, lowest first."""
        completed = []
        node, size = leaf, self.size
        while size & 1:
            node = node_hash(self.peaks.pop(), node)
            completed.append(node)
            size >>= 1
        self.peaks.append(node)
        self.size += 1
        return completed

    def root(self) -> bytes:
        """The tree head's root hash."""
        return _fold(self.peaks)


def _fold(peaks: Sequence[bytes]) -> bytes:
    """One hash for neighbouring complete subtrees, largest first."""
    if not peaks:
        return EMPTY_ROOT
    root = peaks[-1]
    for peak in reversed(peaks[:-1]):
        root = node_hash(peak, root)
    return root


def peaks_of(size: int) -> list[tuple[int, int]]:
    """(level, index) of the complete subtrees of a tree of `size` leaves, largest first."""
    return _cover(0, size)


def _cover(start: int, end: int) -> list[tuple[int, int]]:
    """The complete subtrees of leaves start..end-1, a subtree of the RFC's recursion."""
    found = []
    while start < end:
        level = (end - start).bit_length() - 1
        found.append((level, start >> level))
        start += 1 << level
    return found


def interior_position(level: int, index: int) -> int:
    """Where the interior node (level >= 1) stands in the order in which appending makes them."""
    last_leaf = ((index + 1) << level) - 1
    return last_leaf - last_leaf.bit_count() + level - 1


def interior_count(size: int) -> int:
    """How many complete interior nodes a tree of `size` leaves has."""
    return size - size.bit_count()


def root_at(subtree: SubtreeHash, size: int) -> bytes:
    """The root of the first `size` leaves, in O(log size) reads."""
    return _range_hash(subtree, 0, size)


def inclusion_proof(subtree: SubtreeHash, index: int, size: int) -> tuple[bytes, ...]:
    """Audit path of leaf `index` in the tree of `size` leaves (RFC 6962 2.1.1), lowest first.

    Raises: InvalidRequest unless 0 <= index < size.
    """
    if not 0 <= index < size:
        raise InvalidRequest("LEAF_OUT_OF_RANGE", f"leaf {index} is not in a tree of {size}")
    path = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((start, middle))
            start = middle
    return tuple(_range_hash(subtree, *part) for part in reversed(path))


def consistency_proof(subtree: SubtreeHash, first: int, second: int) -> tuple[bytes, ...]:
    """Proof that the tree of `first` leaves starts the tree of `second` (RFC 6962 2.1.2).

    Raises: InvalidRequest unless 1 <= first <= second.
    """
    if not 1 <= first <= second:
        raise InvalidRequest("TREE_SIZE_OUT_OF_RANGE", f"no proof from size {first} to {second}")
    if first == second:
        return ()
    path = []
    start, end = 0, second
    while end != first:
        middle = start + _split(end - start)
        if first <= middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((start, middle))
            start = middle
    # The subtree that both trees share is known to the verifier only if it is all of `first`.
    if start > 0:
        path.append((start, end))
    return tuple(_range_hash(subtree, *part) for part in reversed(path))


def _split(size: int) -> int:
    """The largest power of two below `size` (RFC 6962 2.1)."""
    return 1 << ((size - 1).bit_length() - 1)


def _range_hash(subtree: SubtreeHash, start: int, end: int) -> bytes:
    return _fold([subtree(level, index) for level, index in _cover(start, end)])


def verify_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Check that the leaf hash `leaf` is leaf `index` of a tree of `size` (RFC 9162 2.1.3.2).

    Raises: InvalidRequest.
    """
    if not 0 <= index < size:
        raise InvalidRequest("LEAF_OUT_OF_RANGE", f"leaf {index} is not in a tree of {size}")
    position, last, node = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise _wrong("inclusion", "it is too long")
        if position & 1 or position == last:
            node = node_hash(sibling, node)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            node = node_hash(node, sibling)
        position, last = position >> 1, last >> 1
    if last != 0 or node != root:
        raise _wrong("inclusion", "it does not lead from the leaf to the root")


def verify_consistency(
    first: int, first_root: bytes, second: int, second_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that the tree `first` is the beginning of the tree `second` (RFC 9162 2.1.4.2).

    Raises: InvalidRequest.
    """
    if not 1 <= first <= second:
        raise InvalidRequest("TREE_SIZE_OUT_OF_RANGE", f"no proof from size {first} to {second}")
    if first == second:
        if proof or first_root != second_root:
            raise _wrong("consistency", "equal sizes need equal roots and an empty proof")
        return
    path = list(proof)
    if first.bit_count() == 1:
        path.insert(0, first_root)
    if not path:
        raise _wrong("consistency", "it is empty")
    _climb(first - 1, second - 1, path, (first_root, second_root))


def _climb(position: int, last: int, path: list[bytes], roots: tuple[bytes, bytes]) -> None:
    while position & 1:
        position, last = position >> 1, last >> 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise _wrong("consistency", "it is too long")
        if position & 1 or position == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        position, last = position >> 1, last >> 1
    if last != 0 or (old, new) != roots:
        raise _wrong("consistency", "it does not lead to the two roots")


def _wrong(kind: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{kind.upper()}_PROOF_WRONG", f"the {kind} proof is wrong: {why}")
