"""What a report shows is what happened: counted in one pass, and nothing is lost when it becomes coarser."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmiotap.analysis.density import Density
from mmiotap.analysis.picture import Picture, picture
from mmiotap.analysis.stats import statistics
from mmiotap.trace import layout
from mmiotap.trace.reader import open_trace
from synthetic import row, write_trace

ACCESSES = st.lists(
    st.tuples(
        st.integers(0, 2**45),
        st.booleans(),
        st.integers(1, 3),
        st.one_of(st.integers(0, 40), st.integers(0, 2**64 - 1)),
        st.integers(100, 106),
    ),
    min_size=1,
    max_size=60,
)


@given(ACCESSES, st.integers(1, 7))
def test_each_access_is_in_its_cell(accesses: list[tuple[int, bool, int, int, int]], size: int) -> None:
    accesses.sort(key=lambda access: access[0])
    density = Density(columns=16, rows=8, threads=3)
    for begin in range(0, len(accesses), size):
        times, reads, map_ids, offsets, tids = zip(*accesses[begin : begin + size], strict=True)
        density.add(
            np.array(times, np.int64),
            np.arange(len(times)),
            reads=np.array(reads),
            map_id=np.array(map_ids, np.int64),
            offset=np.array(offsets, np.uint64),
            pid=np.array(tids, np.int64) // 2,
            tid=np.array(tids, np.int64),
        )
    assert density.origin_ns == accesses[0][0]
    assert len(density.places) <= 8
    expected: Counter[tuple[bool, int, int]] = Counter()
    lines: Counter[tuple[int, int]] = Counter()
    for time, read, map_id, offset, tid in accesses:
        column = (time - density.origin_ns) // density.column_ns
        [number] = [
            number
            for number, (mapping, first, length) in enumerate(density.places)
            if mapping == map_id and first <= offset < first + length
        ]
        expected[read, column, number] += 1
        lines[column, density.lines.get((tid // 2, tid), 3)] += 1
    found = {(way == 0, column, number): n for (way, column, number), n in np.ndenumerate(density.cells) if n}
    assert found == expected
    assert {place: count for place, count in np.ndenumerate(density.threads) if count} == lines


def events(count: int) -> list[dict[str, object]]:
    random = np.random.default_rng(1)
    rows = [row(0, "mark", text="begin")]
    for number in range(count):
        kind = ["read", "write", "unknown"][random.choice(3, p=[0.6, 0.35, 0.05])]
        rows.append(
            row(
                10 * number + 10,
                kind,
                int(random.choice([1, 4, 8])),
                8 * int(random.integers(0, 30)),
                int(random.integers(0, 2**31)),
                map_id=int(random.integers(1, 3)),
                pc=int(random.integers(0, 3)) * 0x1000,
                tid=int(random.integers(100, 104)),
                took=int(random.integers(1, 10**6)) if random.random() < 0.7 else None,
                flags=layout.VALUE_UNKNOWN if kind == "unknown" or random.random() < 0.1 else layout.PATCHED,
                data=b"\x90" if kind == "unknown" else None,
            )
        )
    return rows


def found(tmp_path: Path, count: int = 3000) -> tuple[Picture, Path]:
    rows = events(count)
    path = write_trace(tmp_path / "t", rows[:1000], rows[1000:])
    return picture(open_trace(path)), path


def test_it_says_what_stats_says(tmp_path: Path) -> None:
    seen, path = found(tmp_path)
    told = statistics(open_trace(path))
    assert seen.kinds == told.kinds
    assert seen.last_ns - (seen.first_ns or 0) == round(told.seconds * 1e9)
    columns = ["reads", "writes", "others", "min_ns", "max_ns", "first_value", "last_value"]
    for mine, theirs, keys in (
        (seen.registers, told.registers, ["map_id", "offset", "width"]),
        (seen.threads, told.threads, ["pid", "tid"]),
    ):
        order: Any = [(key, "ascending") for key in keys]
        assert mine.select([*keys, *columns]).sort_by(order).to_pylist() == (
            theirs.select([*keys, *columns]).sort_by(order).to_pylist()
        )
        means = pc.divide(pc.cast(mine["total_ns"], pa.float64()), pc.cast(mine["timed"], pa.float64()))
        expected = theirs.sort_by(order)["mean_ns"].to_pylist()
        assert mine.append_column("mean", means).sort_by(order)["mean"].to_pylist() == pytest.approx(expected)
    assert int(seen.density.cells.sum()) == int(seen.density.threads.sum()) == 3000


def test_latencies_and_marks(tmp_path: Path) -> None:
    seen, _ = found(tmp_path)
    timed = [one for one in events(3000) if one["duration_ns"] is not None]
    assert seen.latency.sum() == len(timed)
    assert seen.latency[0].sum() == sum(one["kind"] == "read" for one in timed)
    slow = sum(one["duration_ns"] >= 2**18 for one in timed)  # type: ignore[operator]
    assert seen.latency[:, 4 * 18 :].sum() == slow
    assert [(one.kind, one.text) for one in seen.remarks] == [("mark", "begin")]
