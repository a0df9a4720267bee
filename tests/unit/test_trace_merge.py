"""Merging tables by time."""

from collections.abc import Iterator

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from mmiotap.trace.merge import Source, merge

#: Sources of tables of times; small numbers, so that many are the same.
SOURCES = st.lists(st.lists(st.integers(0, 20)).map(sorted), max_size=6)


def tables(rank: int, times: list[int], size: int) -> Iterator[pa.Table]:
    """A row names its source and its place there."""
    for first in range(0, len(times), size):
        part = times[first : first + size]
        places = range(first, first + len(part))
        yield pa.table({"time_ns": pa.array(part, pa.int64()), "rank": [rank] * len(part), "place": list(places)})


def rows(merged: Iterator[pa.Table]) -> list[tuple[int, int, int]]:
    return [(row["time_ns"], row["rank"], row["place"]) for table in merged for row in table.to_pylist()]


@settings(deadline=None)
@given(SOURCES, st.integers(1, 4), st.integers(0, 5))
def test_rows_are_in_time_order_and_then_in_that_of_their_sources(
    sources: list[list[int]], size: int, early: int
) -> None:
    """``first_ns`` may be any time that is not after the first row: rows may have been filtered."""
    given_sources = [
        Source(min(times, default=20) - early, tables(rank, times, size)) for rank, times in enumerate(sources)
    ]
    expected = sorted((time, rank, place) for rank, times in enumerate(sources) for place, time in enumerate(times))
    assert rows(merge(given_sources)) == expected


def test_only_sources_that_overlap_are_open_at_once() -> None:
    now_open: set[int] = set()
    most = 0

    def counted(rank: int) -> Iterator[pa.Table]:
        nonlocal most
        now_open.add(rank)
        most = max(most, len(now_open))
        yield from tables(rank, list(range(10 * rank, 10 * rank + 18)), 3)
        now_open.remove(rank)

    assert len(rows(merge([Source(10 * rank, counted(rank)) for rank in range(50)]))) == 50 * 18
    assert most == 2
