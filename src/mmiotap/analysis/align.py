"""Two sequences of numbers laid side by side: which parts of them are the same.

Few differences are found by Myers' greedy algorithm ("An O(ND) Difference Algorithm and Its Variations", 1986), which
goes along the diagonals and needs no look at what is far away. Where there are many, runs that are in both sequences
once are anchors, as in Bram Cohen's patience diff, and between two anchors shorter ones are looked for.
"""

import bisect
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mmiotap.trace.arrays import distinct

Keys = npt.NDArray[np.int64]

#: So many numbers must be equal until the greedy search believes that it has found the way.
MEETING = 32
#: And so many may be passed over until it gives up.
GREEDY = 100
#: Lengths of runs that are tried as anchors.
RUNS = (16, 4, 1)


class Block(NamedTuple):
    """``a[at_a : at_a + length]`` is ``b[at_b : at_b + length]``."""

    at_a: int
    at_b: int
    length: int


def greedy(a: Keys, b: Keys, *, whole: bool) -> list[Block]:
    """The way with the fewest numbers passed over, up to where it is believed; none if it is too long.

    ``whole``: nothing follows either of them.
    """
    reached = {1: 0}  # by diagonal (place in a − place in b): the furthest place in a
    history: list[dict[int, int]] = []
    for passed in range(GREEDY + 1):
        history.append(dict(reached))
        best: tuple[int, int] | None = None
        for diagonal in range(-passed, passed + 1, 2):
            down = diagonal == -passed or (
                diagonal != passed and reached.get(diagonal - 1, -1) < reached.get(diagonal + 1, -1)
            )
            x = reached.get(diagonal + 1, -1) if down else reached.get(diagonal - 1, -1) + 1
            y = x - diagonal
            if not (0 <= x <= len(a) and 0 <= y <= len(b)):
                reached[diagonal] = -1
                continue
            same = _same(a, b, x, y)
            reached[diagonal] = x + same
            if whole and x + same == len(a) and y + same == len(b):
                return _way_back(history, diagonal, x + same)
            if same >= MEETING and (best is None or same > best[0]):
                best = same, diagonal
        if best is not None:
            return _way_back(history, best[1], reached[best[1]])
    return []


def anchored(a: Keys, b: Keys) -> list[Block]:
    """A way by anchors, or if there is none the nearest place where they are the same; none if there is no such."""
    return list(_anchored(a, b, 0, 0, RUNS)) or _nearest(a, b)


def _way_back(history: list[dict[int, int]], diagonal: int, x: int) -> list[Block]:
    """The blocks on the way to ``x`` on this diagonal."""
    found: list[Block] = []
    for passed in range(len(history) - 1, -1, -1):
        reached = history[passed]
        down = diagonal == -passed or (
            diagonal != passed and reached.get(diagonal - 1, -1) < reached.get(diagonal + 1, -1)
        )
        begin = reached.get(diagonal + 1, -1) if down else reached.get(diagonal - 1, -1) + 1
        if x > begin:
            found.append(Block(begin, begin - diagonal, x - begin))
        diagonal += 1 if down else -1
        x = reached.get(diagonal, 0)
    return found[::-1]


def _same(a: Keys, b: Keys, x: int, y: int) -> int:
    """How many numbers are equal from here on."""
    begin, step = x, 16
    while True:
        count = min(step, len(a) - x, len(b) - y)
        if count <= 0:
            return x - begin
        equal = a[x : x + count] == b[y : y + count]
        if not equal.all():
            return x - begin + int(np.argmin(equal))
        x, y, step = x + count, y + count, 4 * step


def _anchored(a: Keys, b: Keys, from_a: int, from_b: int, runs: tuple[int, ...]) -> Iterator[Block]:
    """Blocks around runs that each of both has once, and between these around shorter ones."""
    if not len(a) or not len(b) or not runs:
        return
    at_a = at_b = 0
    for block in _once(a, b, runs[0]):
        yield from _anchored(a[at_a : block.at_a], b[at_b : block.at_b], from_a + at_a, from_b + at_b, runs[1:])
        yield Block(from_a + block.at_a, from_b + block.at_b, block.length)
        at_a, at_b = block.at_a + block.length, block.at_b + block.length
    yield from _anchored(a[at_a:], b[at_b:], from_a + at_a, from_b + at_b, runs[1:])


def _once(a: Keys, b: Keys, run: int) -> Iterator[Block]:
    """Blocks around runs that each has once and that are in the same order in both, as many as there can be."""
    number_a, number_b = _numbered(a, b, run)
    size = int(max(number_a.max(initial=-1), number_b.max(initial=-1))) + 1
    alone = (np.bincount(number_a, minlength=size) == 1) & (np.bincount(number_b, minlength=size) == 1)
    place_b = np.zeros(size, np.int64)
    place_b[number_b] = np.arange(len(number_b))
    places = np.flatnonzero(alone[number_a])
    chosen = _rising(place_b[number_a[places]])
    at_a = places[chosen]
    at_b = place_b[number_a[at_a]]
    end_a = end_b = 0
    for x, y in zip(at_a.tolist(), at_b.tolist(), strict=True):
        if x < end_a or y < end_b:
            continue  # within the block around the one before
        before = _same(a[end_a:x][::-1], b[end_b:y][::-1], 0, 0)
        length = before + _same(a, b, x, y)
        yield Block(x - before, y - before, length)
        end_a, end_b = x - before + length, y - before + length


def _numbered(a: Keys, b: Keys, run: int) -> tuple[Keys, Keys]:
    """A number for the run that begins at each place, the same for the same."""
    both = [a, b]
    length = 1
    while length < run:
        first = [keys[: max(len(keys) - length, 0)] for keys in both]
        second = [keys[length:] for keys in both]
        number, _ = distinct(np.concatenate(first), np.concatenate(second))
        both = [number[: len(first[0])], number[len(first[0]) :]]
        length *= 2
    number, _ = distinct(np.concatenate(both))
    return number[: len(both[0])], number[len(both[0]) :]


def _rising(numbers: Keys) -> Keys:
    """Indexes of a longest rising subsequence (patience sorting)."""
    tops: list[int] = []
    top_index: list[int] = []
    before = np.full(len(numbers), -1, np.int64)
    for index, number in enumerate(numbers.tolist()):
        pile = bisect.bisect_left(tops, number)
        if pile:
            before[index] = top_index[pile - 1]
        if pile == len(tops):
            tops.append(number)
            top_index.append(index)
        else:
            tops[pile] = number
            top_index[pile] = index
    found = []
    at = top_index[-1] if top_index else -1
    while at >= 0:
        found.append(at)
        at = int(before[at])
    return np.array(found[::-1], np.int64)


def _nearest(a: Keys, b: Keys) -> list[Block]:
    """The first run that is in both, the longest kind that there is."""
    for run in RUNS:
        number_a, number_b = _numbered(a, b, run)
        (in_a, first_a), (in_b, first_b) = (np.unique(one, return_index=True) for one in (number_a, number_b))
        _, at_a, at_b = np.intersect1d(in_a, in_b, assume_unique=True, return_indices=True)
        if len(at_a):
            places = first_a[at_a] + first_b[at_b]
            best = int(np.argmin(places))
            x, y = int(first_a[at_a[best]]), int(first_b[at_b[best]])
            return [Block(x, y, _same(a, b, x, y))]
    return []
