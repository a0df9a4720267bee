"""Sequences side by side. A plain table of all ways is the judge of the shortest one."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mmiotap.analysis import align
from mmiotap.analysis.align import Block, anchored, greedy

NUMBERS = st.lists(st.integers(0, 3), max_size=30)


def array(numbers: list[int]) -> align.Keys:
    return np.array(numbers, np.int64)


def longest_in_common(a: list[int], b: list[int]) -> int:
    row = [0] * (len(b) + 1)
    for one in a:
        before = row
        row = [0]
        for at, other in enumerate(b):
            row.append(before[at] + 1 if one == other else max(before[at + 1], row[at]))
    return row[-1]


def check(a: list[int], b: list[int], found: list[Block]) -> None:
    end_a = end_b = 0
    for block in found:
        assert block.at_a >= end_a
        assert block.at_b >= end_b
        assert block.length > 0
        end_a, end_b = block.at_a + block.length, block.at_b + block.length
        assert a[block.at_a : end_a] == b[block.at_b : end_b]


@settings(max_examples=300)
@given(NUMBERS, NUMBERS)
def test_the_shortest_way(a: list[int], b: list[int]) -> None:
    found = greedy(array(a), array(b), whole=True)
    check(a, b, found)
    assert sum(one.length for one in found) == longest_in_common(a, b)


@settings(max_examples=150)
@given(NUMBERS, NUMBERS)
def test_by_anchors(a: list[int], b: list[int]) -> None:
    found = anchored(array(a), array(b))
    check(a, b, found)
    assert bool(found) == bool(set(a) & set(b))


def test_a_few_changes_in_what_repeats() -> None:
    """Nothing is there once, and yet only what was changed is passed over."""
    a = [1, 2, 3, 4, 5] * 2000
    b = a.copy()
    b[5000] = 9
    del b[7000:7005]
    assert greedy(array(a), array(b), whole=False) == [Block(0, 0, 5000)]
    found = greedy(array(a[5000:]), array(b[5000:]), whole=True)
    check(a[5000:], b[5000:], found)
    assert sum(one.length for one in found) == 5000 - 6


def test_something_long_was_inserted() -> None:
    random = np.random.default_rng(0)
    a = random.integers(0, 50, 20_000)
    b = np.concatenate([a[:10_000], random.integers(0, 50, 5000), a[10_000:]])
    b[20_000] = 77
    one, other = a[10_000:], b[10_000:]
    assert greedy(one, other, whole=False) == []
    found = anchored(one, other)
    check(one.tolist(), other.tolist(), found)
    assert sum(block.length for block in found if block.at_b - block.at_a == 5000) == 10_000 - 1
