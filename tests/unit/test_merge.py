"""``mmiotap merge``: one clock, nothing mixed up, nothing lost."""

import json
from pathlib import Path
from typing import Any

import pytest

from mmiotap.analysis.diff import Diff
from mmiotap.cli import main
from mmiotap.trace import combine
from mmiotap.trace.model import Module, Process, Site
from mmiotap.trace.reader import open_trace
from mmiotap.trace.schema import EVENTS
from mmiotap.views.lines import COLUMNS
from synthetic import START, UIO, row, write_trace

KERNEL = [row(10, "read", 4, 8, 1, tid=7, pid=7), row(30, "mark", map_id=0, text="go"), row(50, "write", 4, 8, 2)]
AGENT = [
    row(0, "map", text=json.dumps(UIO.to_json())),
    row(20, "read", 2, 4, 3),
    row(30, "mark", map_id=0, text="go"),
    row(40, "lost", map_id=0, value=5),
    row(60, "write", 16, 4, 1, data=bytes(16), map_id=2),
]
BOOT: dict[str, Any] = {"boot_id": "one"}


def merged(folder: Path, *words: str | Path) -> list[dict[str, Any]]:
    assert main(["merge", *map(str, words), "-o", str(folder / "c.mmiotap")]) == 0
    return open_trace(folder / "c.mmiotap").events().to_pylist()


def test_of_one_boot_times_are_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_trace(tmp_path / "a.mmiotap", KERNEL, **BOOT)
    b = write_trace(tmp_path / "b.mmiotap", AGENT[:3], AGENT[3:], **BOOT)
    rows = merged(tmp_path, a, b)
    assert [(one["time_ns"] - START, one["source"], one["kind"]) for one in rows] == [
        (0, "b", "map"),
        (10, "a", "read"),
        (20, "b", "read"),
        (30, "a", "mark"),
        (30, "b", "mark"),
        (40, "b", "lost"),
        (50, "a", "write"),
        (60, "b", "write"),
    ]
    trace = open_trace(tmp_path / "c.mmiotap")
    assert (trace.state, trace.count, trace.lost, trace.sources) == ("finished", 8, 5, ["a", "b"])
    assert [one["offset_from"] for one in trace.info["sources"]] == ["boot", "boot"]
    assert "b: +0.000000000 s, the same clock" in capsys.readouterr().err


def test_ids_are_kept_apart(tmp_path: Path) -> None:
    """Mappings always; processes and what belongs to them where the machines differ."""
    module, site = Module(100, "/opt/driver", 0x400000, 0x500000, 0, "ab"), Site(100, 0x401000, 4, "jump", 4, "90", 5)
    rest: dict[str, Any] = {"modules": [module], "sites": [site]}
    a = write_trace(tmp_path / "a", KERNEL, **rest, **BOOT)
    b = write_trace(tmp_path / "b", AGENT, **rest, **BOOT)
    c = write_trace(tmp_path / "c", AGENT, **rest, boot_id="two")
    other = Process(100, 1, "/opt/other")
    d = write_trace(tmp_path / "d", AGENT, processes=[other], **BOOT)
    rows = merged(tmp_path, a, b, c, d)
    bases = {"a": 0, "b": 0, "c": combine.PID_STRIDE, "d": 2 * combine.PID_STRIDE}
    for name, own in (("a", KERNEL), ("b", AGENT), ("c", AGENT), ("d", AGENT)):
        first = "abcd".index(name) * 2
        got = [one for one in rows if one["source"] == name]
        for one, was in zip(got, own, strict=True):
            assert one["map_id"] == (was["map_id"] and was["map_id"] + first)
            assert (one["pid"], one["tid"]) == (was["pid"] + bases[name], was["tid"] + bases[name])
            kept = set(EVENTS.names) - {"map_id", "pid", "tid", "text"}
            assert {key: one[key] for key in kept} == {key: was[key] for key in kept}
    trace = open_trace(tmp_path / "c.mmiotap")
    assert [one.map_id for one in trace.mappings] == list(range(1, 9))
    assert (
        {one.pid for one in trace.processes}
        == {one.pid for one in trace.mappings}
        == {100 + one for one in bases.values()}
    )
    assert {one.pid for one in trace.modules} == {one.pid for one in trace.sites} == {100, 100 + bases["c"]}
    told = [json.loads(one["text"]) for one in rows if one["kind"] == "map"]
    assert [(one["map_id"], one["pid"]) for one in told] == [(3, 100), (5, 100 + bases["c"]), (7, 100 + bases["d"])]


def test_a_program_is_the_same_by_the_name_of_its_task(tmp_path: Path) -> None:
    """The kernel knows the start of its name, the agent where it lies."""
    long = [Process(100, 1, "/usr/bin/a-driver-of-many-words")]
    a = write_trace(tmp_path / "a", KERNEL, processes=[Process(100, 0, "a-driver-of-man")], **BOOT)
    b = write_trace(tmp_path / "b", AGENT, processes=long, **BOOT)
    merged(tmp_path, a, b)
    assert [one["pid_base"] for one in open_trace(tmp_path / "c.mmiotap").info["sources"]] == [0, 0]


def test_a_task_without_a_name_is_the_program_that_another_trace_knows(tmp_path: Path) -> None:
    """Where nobody knows it, it stays."""
    a = write_trace(tmp_path / "a", KERNEL, processes=[Process(100, 0, ""), Process(7, 0, "")], **BOOT)
    b = write_trace(tmp_path / "b", AGENT, **BOOT)
    merged(tmp_path, a, b)
    trace = open_trace(tmp_path / "c.mmiotap")
    assert {one["pid_base"] for one in trace.info["sources"]} == {0}
    assert [(one.pid, one.executable) for one in trace.processes] == [(7, ""), (100, "/opt/driver")]


def test_what_is_merged_can_be_taken_apart_again(tmp_path: Path) -> None:
    a = write_trace(tmp_path / "a", KERNEL, **BOOT)
    b = write_trace(tmp_path / "b", AGENT, **BOOT)
    merged(tmp_path, a, b)
    both = open_trace(tmp_path / "c.mmiotap")
    for path, ids in ((a, ["1", "2"]), (b, ["3", "4"])):
        diff = Diff(open_trace(path), both, COLUMNS, maps_b=ids)
        assert list(diff.hunks()) == []
        assert diff.agreeing == 2


@pytest.mark.parametrize(("shift", "jitter"), [(5_000, 0), (-2_000_000_000, 300)])
def test_clocks_are_told_by_marks(tmp_path: Path, shift: int, jitter: int) -> None:
    """Of the pairs the middle one; texts that are not as often in the other trace tell nothing."""
    marks = [row(time, "mark", map_id=0, text=text) for time, text in ((100, "x"), (200, "x"), (300, "y"), (400, "z"))]
    late = [
        one | {"time_ns": one["time_ns"] + shift + jitter * (number == 1), "map_id": 0}
        for number, one in enumerate(marks)
    ]
    a = write_trace(tmp_path / "a", [*marks, row(450, "mark", map_id=0, text="z")])
    b = write_trace(tmp_path / "b", late)
    rows = merged(tmp_path, a, b)
    [_, source] = open_trace(tmp_path / "c.mmiotap").info["sources"]
    wanted = {"offset_ns": -shift, "offset_from": "marks", "marks": 3, "spread_ns": jitter}
    assert wanted.items() <= source.items()
    assert [one["time_ns"] - START for one in rows if one["text"] == "y"] == [300, 300]


def test_a_clock_may_be_told_by_way_of_another(tmp_path: Path) -> None:
    marks = {name: row(100 * at, "mark", map_id=0, text=name) for at, name in enumerate("uvw")}
    a = write_trace(tmp_path / "a", [marks["u"]])
    c = write_trace(tmp_path / "x", [marks["w"]])
    b = write_trace(tmp_path / "b", [marks["u"] | {"time_ns": START + 7}, marks["w"]])
    rows = merged(tmp_path, a, c, b)
    assert [(one["source"], one["time_ns"] - START) for one in rows] == [("a", 0), ("b", 0), ("x", 193), ("b", 193)]


def test_a_clock_that_nothing_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write_trace(tmp_path / "a", KERNEL, **BOOT), write_trace(tmp_path / "b", AGENT[3:], boot_id="two")
    target = tmp_path / "c.mmiotap"
    assert main(["merge", str(a), str(b), "-o", str(target)]) == 1
    assert f"nothing tells how far the clock of {b} is" in capsys.readouterr().err
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a", "b"]
    assert main(["merge", str(a), str(b), "-o", str(target), "--offset", f"{b}=-1.5us"]) == 0
    times = [one["time_ns"] - START for one in open_trace(target).events().to_pylist() if one["source"] == "b"]
    assert times == [40 - 1500, 60 - 1500]


def test_merging_what_is_merged(tmp_path: Path) -> None:
    a, b = write_trace(tmp_path / "a", KERNEL, **BOOT), write_trace(tmp_path / "b", AGENT, **BOOT)
    merged(tmp_path, a, b)
    d = write_trace(tmp_path / "d", AGENT, **BOOT)
    assert main(["merge", str(tmp_path / "c.mmiotap"), str(d), "-o", str(tmp_path / "e")]) == 0
    trace = open_trace(tmp_path / "e")
    assert trace.sources == ["c/a", "c/b", "d"]
    assert set(trace.events(["source"])["source"].to_pylist()) == {"c/a", "c/b", "d"}
    assert len(trace.mappings) == 6


def test_traces_of_one_name_get_two(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    a, b = write_trace(tmp_path / "t", KERNEL, **BOOT), write_trace(tmp_path / "x" / "t", AGENT, **BOOT)
    merged(tmp_path, a, b)
    assert open_trace(tmp_path / "c.mmiotap").sources == ["t", "t-2"]


def test_large_traces_are_merged_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(combine, "PART_ROWS", 100)
    many = [[row(1000 * part + at, "read", 4, at, part) for at in range(0, 1000, 10)] for part in range(6)]
    a, b = write_trace(tmp_path / "a", *many[::2], **BOOT), write_trace(tmp_path / "b", *many, **BOOT)
    rows = merged(tmp_path, a, b)
    assert len(list((tmp_path / "c.mmiotap" / "events").iterdir())) > 3
    times = [one["time_ns"] for one in rows]
    assert times == sorted(times)
    assert len(rows) == 900


def test_show_and_formats_say_the_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write_trace(tmp_path / "a", KERNEL, **BOOT), write_trace(tmp_path / "driver", AGENT, **BOOT)
    merged(tmp_path, a, b)
    target = str(tmp_path / "c.mmiotap")
    capsys.readouterr()
    assert main(["show", target, "--kind", "read"]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["a", "driver"]
    assert main(["show", target, "--source", "driver", "--format", "jsonl"]) == 0
    assert [json.loads(line)["source"] for line in capsys.readouterr().out.splitlines()] == ["driver"] * 5
    assert main(["export", target, "--format", "csv", "-o", str(tmp_path / "csv")]) == 0
    header, first, *_ = (tmp_path / "csv").read_text().splitlines()
    assert (header.split(",")[-1], first.split(",")[-1]) == ("source", '"driver"')
    assert main(["show", target, "--source", "other"]) == 2
    assert main(["show", str(a), "--source", "a"]) == 2
    assert "only a merged trace has some" in capsys.readouterr().err
    for command in ("info", "stats"):
        assert main([command, target]) == 0
    assert "driver" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [["a"], ["a", "b", "--offset", "x=1"], ["a", "b", "--offset", "1"], ["a", "b", "--offset", "b=soon"]]
)
def test_wrong_usage(words: list[str]) -> None:
    assert main(["merge", *words, "-o", "c"]) == 2


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write_trace(tmp_path / "a", KERNEL, **BOOT), write_trace(tmp_path / "b", AGENT, **BOOT)
    assert main(["merge", str(a), str(b), "-o", str(b)]) == 1
    assert main(["merge", str(a), str(b), "-f", "-o", str(b)]) == 1
    assert "one of the traces that are merged" in capsys.readouterr().err
    assert open_trace(b).count == len(AGENT)
    merged(tmp_path, a, b)
    assert main(["merge", str(a), str(b), "-o", str(tmp_path / "c.mmiotap")]) == 1
    assert main(["merge", str(a), str(b), "-f", "-o", str(tmp_path / "c.mmiotap")]) == 0
