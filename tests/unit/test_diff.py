"""``mmiotap diff``: equal where accesses are, and a place for everything that is not."""

import dataclasses
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmiotap.analysis import diff as module
from mmiotap.analysis.diff import Diff, Hunk
from mmiotap.analysis.select import FilterError
from mmiotap.cli import main
from mmiotap.trace import layout
from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.reader import open_trace
from mmiotap.trace.schema import EVENTS
from mmiotap.trace.writer import TraceWriter
from mmiotap.views.lines import COLUMNS
from synthetic import RING, UIO, row, write_trace

SAME = [
    row(0, "map", text="{}"),
    row(1, "read", 4, 0x8, 0x80080783),
    row(2, "write", 4, 0x10, 0x1CB),
    row(3, "write", 8, 0x0, 7, map_id=2),
    row(4, "read", 16, 0x20, 1, data=b"\x01" + bytes(14) + b"\x02"),
    row(5, "unknown", 4, 0x30, flags=layout.VALUE_UNKNOWN),
]


def compare(a: Path, b: Path, **options: Any) -> tuple[list[Hunk], Diff]:
    diff = Diff(open_trace(a), open_trace(b), COLUMNS, **options)
    return list(diff.hunks()), diff


def values(table: pa.Table) -> list[int]:
    return [int(value) for value in table["value"].to_numpy()]


def test_other_times_threads_ids_and_parts_are_equal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_trace(tmp_path / "a", SAME)
    other = [one | {"time_ns": one["time_ns"] * 2, "tid": 7, "map_id": 3 - one["map_id"]} for one in SAME]
    swapped = [dataclasses.replace(UIO, map_id=2, device=None, path="/x"), dataclasses.replace(RING, map_id=1)]
    b = write_trace(tmp_path / "b", other[:3], [row(0, "mark", map_id=0)], other[3:], mappings=swapped)
    assert main(["diff", str(a), str(b)]) == 0
    assert capsys.readouterr().out == "equal: 5 accesses\n"


@pytest.mark.parametrize(
    ("at", "change"),
    [
        (1, {"kind": "write"}),
        (1, {"width": 2}),
        (1, {"offset": 0xC}),
        (2, {"value": 0x1CA}),
        (4, {"data": b"\x01" + bytes(14) + b"\x03"}),
        (3, {"map_id": 1}),
        (5, {"kind": "read"}),
    ],
    ids=lambda one: next(iter(one)) if isinstance(one, dict) else "",
)
def test_each_difference_is_found_at_its_place(tmp_path: Path, at: int, change: dict[str, Any]) -> None:
    a = write_trace(tmp_path / "a", SAME)
    b = write_trace(tmp_path / "b", [one | (change if number == at else {}) for number, one in enumerate(SAME)])
    [hunk], diff = compare(a, b)
    assert (hunk.number_a, hunk.number_b, hunk.a.num_rows, hunk.b.num_rows) == (at - 1, at - 1, 1, 1)
    assert (hunk.meets, diff.agreeing) == (True, 4)


def test_mappings_are_not_exchanged(tmp_path: Path) -> None:
    """Two mappings of one trace are never the same one of the other."""
    a = write_trace(tmp_path / "a", [row(1, "read", 4, map_id=1), row(2, "read", 4, map_id=2)])
    b = write_trace(tmp_path / "b", [row(1, "read", 4, map_id=1), row(2, "read", 4, map_id=1)])
    for one, other in ((a, b), (b, a)):
        [hunk], _ = compare(one, other)
        assert hunk.number_a == 1


def test_a_bar_mapped_in_parts_is_one_bar(tmp_path: Path) -> None:
    """By its file offset, as the agent sees it; or by its address on the bus, as a kernel log tells it."""
    rows = [row(1, "read", 4, 0x8, 1), row(2, "read", 4, 0x1008, 2), row(3, "write", 4, 0x100C, 3)]
    parts = [rows[0], row(2, "read", 4, 0x8, 2, map_id=2), row(3, "write", 4, 0xC, 3, map_id=3)]
    second = dataclasses.replace(UIO, map_id=2, file_offset=0x1000, physical=None)
    third = dataclasses.replace(UIO, map_id=3, physical=0xFEBC1000)
    bars = [{"address": UIO.device, "resources": [{"start": 0xFEBC0000, "size": 0x20000}]}]
    a = write_trace(tmp_path / "a", rows)
    b = write_trace(tmp_path / "b", parts, mappings=[UIO, second, third], pci_devices=bars)
    assert compare(a, b)[0] == []


def test_physical_compares_addresses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_trace(tmp_path / "a", [row(1, "read", 4, 0x1008, 1)])
    ram = dataclasses.replace(UIO, device=None, bar=None, path="0xfebc1000", physical=0xFEBC1000)
    b = write_trace(tmp_path / "b", [row(1, "read", 4, 0x8, 1)], mappings=[ram])
    assert len(compare(a, b)[0]) == 1
    assert compare(a, b, physical=True)[0] == []
    c = write_trace(tmp_path / "c", [row(1, "read", 4, 0x8, 1)], mappings=[dataclasses.replace(ram, physical=None)])
    assert main(["diff", "--physical", str(a), str(c)]) == 1
    assert "does not know the physical address of 0xfebc1000" in capsys.readouterr().err


def test_a_value_that_is_not_known_agrees_with_any(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_trace(tmp_path / "a", SAME)
    hidden = [
        one | ({"value": 0, "flags": layout.VALUE_UNKNOWN} if number == 1 else {}) for number, one in enumerate(SAME)
    ]
    b = write_trace(tmp_path / "b", hidden)
    assert main(["diff", str(a), str(b)]) == 0
    assert "of 2 accesses a value is not known" in capsys.readouterr().err


def test_ignore(tmp_path: Path) -> None:
    a = write_trace(tmp_path / "a", [row(1, "read", 4, 0x8, 1), row(2, "read", 4, 0x8, 2)])
    b = write_trace(tmp_path / "b", [row(1, "read", 2, 0x8, 3), row(2, "read", 4, 0xC, 2)])
    assert compare(a, b)[0] != []
    assert compare(a, b, ignore=["width", "value", "offset"])[0] == []
    [hunk], _ = compare(a, b, ignore=["width", "value"])
    assert hunk.number_a == 1


def test_choosing_mappings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_trace(tmp_path / "a", SAME)
    b = write_trace(tmp_path / "b", [SAME[3]], lost=3)
    assert main(["diff", str(a), str(b), "--map-a", "*io_uring*"]) == 0
    assert "has lost 3 events" in capsys.readouterr().err
    assert main(["diff", str(a), str(b), "--map-a", "0000:00:03.0"]) == 1
    assert main(["diff", str(a), str(b), "--map-b", "nothing"]) == 2
    assert "--map-b: no mapping is 'nothing'" in capsys.readouterr().err
    with pytest.raises(FilterError):
        compare(a, b, maps_a=["9"])


def test_nothing_to_compare_is_no_agreement(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = (write_trace(tmp_path / name, [row(0, "mark", map_id=0)]) for name in "ab")
    assert main(["diff", str(a), str(b)]) == 1
    assert "nothing was compared" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--ignore", "time"], ["--limit", "-1"], ["--context", "-1"]])
def test_wrong_usage(tmp_path: Path, words: list[str]) -> None:
    a = write_trace(tmp_path / "a", SAME)
    assert main(["diff", str(a), str(a), *words]) == 2


TEXT = """\
--- A
+++ B
@@ access 3 of A, 3 of B @@
    0.000000002  100      read     4 1:uio0        0x00008 -> 0x00000002
-   0.000000003  100      read     4 1:uio0        0x00008 -> 0x00000003
-   0.000000004  100      read     4 1:uio0        0x00008 -> 0x00000004
    0.000000005  100      read     4 1:uio0        0x00008 -> 0x00000005
@@ access 9 of A, 7 of B @@
    0.000000008  100      read     4 1:uio0        0x00008 -> 0x00000008
-   0.000000009  100      read     4 1:uio0        0x00008 -> 0x00000009
+   0.000000007  100      write    1 1:uio0        0x00001 <- 0xff
    0.000000010  100      read     4 1:uio0        0x00008 -> 0x0000000a
there is more: first 2 places shown (--limit 0: all)
"""


def test_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row(time, "read", 4, 8, time) for time in range(1, 21)]
    other = [*rows[:2], *rows[4:8], row(7, "write", 1, 1, 0xFF), *rows[9:15]]
    other = [one | {"time_ns": rows[0]["time_ns"] + number} for number, one in enumerate(other)]
    a, b = write_trace(tmp_path / "a", rows), write_trace(tmp_path / "b", other)
    assert main(["diff", str(a), str(b), "--limit", "2", "--context", "1"]) == 1
    out = capsys.readouterr().out.replace(str(a), "A").replace(str(b), "B")
    assert out == TEXT
    assert main(["diff", str(a), str(b), "--limit", "0", "--context", "0"]) == 1
    assert "@@ access 16 of A, 14 of B @@\n-" in capsys.readouterr().out


def test_traces_that_do_not_meet_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WINDOW", 8)
    rows = [row(time, "read", 4, 8, time) for time in range(1, 50)]
    a, b = write_trace(tmp_path / "a", rows), write_trace(tmp_path / "b", [rows[0], *rows[20:]])
    [hunk], _ = compare(a, b)
    assert (hunk.meets, hunk.number_a, hunk.a.num_rows, hunk.b.num_rows) == (False, 1, 8, 8)


def test_damage_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write_trace(tmp_path / "a", SAME), write_trace(tmp_path / "b", SAME)
    [part] = (b / "events").iterdir()
    part.write_bytes(part.read_bytes()[:-9])
    assert main(["diff", str(a), str(b)]) == 1
    assert part.name in capsys.readouterr().err
    with pytest.raises(MmiotapError):
        compare(a, b)


LOOP = [row(at, "read", 4, 0x8, value) for at, value in enumerate([0, 0, 0, 2])]


def test_how_often_a_loop_reads_is_no_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write = row(50, "write", 4, 0x10, 1)
    a = write_trace(tmp_path / "a", [*LOOP, write])
    b = write_trace(tmp_path / "b", [LOOP[3], write])
    c = write_trace(tmp_path / "c", [*LOOP[:3], write])
    assert main(["diff", str(a), str(b)]) == 0
    assert capsys.readouterr().out == "equal: 2 accesses\n"
    assert main(["diff", str(a), str(c)]) == 1
    assert "@@ access 4 of A, 3 of B @@" in capsys.readouterr().out
    assert main(["diff", str(a), str(b), "--polls"]) == 1


@pytest.fixture(scope="module")
def e1000(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("e1000") / "t"
    log = Path(__file__).parents[1] / "data" / "mmiotrace-e1000.log.xz"
    assert main(["import", str(log), "-o", str(path)]) == 0
    return path


def again(path: Path, run: Path, change: Callable[[pa.Table], pa.Table]) -> Path:
    """Another run of the same driver, with other times."""
    trace = open_trace(path)
    events = change(trace.events())
    times = np.arange(events.num_rows) * 777
    writer = TraceWriter.create(run, trace.info | {"state": "recording"})
    writer.add_mappings(trace.mappings)
    writer.append(events.set_column(0, EVENTS.field(0), pa.array(times)))
    writer.finish()
    return run


def with_values(events: pa.Table, change: Callable[[Any], None]) -> pa.Table:
    value = events["value"].to_numpy().copy()
    change(value)
    at = EVENTS.get_field_index("value")
    return events.set_column(at, EVENTS.field(at), pa.array(value))


def number_of(events: pa.Table, kind: str, offset: int) -> int:
    """Of the third such event."""
    rows = zip(events["kind"].to_pylist(), events["offset"].to_pylist(), strict=True)
    return [at for at, one in enumerate(rows) if one == (kind, offset)][2]


def test_two_runs_of_the_same_driver(e1000: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = again(e1000, tmp_path / "t", lambda events: events)
    assert main(["diff", str(e1000), str(run)]) == 0
    assert capsys.readouterr().out.startswith("equal: 14")


def test_one_bit_of_one_write(e1000: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is shown, with its field's name, and nothing else is."""

    def enable(events: pa.Table) -> pa.Table:
        at = number_of(events, "write", 0x400)
        return with_values(events, lambda value: value.__setitem__(at, value[at] ^ 0x2))

    run = again(e1000, tmp_path / "t", enable)
    assert main(["diff", str(e1000), str(run), "--limit", "0"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[6:10] for line in lines[3:] if line[0] in "+-"] == [
        ["0x00400", "TCTL", "<-", "0x0003f008"],
        ["0x00400", "TCTL", "<-", "0x0003f00a"],
    ]
    assert [line for line in lines if line[0] == "!"] == ["! TCTL +EN"]
    assert main(["diff", str(e1000), str(run), "-y", "--context", "0"]) == 1
    assert capsys.readouterr().out.splitlines()[3:] == [
        " write    4 TCTL <- 0x0003f008 | write    4 TCTL <- 0x0003f00a  +EN"
    ]
    assert main(["diff", str(e1000), str(run), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["equal"], found["more"], len(found["differences"])) == (False, False, 1)
    [change] = found["differences"][0]["changes"]
    assert (change["register"], change["ones"], change["ones_fields"]) == ("TCTL", 2, "EN")
    assert main(["diff", str(e1000), str(run), "--ignore", 'reg == "TCTL" and write']) == 0


def test_changes_everywhere(e1000: Path, tmp_path: Path) -> None:
    """Each is found, and nothing is taken for different that is not."""
    count = open_trace(e1000).count

    def flip(value: Any) -> None:
        value[50::100] ^= np.uint64(1 << 63)

    run = again(e1000, tmp_path / "t", lambda events: with_values(events, flip))
    hunks, diff = compare(e1000, run)
    kinds = open_trace(e1000).events()["kind"].to_pylist()[50::100]
    changed = sum(kind in ("read", "write") for kind in kinds)
    assert len(hunks) == changed
    assert all((one.a.num_rows, one.b.num_rows, one.meets) == (1, 1, True) for one in hunks)
    assert diff.agreeing + changed == count - 4  # marks and maps


def test_something_long_was_put_in(e1000: Path, tmp_path: Path) -> None:
    def insert(events: pa.Table) -> pa.Table:
        other = with_values(events.slice(1000, 3000), lambda value: np.add(value, 1 << 40, out=value))
        return pa.concat_tables([events.slice(0, 9000), other, events.slice(9000)])

    run = again(e1000, tmp_path / "t", insert)
    [hunk], _ = compare(e1000, run)
    assert (hunk.a.num_rows, hunk.b.num_rows, hunk.meets) == (0, 3000, True)


def test_json_of_equal_traces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_trace(tmp_path / "a", SAME)
    assert main(["diff", str(a), str(a), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {
        "equal": True, "agreeing": 5, "unknown": 1, "lost": [0, 0], "differences": [], "more": False,
    }  # fmt: skip


def test_values_that_only_one_pair_knows(tmp_path: Path) -> None:
    """Where one value is unknown, accesses are laid side by side without values, and the others still compared."""
    rows = [row(at, "write", 4, 0x8, at) for at in range(8)]
    a = write_trace(tmp_path / "a", [rows[0] | {"value": 9}, *rows[1:]])
    hidden = rows[3] | {"value": 0, "flags": layout.VALUE_UNKNOWN}
    b = write_trace(tmp_path / "b", [*rows[:3], hidden, *rows[4:6], rows[6] | {"value": 7}, rows[7]])
    hunks, diff = compare(a, b)
    assert [(one.number_a, one.a.num_rows, one.b.num_rows) for one in hunks] == [(0, 1, 1), (6, 1, 1)]
    assert (diff.agreeing, diff.unknown) == (6, 1)


def test_a_rule_that_makes_no_sense(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_trace(tmp_path / "a", SAME)
    assert main(["diff", str(a), str(a), "--ignore", "offset == "]) == 2
    assert "filter: column 11: expected a value" in capsys.readouterr().err


NUMBERS = st.lists(st.integers(0, 3), min_size=1, max_size=30)


@settings(deadline=None, max_examples=50)
@given(NUMBERS, NUMBERS, st.integers(1, 30))
def test_the_differences_make_b_of_a(a: list[int], b: list[int], part: int) -> None:
    """Whatever the traces are: A with each place replaced by what B has there is B."""
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for name, numbers in (("a", a), ("b", b)):
            rows = [row(time, "read", 4, 8, number) for time, number in enumerate(numbers)]
            parts = [rows[at : at + part] for at in range(0, len(rows), part)]
            paths.append(write_trace(Path(folder) / name, *parts))
        hunks, _ = compare(*paths)
    made: list[int] = []
    at = 0
    for hunk in hunks:
        made += a[at : hunk.number_a]
        assert len(made) == hunk.number_b
        only_a, only_b = values(hunk.a), values(hunk.b)
        assert a[hunk.number_a : hunk.number_a + len(only_a)] == only_a
        made += only_b
        at = hunk.number_a + len(only_a)
    assert made + a[at:] == b
    assert (hunks == []) == (a == b)
