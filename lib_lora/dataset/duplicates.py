"""Pictures that are the same file, and pictures that look the same."""

from __future__ import annotations

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

HASH_BITS = 64
_MOST_COLOUR_STEP = 16  # levels of 255 on the mean: another crop or encoding stays below, another colour of a wall not
_ROWS_AT_ONCE = 256
_BLOCK_BYTES = 1 << 20


def look_alikes(
    hashes: Sequence[int] | np.ndarray, distance: int, colours: Sequence[str] | None = None
) -> list[list[int]]:
    """Groups of places whose hashes are linked by steps of at most ``distance`` bits, largest group first.

    Multi-index hashing (Norouzi, Punjani, Fleet: Fast Search in Hamming Space, 2012): of ``distance + 1`` bands of bits
    at least one is equal in two hashes that differ in ``distance`` bits, so that only hashes that share a band are
    compared. 10,000 hashes take a fraction of a second.

    Args:
        hashes: n perceptual hashes of 64 bits.
        distance: 0 to 16 bits.
        colours: of each picture (``PictureFacts.colours``): what looks the same in grey alone is told apart.

    Returns:
        Ascending places within a group; no place is in two.
    """
    if not 0 <= distance <= 16:
        raise ValueError(f"distance: {distance} bits")
    codes, member_of = np.unique(np.asarray(hashes, dtype=np.uint64), return_inverse=True)
    labels = np.arange(len(codes))
    if distance:
        for mask in _band_masks(distance + 1):
            labels = _joined_by_band(codes, mask, distance, labels)
    groups: dict[int, list[int]] = defaultdict(list)
    for place, label in enumerate(labels[member_of.reshape(-1)].tolist()):
        groups[label].append(place)
    if colours is not None:
        groups = dict(enumerate(part for group in groups.values() for part in _by_colour(group, colours)))
    return sorted((group for group in groups.values() if len(group) > 1), key=lambda group: (-len(group), group))


def _by_colour(group: list[int], colours: Sequence[str]) -> list[list[int]]:
    """The parts of a group that are linked by steps of nearly equal colours."""
    if len(group) < 2:
        return [group]
    values = np.array([list(bytes.fromhex(colours[place])) for place in group], dtype=np.int16)
    left, parts = np.arange(len(group)), []
    while len(left):
        part, edge = left[:1], left[:1]
        left = left[1:]
        while len(edge) and len(left):
            # Only the newest member's neighbours at a time: memory stays that of one row.
            near = np.abs(values[left] - values[edge[0]]).mean(1) <= _MOST_COLOUR_STEP
            part, edge, left = np.append(part, left[near]), np.append(edge[1:], left[near]), left[~near]
        parts.append(sorted(group[place] for place in part.tolist()))
    return parts


def _band_masks(count: int) -> list[np.uint64]:
    edges = [HASH_BITS * band // count for band in range(count + 1)]
    return [np.uint64((1 << end) - (1 << start)) for start, end in itertools.pairwise(edges)]


def _joined_by_band(codes: np.ndarray, mask: np.uint64, distance: int, labels: np.ndarray) -> np.ndarray:
    """The labels after all codes that agree in ``mask`` were compared with each other."""
    keys = codes & mask
    order = np.argsort(keys, kind="stable")
    edges = np.flatnonzero(np.diff(keys[order], prepend=~keys[order[:1]], append=~keys[order[-1:]]))
    several = np.diff(edges) > 1
    for start, end in zip(edges[:-1][several].tolist(), edges[1:][several].tolist()):
        bucket = order[start:end]
        for first in range(0, len(bucket) - 1, _ROWS_AT_ONCE):
            # What is joined already need not be compared: a bucket of one picture's many copies costs one round.
            if (labels[bucket[first:]] == labels[bucket[first]]).all():
                break
            rows, others = bucket[first : first + _ROWS_AT_ONCE], bucket[first:]
            near = bit_counts(codes[rows, None] ^ codes[None, others]) <= distance
            left, right = np.nonzero(near & (labels[rows, None] != labels[None, others]))
            if len(left):
                labels = _joined(labels, labels[rows[left]], labels[others[right]])
    return labels


def _joined(labels: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The labels after each ``left`` was made the same as its ``right``: the smallest of all that are linked."""
    parent = np.arange(len(labels))
    while True:
        low = np.minimum(parent[left], parent[right])
        before = parent.copy()
        np.minimum.at(parent, parent[left], low)
        np.minimum.at(parent, parent[right], low)
        parent = parent[parent]
        if (parent == before).all():
            return parent[labels]


def bit_counts(values: np.ndarray) -> np.ndarray:
    """How many bits of each uint64 are set; shape as given, uint8. (numpy has its own from 2.0 on.)

    The sums in pairs, nibbles and bytes of Warren, Hacker's Delight, section 5-1.
    """
    values = values - ((values >> np.uint64(1)) & np.uint64(0x5555555555555555))
    low = np.uint64(0x3333333333333333)
    values = (values & low) + ((values >> np.uint64(2)) & low)
    values = (values + (values >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return ((values * np.uint64(0x0101010101010101)) >> np.uint64(56)).astype(np.uint8)


def same_files(paths: Sequence[Path], candidates: Sequence[Sequence[int]]) -> list[list[int]]:
    """Groups of places whose files are equal byte by byte (by SHA-256).

    Args:
        candidates: groups within which equals are looked for; same files look the same. A file that cannot be read
            equals none.
    """
    groups: list[list[int]] = []
    for group in candidates:
        for places in _by(_size, paths, group):
            if len(places) > 1:
                groups += _by(_digest, paths, places)
    return [group for group in groups if len(group) > 1]


def _by(key: Callable[[Path], object], paths: Sequence[Path], places: Sequence[int]) -> list[list[int]]:
    """``places`` grouped by ``key`` of their paths; those of which it is None are left out."""
    found: dict[object, list[int]] = defaultdict(list)
    for place in places:
        found[key(paths[place])].append(place)
    return [group for value, group in found.items() if value is not None]


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _digest(path: Path) -> bytes | None:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    except OSError:
        return None
    return digest.digest()
