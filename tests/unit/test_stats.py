"""``mmiotap stats``: exact numbers, and memory for what is distinct only."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import MMIOTAP, TIME_LIMIT, Run
from mmiotap.analysis import groups, stats
from mmiotap.analysis.groups import Rows, height
from mmiotap.cli import main
from mmiotap.trace import layout
from mmiotap.trace.reader import Trace, open_trace
from synthetic import DRIVER, RING, UIO, row, write_trace

FIRST = [
    row(0, "map", value=UIO.address),
    row(500_000_000, "read", 4, 0x8, 0x11, took=1_000, pc=0x401000),
    row(600_000_000, "read", 4, 0x8, 0x22, took=3_000, pc=0x401000),
    row(700_000_000, "write", 1, 0x8, 0x33, took=200, pc=0x402000, flags=layout.PATCHED),
]
SECOND = [
    row(800_000_000, "read", 4, 0x8, 0x44, took=2_000, pc=0x402000, tid=101, flags=layout.PATCHED | layout.RMW),
    row(900_000_000, "write", 4, 0x8, 0, flags=layout.VALUE_UNKNOWN, pc=0x402000, tid=101),
    row(900_000_001, "mark", map_id=0, text="half"),
    row(1_000_000_000, "write", 8, 0x18, 0x55, map_id=2, pc=0x402000),
    row(1_500_000_000, "unknown", 0, 0x10, data=b"\x0f\xae", pc=0x403000, flags=layout.STEPPED),
    row(2_000_000_000, "lost", map_id=0, value=2),
]

TEXT = """\
10 events (3 read, 3 write, 1 map, 1 mark, 1 unknown, 1 lost), lost: 2, 2.000000 s, finished
7 accesses: 2 patched (28.6%), 4 trapped (57.1%), 1 stepped (14.3%)

Mappings
mapping       width  reads  writes  others  per second    min    mean     max
1:uio0        ? 1 4      3       2       1           3  200ns  1.55us  3.00us
2:[io_uring]      8      0       1       0         0.5

Registers
mapping       offset  width  reads  writes  others  per second               first                last     min    mean     max
1:uio0        0x8         4      3       1       0           2          0x00000011          0x00000044  1.00us  2.00us  3.00us
1:uio0        0x8         1      0       1       0         0.5                0x33                0x33   200ns   200ns   200ns
1:uio0        0x10        ?      0       0       1         0.5                   ?                   ?
2:[io_uring]  0x18        8      0       1       0         0.5  0x0000000000000055  0x0000000000000055

Sites
site      width  reads  writes  others  per second     min    mean     max
0x402000  1 4 8      1       3       0           2   200ns  1.10us  2.00us
0x401000      4      2       0       0           1  1.00us  2.00us  3.00us
0x403000      ?      0       0       1         0.5

Threads
pid  tid  program    width  reads  writes  others  per second     min    mean     max
100  100  driver   ? 1 4 8      2       2       1         2.5   200ns  1.40us  3.00us
100  101  driver         4      1       1       0           1  2.00us  2.00us  2.00us
"""  # noqa: E501


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return write_trace(tmp_path / "t", FIRST, SECOND, lost=2)


def test_text_in_a_pipe_is_plain_and_whole(trace: Path, mmiotap: Run) -> None:
    """Lines far wider than 80 columns, no colour, nothing cut."""
    result = mmiotap("stats", trace, env={"COLUMNS": "80", "TERM": "xterm"})
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout.splitlines() == TEXT.splitlines()


def test_a_reader_that_goes_away_ends_it_quietly(trace: Path) -> None:
    """As in ``| head``; with standard output buffered, as it is unless PYTHONUNBUFFERED asks otherwise."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer) as stdout:
        result = subprocess.run(
            [*MMIOTAP, "stats", trace], stdout=stdout, stderr=subprocess.PIPE, env=environment, timeout=TIME_LIMIT
        )
    assert (result.returncode, result.stderr) == (0, b"")


def test_limit_says_what_it_leaves_out(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", str(trace), "--limit", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "Registers, 2 of 4 (--limit 0: all)" in lines
    assert "Threads" in lines
    assert not any("0x10" in line for line in lines)


def test_wrong_limit(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", str(trace), "--limit", "-3"]) == 2
    assert capsys.readouterr().err == "mmiotap: --limit: a number of rows cannot be negative\n"


def test_json(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", str(trace), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["events"], found["lost"], found["seconds"], found["state"]) == (10, 2, 2.0, "finished")
    assert found["ways"] == {"patched": 2, "trapped": 4, "stepped": 1, "syscall": 0}
    assert found["kinds"] == {"map": 1, "read": 3, "write": 3, "mark": 1, "unknown": 1, "lost": 1}
    assert found["registers"][0] == {
        "map_id": 1, "offset": 8, "width": 4, "reads": 3, "writes": 1, "others": 0, "accesses": 4, "rate": 2.0,
        "widths": [4], "first_value": 0x11, "last_value": 0x44, "min_ns": 1000, "mean_ns": 2000.0, "max_ns": 3000,
    }  # fmt: skip
    assert [one["path"] for one in found["mappings"]] == [UIO.path, RING.path]
    assert [one["program"] for one in found["threads"]] == [DRIVER.executable] * 2


def test_an_empty_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = write_trace(tmp_path / "t")
    assert main(["stats", str(trace)]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == ["0 events, lost: 0, 0.000000 s, finished", ""]
    assert main(["stats", str(trace), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["registers"] == []


def test_an_import_does_not_say_which_way_accesses_went(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = write_trace(tmp_path / "t", FIRST, source="mmiotrace")
    assert main(["stats", str(trace)]) == 0
    assert capsys.readouterr().out.splitlines()[1] == ""
    assert main(["stats", str(trace), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["ways"] is None


class ManyBatches:
    """A trace of parts that are all the same, which cannot give its events all at once."""

    def __init__(self, trace: Trace, times: int) -> None:
        self.mappings, self.modules, self.processes = trace.mappings, trace.modules, trace.processes
        self._batch, self._times = trace.events(), times

    def streams(self, columns: Sequence[str], rows: int) -> list[Iterator[pa.Table]]:
        return [iter([self._batch.select(list(columns))]) for _ in range(self._times)]


def test_memory_is_bounded_by_what_is_distinct(
    trace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What waits to be merged never exceeds its limit by more than one part, and merging loses no count."""
    monkeypatch.setattr(groups, "PENDING_ROWS", 20)
    sizes = []
    merged = stats._merged

    def measured(parts: Sequence[Rows], keys: list[str]) -> Rows:
        sizes.append(sum(map(height, parts)))
        return merged(parts, keys)

    monkeypatch.setattr(stats, "_merged", measured)
    found = stats.statistics(ManyBatches(open_trace(trace), 500))  # type: ignore[arg-type]
    assert found.kinds["read"] == 1500
    assert found.ways == {"patched": 1000, "trapped": 2000, "stepped": 500, "syscall": 0}
    first = found.registers.slice(0, 1).to_pylist()[0]
    assert (first["reads"], first["writes"], first["first_value"], first["last_value"]) == (1500, 500, 0x11, 0x44)
    assert first["mean_ns"] == 2000.0
    a_part = 7
    assert 20 < max(sizes) <= 20 + 2 * a_part


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_parts_that_overlap_say_what_one_part_says(data: st.DataObject) -> None:
    """Whatever part an event is in, and whoever reads it first; at the same time the one in the earlier part counts."""
    accesses = st.builds(
        row,
        st.integers(0, 5),
        st.sampled_from(["read", "write", "unknown", "mark"]),
        st.sampled_from([1, 4]),
        st.sampled_from([0, 8]),
        st.integers(0, 2**64 - 1),
        pc=st.sampled_from([0, 2**63]),
        tid=st.sampled_from([100, 101]),
        flags=st.sampled_from([0, layout.VALUE_UNKNOWN, layout.PATCHED]),
        took=st.none() | st.integers(0, 2**32 - 1),
    )
    parts = data.draw(st.lists(st.lists(accesses, min_size=1), max_size=4))
    for part in parts:
        part.sort(key=lambda one: one["time_ns"])
    rows = sorted((one for part in parts for one in part), key=lambda one: one["time_ns"])
    with tempfile.TemporaryDirectory() as folder:
        apart = stats.statistics(open_trace(write_trace(Path(folder) / "apart", *parts)))
        whole = stats.statistics(open_trace(write_trace(Path(folder) / "whole", *([rows] if rows else []))))
    assert asdict(apart) == asdict(whole)
    assert list(apart.kinds) == list(whole.kinds) == list(dict.fromkeys(one["kind"] for one in rows))
    for register in whole.registers.to_pylist():
        place = (register["offset"], register["width"])
        mine = [one for one in rows if one["kind"] != "mark" and (one["offset"], one["width"]) == place]
        known = [one["value"] for one in mine if one["kind"] != "unknown" and not one["flags"] & layout.VALUE_UNKNOWN]
        took = [one["duration_ns"] for one in mine if one["duration_ns"] is not None]
        assert register["accesses"] == len(mine)
        assert [register["first_value"], register["last_value"]] == ([known[0], known[-1]] if known else [None, None])
        assert [register["min_ns"], register["max_ns"]] == ([min(took), max(took)] if took else [None, None])
