"""Which pictures are the same and which look the same."""

from __future__ import annotations

import time

import numpy as np
import pytest

from lib_lora.dataset.duplicates import bit_counts, look_alikes, same_files


def linked(hashes: list[int], distance: int) -> list[list[int]]:
    """The same groups by comparing each with each, in plain Python."""
    left, groups = set(range(len(hashes))), []
    while left:
        group, edge = set(), {min(left)}
        while edge:
            group |= edge
            edge = {b for a in edge for b in left - group if bin(hashes[a] ^ hashes[b]).count("1") <= distance}
        left -= group
        groups.append(sorted(group))
    return sorted((group for group in groups if len(group) > 1), key=lambda group: (-len(group), group))


def flipped(code: int, bits: list[int]) -> int:
    for bit in bits:
        code ^= 1 << bit
    return code


@pytest.mark.parametrize("distance", [0, 1, 3, 6, 10, 16])
def test_groups_are_those_of_comparing_each_with_each(distance):
    draw = np.random.default_rng(distance)
    centres = [int(code) for code in draw.integers(0, 1 << 63, 12, dtype=np.uint64)]
    hashes = [
        flipped(centres[draw.integers(12)], draw.choice(64, draw.integers(0, 6), replace=False).tolist())
        for _ in range(150)
    ]
    assert look_alikes(hashes, distance) == linked(hashes, distance)


def test_a_chain_of_small_steps_is_one_group():
    hashes = [flipped(0, list(range(4 * step))) for step in range(10)]
    assert look_alikes(hashes, 4) == [list(range(10))]
    assert look_alikes(hashes, 3) == []


def test_exactly_the_distance_counts_wherever_the_bits_are():
    for start in range(64):
        bits = [(start + 9 * step) % 64 for step in range(6)]
        assert look_alikes([0, flipped(0, bits)], 6) == [[0, 1]]
        assert look_alikes([0, flipped(0, bits)], 5) == []


def test_nothing_and_one_are_no_groups():
    assert look_alikes([], 6) == look_alikes([5], 6) == []


def test_ten_thousand_hashes_take_no_time_alike_or_not():
    draw = np.random.default_rng(0)
    apart = draw.integers(0, 1 << 64, 10_000, dtype=np.uint64, endpoint=False)
    alike = apart[0] ^ (np.uint64(1) << draw.integers(0, 64, 10_000).astype(np.uint64))
    for hashes, groups in ((apart, 0), (alike, 1)):
        start = time.perf_counter()
        assert len(look_alikes(hashes, 6)) == groups
        assert time.perf_counter() - start < 5  # each with each takes a minute in Python


def test_bits_are_counted():
    values = np.array([0, 1, 3, 1 << 63, (1 << 64) - 1, 0x123456789ABCDEF0], dtype=np.uint64)
    assert bit_counts(values).tolist() == [bin(int(value)).count("1") for value in values]


def test_only_equal_bytes_are_the_same_file(tmp_path):
    contents = [b"one", b"one", b"two", b"three", b"one", b"two"]
    paths = [tmp_path / str(place) for place in range(6)]
    for path, content in zip(paths, contents):
        path.write_bytes(content)
    paths.append(tmp_path / "gone")
    assert same_files(paths, [list(range(7))]) == [[0, 1, 4], [2, 5]]
    assert same_files(paths, [[0, 2], [1, 5]]) == []


def colours(*fields: tuple[int, int, int]) -> str:
    """Of a picture whose sixteen fields repeat these colours."""
    return (bytes(sum(fields, ())) * (16 // len(fields))).hex()


def test_what_is_alike_in_grey_alone_is_told_apart_by_its_colours():
    red, green, pale = colours((200, 40, 40)), colours((40, 200, 40)), colours((210, 60, 55))
    assert look_alikes([7, 7, 7, 7], 0, [red, green, pale, green]) == [[0, 2], [1, 3]]
    assert look_alikes([7, 7], 0, [red, green]) == []
    half = colours((200, 40, 40), (40, 200, 40))
    assert look_alikes([7, 7], 0, [red, half]) == []


def test_colours_are_linked_by_small_steps_too():
    steps = [colours((shade, shade, shade)) for shade in range(0, 160, 16)]
    assert look_alikes([7] * 10, 0, steps) == [list(range(10))]
    assert look_alikes([7] * 5, 0, steps[::2]) == []
