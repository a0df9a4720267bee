"""Loops without their number, and events that stand for others."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmiotap.analysis import folding
from mmiotap.analysis.folding import Fold, folded, without_polls
from mmiotap.trace.schema import EVENTS
from synthetic import row

Rows = Sequence[dict[str, Any]]


def tables(*parts: Rows) -> list[pa.Table]:
    return [pa.Table.from_pylist(list(rows), schema=EVENTS) for rows in parts]


def kept(*parts: Rows) -> list[tuple[Any, ...]]:
    found = [one for table in without_polls(tables(*parts)) for one in table.to_pylist()]
    return [(one["kind"], one["offset"], one["value"], one["tid"]) for one in found]


def reads(*values: int, begin: int = 0, tid: int = 100) -> list[dict[str, Any]]:
    return [row(begin + at, "read", 4, 8, value, tid=tid) for at, value in enumerate(values)]


def test_a_loop_is_its_last_read() -> None:
    write = row(50, "write", 4, 0, 1)
    expected = [("read", 8, 1, 100), ("write", 0, 1, 100), ("read", 8, 2, 100)]
    for loop in ([1], [1, 1], [0, 1], [0, 0, 0, 0, 1]):
        assert kept([*reads(*loop), write, *reads(0, 2, begin=60)]) == expected


def test_data_are_none() -> None:
    assert len(kept(reads(1, 2, 3, 4, 5))) == 5


def test_threads_loop_beside_each_other() -> None:
    rows = sorted([*reads(0, 0, 0, 1), *reads(7, 7, 7, 9, tid=101)], key=lambda one: one["time_ns"])
    assert kept(rows) == [("read", 8, 1, 100), ("read", 8, 9, 101)]


def test_a_loop_longer_than_what_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "WAITING", 10)
    loop = [*reads(*[0] * 99, 1), row(200, "write", 4, 0, 1)]
    parts = [loop[at : at + 7] for at in range(0, len(loop), 7)]
    assert kept(*parts) == [("read", 8, 1, 100), ("write", 0, 1, 100)]


EVENT = st.builds(
    row,
    st.integers(0, 1000),
    st.sampled_from(["read", "read", "read", "write", "mark"]),
    st.just(4),
    st.sampled_from([0, 4, 4]),
    st.integers(0, 2),
    tid=st.sampled_from([100, 101]),
)


@settings(deadline=None, max_examples=100)
@given(st.lists(EVENT, max_size=40), st.integers(1, 10))
def test_cuts_do_not_matter(rows: list[dict[str, Any]], size: int) -> None:
    rows.sort(key=lambda one: one["time_ns"])
    # A thread that rests for longer than a table is long is taken to have ended its loop.
    parts = [rows[at : at + size] for at in range(0, len(rows), size)]
    active = [{one["tid"] for one in part if one["kind"] != "mark"} for part in parts]
    if all(tids == {100, 101} for tids in active):
        assert kept(*parts) == kept(rows)
        assert _lines(*parts) == _lines(rows)
    assert len(kept(*parts)) <= len(rows)


def _lines(*parts: Rows) -> list[Any]:
    return [
        (*(one[name] for name in ("time_ns", "kind", "offset", "value")), folds.get(at))
        for table, folds in folded(tables(*parts))
        for at, one in enumerate(table.to_pylist())
    ]


def test_what_an_event_stands_for() -> None:
    rows = [
        *reads(0, 0, 4),
        *[row(10 + at, "write", 4, 0x100 + 4 * at, 7) for at in range(5)],
        row(20, "read", 4, 0x40, 0b0110),
        row(25, "write", 4, 0x40, 0b0011),
        row(30, "mark", text="done"),
        *[row(40 + at, "write", 1, 0x80, at) for at in range(6)],
        row(50, "read", 4, 0x40, 1),
    ]
    assert [line[1:] for line in _lines(rows)] == [
        ("read", 8, 4, Fold("poll", 3, 2, ones=4, zeros=0, last=8)),
        ("write", 0x100, 7, Fold("transfer", 5, 4, ones=0, zeros=0, last=0x110)),
        ("write", 0x40, 0b0011, Fold("modify", 2, 5, ones=1, zeros=4, last=0x40)),
        ("mark", 0, 0, None),
        ("write", 0x80, 0, Fold("transfer", 6, 5, ones=0, zeros=0, last=0x80)),
        ("read", 0x40, 1, None),
    ]
