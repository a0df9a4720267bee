"""What happened: each pattern found where it is, nowhere else, and however the trace is cut into parts."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmiotap.analysis import life, partitions, unwritten
from mmiotap.analysis.accesses import COLUMNS
from mmiotap.analysis.alike import alike
from mmiotap.analysis.callers import Callers
from mmiotap.analysis.delays import Delays, Gaps
from mmiotap.analysis.latency import Latency
from mmiotap.analysis.life import Life
from mmiotap.analysis.modifies import Modifies
from mmiotap.analysis.pairs import Pairs
from mmiotap.analysis.partitions import Analysis
from mmiotap.analysis.phases import Marks, Phases
from mmiotap.analysis.polls import Polls, repeated
from mmiotap.analysis.summary import analyses
from mmiotap.analysis.transfers import Transfers
from mmiotap.analysis.unwritten import Unwritten
from mmiotap.trace import layout
from mmiotap.trace.schema import EVENTS
from synthetic import START, row

Rows = Sequence[dict[str, Any]]


def find(analysis: Analysis[Any], *parts: Rows) -> list[dict[str, Any]]:
    """The rows of one analysis, of a trace in these parts."""
    tables = [pa.Table.from_pylist(list(rows), schema=EVENTS).select(COLUMNS) for rows in parts]
    [table] = partitions.tables([analysis], partitions.fold([analysis], tables))
    found: list[dict[str, Any]] = table.to_pylist()
    return found


def only(rows: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(one[name] for name in names) for one in rows]


def reads(*values: int, offset: int = 8, begin: int = 0, **more: Any) -> list[dict[str, Any]]:
    return [row(begin + 10 * at, "read", 4, offset, value, **more) for at, value in enumerate(values)]


class TestPolls:
    COLUMNS = ("offset", "loops", "ended", "reads", "most", "mask", "value")

    def test_a_bit_that_rises(self) -> None:
        """Bits that changed on the way are no reason to end, nor are those that changed once before the end."""
        rows = [*reads(0x01, 0x01, 0x03, 0x01, 0x81), row(100, "write", 4, 0), *reads(0x10, 0x10, 0x90, begin=200)]
        [found] = find(Polls(), rows)
        assert only([found], *self.COLUMNS) == [(8, 2, 2, 8, 5, 0x80, 0x80)]
        assert (found["total_ns"], found["longest_ns"], found["first_ns"]) == (60, 40, START)

    def test_a_bit_that_falls(self) -> None:
        [found] = find(Polls(), reads(0xFF, 0xFF, 0xFE))
        assert (found["mask"], found["value"]) == (1, 0)

    def test_a_loop_that_gave_up(self) -> None:
        assert only(find(Polls(), reads(5, 5, 5)), *self.COLUMNS) == [(8, 1, 0, 3, 3, 0, 0)]

    def test_loops_that_waited_for_this_and_for_that(self) -> None:
        """No bit was always the reason; by their instructions they are told apart."""
        up, down = reads(0, 0, 1, pc=0x10), reads(1, 1, 0, begin=100, pc=0x20)
        between = [row(50, "write", 4, 0)]
        same = [one | {"pc": 0} for one in (*up, *between, *down)]
        assert only(find(Polls(), same), "loops", "mask") == [(2, 0)]
        found = find(Polls(), [*up, *between, *down])
        assert only(found, "pc", "mask", "value") == [(0x10, 1, 1), (0x20, 1, 0)]

    @pytest.mark.parametrize(
        "rows",
        [
            reads(5, 5),
            [row(at, "write", 4, 8, 1) for at in range(5)],
            reads(1, 2, 3, 4, 5, 6),  # data
            [one | {"flags": layout.VALUE_UNKNOWN} for one in reads(5, 5, 5)],
            [*reads(0), row(5, "read", 4, 12), *reads(1, begin=20)],
            [*reads(0), *reads(1, begin=20, tid=101)],
        ],
    )
    def test_what_is_none(self, rows: Rows) -> None:
        assert find(Polls(), rows) == []

    def test_threads_do_not_disturb_each_other(self) -> None:
        other = [row(10 * at + 5, "read", 4, 8, 0, tid=101) for at in range(4)]
        rows = sorted([*reads(0, 0, 0, 1), *other], key=lambda one: one["time_ns"])
        assert only(find(Polls(), rows), "loops", "ended", "reads") == [(2, 1, 8)]


class TestModifies:
    def test_bits(self) -> None:
        pair = [row(0, "read", 4, 8, 0b0110), row(1, "write", 4, 8, 0b0011, pc=0x10)]
        found = find(Modifies(), [*pair, row(2, "write", 4, 8, 0), row(3, "read", 4, 8, 0b0110), *pair[1:]])
        assert only(found, "offset", "set", "cleared", "count", "pc") == [(8, 1, 4, 2, 0x10)]

    @pytest.mark.parametrize("change", [{"offset": 12}, {"width": 2}, {"tid": 101}, {"map_id": 2}])
    def test_what_is_none(self, change: dict[str, Any]) -> None:
        assert find(Modifies(), [row(0, "read", 4, 8, 6), row(1, "write", 4, 8, 3) | change]) == []


class TestTransfers:
    def test_onward_and_through(self) -> None:
        table = [row(at, "write", 4, 0x100 + 4 * at, at) for at in range(6)]
        fifo = [row(10 + at, "read", 2, 0x40, 7 * at) for at in range(5)]
        found = find(Transfers(), [*table, *fifo])
        columns = ("offset", "end", "kind", "onward", "transfers", "accesses", "bytes")
        assert only(found, *columns) == [
            (0x100, 0x118, "write", True, 1, 6, 24),
            (0x40, 0x42, "read", False, 1, 5, 10),
        ]

    def test_too_few_are_none(self) -> None:
        assert find(Transfers(), [row(at, "write", 4, 4 * at) for at in range(3)]) == []


class TestPairs:
    @staticmethod
    def device(count: int) -> list[dict[str, Any]]:
        """Some indexes written, and what they stand for read, one of them written."""
        rows = []
        for at in range(count):
            index = at % 3
            rows += [row(3 * at, "write", 1, 0x70, index), row(3 * at + 1, "read", 1, 0x71, 0x50 + index)]
        return [*rows, row(3 * count, "write", 1, 0x70, 9), row(3 * count + 1, "write", 1, 0x71, 0xAA)]

    def test_decoded(self) -> None:
        found = find(Pairs(), self.device(6))
        assert only(found, "index_offset", "offset", "index", "reads", "writes", "first", "last") == [
            (0x70, 0x71, 0, 2, 0, 0x50, 0x50),
            (0x70, 0x71, 1, 2, 0, 0x51, 0x51),
            (0x70, 0x71, 2, 2, 0, 0x52, 0x52),
            (0x70, 0x71, 9, 0, 1, 0xAA, 0xAA),
        ]

    def test_what_is_none(self) -> None:
        flush = [
            row(at, kind, 4, offset, value)
            for at in range(20)
            for kind, offset, value in (("write", 0x10, at), ("read", 8, 0x80080783))
        ]
        assert find(Pairs(), flush) == []  # the same is read whatever was written
        elsewhere = [one for at in range(20) for one in (*self.device(1), row(0, "read", 1, 0x71, at))]
        assert find(Pairs(), elsewhere) == []  # what seems to be data is read without an index, too


class TestDelays:
    ROWS = (row(0, "write", 4, 0), row(5, "read", 4, 8, tid=101), row(10, "read", 4, 8), row(500, "write", 4, 0))

    def test_by_what_was_before(self) -> None:
        names = ("offset", "kind", "gaps", "total_ns", "shortest_ns", "longest_ns")
        assert only(find(Delays(), self.ROWS), *names) == [(8, "read", 1, 490, 490, 490), (0, "write", 1, 10, 10, 10)]

    def test_longest(self) -> None:
        found = find(Gaps(), self.ROWS)
        assert only(found, "gap_ns", "time_ns", "kind", "next_kind") == [
            (490, START + 10, "read", "write"),
            (10, START, "write", "read"),
        ]


def test_phases() -> None:
    marks = Marks((START + 10, START + 20, START + 30), ("reset", "idle", "end"))
    rows = [
        *reads(1),
        row(10, "mark", text="reset"),
        row(11, "write", 4, 0),
        row(12, "read", 4, 8),
        row(13, "read", 4, 8),
        row(35, "unknown", 4, 8),
    ]
    names = ("phase", "from_ns", "reads", "writes", "others", "registers", "first_ns", "last_ns")
    assert only(find(Phases(marks), rows), *names) == [
        (None, None, 1, 0, 0, 1, START, START),
        ("reset", START + 10, 2, 1, 0, 2, START + 11, START + 13),
        ("idle", START + 20, 0, 0, 0, 0, None, None),
        ("end", START + 30, 0, 0, 1, 1, START + 35, START + 35),
    ]


class TestLife:
    def test_values_and_bits(self) -> None:
        [found] = find(Life(), [*reads(3, 3, 1), row(50, "write", 4, 8, 0x11)])
        assert (found["reads"], found["writes"], found["distinct"], found["toggled"]) == (3, 1, 3, 0x12)
        assert found["values"][0] == {"value": 3, "count": 2}

    def test_read_to_clear(self) -> None:
        """0x4 is gone with every read; 0x1 was seen twice in a row; 0x8 may have gone by itself, once."""
        [found] = find(Life(), reads(0x5, 0x1, 0x4, 0x8, 0))
        assert found["cleared_by_read"] == 0x4

    def test_a_write_between_is_no_sign(self) -> None:
        rows = [one for at in range(3) for one in (*reads(4, begin=10 * at), row(10 * at + 5, "write", 4, 8))]
        [found] = find(Life(), [*rows, *reads(0, begin=100)])
        assert found["cleared_by_read"] == 0

    def test_many_values_are_not_all_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(life, "COUNTED", 3)
        [found] = find(Life(), reads(1, 2, 3, 4, 4), reads(5, 4, begin=100))
        assert (found["distinct"], found["values"][0]) == (None, {"value": 4, "count": 3})


def test_latency() -> None:
    rows = [row(at, "read", 4, 8, took=took) for at, took in enumerate([*[1000] * 98, 5000, 50_000])]
    [found] = find(Latency(), [*rows, row(200, "read", 4, 12)])
    assert (found["timed"], found["min_ns"], found["max_ns"], found["mean_ns"]) == (100, 1000, 50_000, 1530)
    assert found["p50_ns"] == pytest.approx(1000, rel=0.04)
    assert found["p99_ns"] == pytest.approx(5000, rel=0.04)


def test_callers() -> None:
    rows = [row(0, "read", 4, 8, pc=0x10), row(1, "write", 4, 8, pc=0x10), row(2, "read", 4, 8)]
    assert only(find(Callers(), rows), "offset", "pc", "reads", "writes") == [(8, 0x10, 1, 1)]


class TestUnwritten:
    MEMORY = (
        *[row(at, "write", 4, 4 * at, at) for at in range(8)],
        *[row(9, "read", 4, 4 * at, at) for at in range(8)],
    )

    def test_bytes(self) -> None:
        rows = [*self.MEMORY, row(20, "read", 8, 0x1C, 7, pc=0x10), row(30, "read", 2, 0x40), row(40, "read", 1, 0x40)]
        assert only(find(Unwritten(), rows), "offset", "length", "reads", "pc", "first_ns") == [
            (0x20, 4, 4, 0x10, START + 20),
            (0x40, 2, 3, 0, START + 30),
        ]

    def test_registers_are_no_memory(self) -> None:
        rows = [*self.MEMORY, row(20, "read", 4, 0, 0xFF), row(30, "read", 4, 0x40)]
        assert find(Unwritten(), rows) == []
        assert only(find(Unwritten(frozenset([1])), rows), "offset") == [(0x40,)]

    def test_a_store_of_something_unknown_is_one(self) -> None:
        store = row(15, "write", 4, 0x40, flags=layout.VALUE_UNKNOWN)
        wide = row(16, "write", 16, 0x50, data=bytes(16))
        rows = [*self.MEMORY, store, wide, row(20, "read", 4, 0x40, 0x99), row(21, "read", 8, 0x58, 0x99)]
        assert find(Unwritten(), rows) == []

    def test_too_many_bytes_are_not_followed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(unwritten, "FOLLOWED", 32)
        assert find(Unwritten(), self.MEMORY, [row(20, "read", 4, 0x40)]) == []


ACCESS = st.builds(
    row,
    st.integers(0, 1000),
    st.sampled_from(["read", "read", "write", "mark", "unknown"]),
    st.sampled_from([4, 4, 1]),
    st.sampled_from([0, 4, 8]),
    st.integers(0, 3),
    tid=st.sampled_from([100, 100, 101]),
    flags=st.sampled_from([0, 0, 0, layout.VALUE_UNKNOWN]),
    took=st.sampled_from([None, 100, 1000]),
    pc=st.sampled_from([0, 0x10]),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(ACCESS, max_size=40), st.integers(1, 12), st.booleans())
def test_it_does_not_matter_how_a_trace_is_cut(rows: list[dict[str, Any]], size: int, memory: bool) -> None:
    rows.sort(key=lambda one: one["time_ns"])
    marks = Marks((START + 300, START + 600), ("a", "b"))
    wanted = list(analyses(marks, [1] if memory else []).values())
    whole = [find(one, rows) for one in wanted]
    cut = [find(one, *(rows[at : at + size] for at in range(0, len(rows), size))) for one in wanted]
    assert [_sorted(one) for one in cut] == [_sorted(one) for one in whole]


@settings(deadline=None, max_examples=200)
@given(st.lists(ACCESS, max_size=60), st.integers(1, 20))
def test_loops_are_the_same_without_what_is_none(rows: list[dict[str, Any]], size: int) -> None:
    rows = [one | {"offset": one["offset"] & 8} for one in sorted(rows, key=lambda one: one["time_ns"])]
    parts = [pa.Table.from_pylist(rows[at : at + size], schema=EVENTS) for at in range(0, len(rows), size)]
    fewer = [repeated(seen).to_pylist() for part in parts if len((seen := alike(part)).group)]
    assert _sorted(find(Polls(), *fewer)) == _sorted(find(Polls(), rows))


def _sorted(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(map(repr, rows))
