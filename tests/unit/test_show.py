"""``mmiotap show``: exact lines, filters, and a reader that goes away."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from conftest import MMIOTAP, TIME_LIMIT, Run
from mmiotap.analysis import select
from mmiotap.cli import main
from mmiotap.trace import layout
from mmiotap.trace.model import Mapping, Process
from synthetic import DRIVER, UIO, row, write_trace

EVERY_KIND = [
    row(0, "map", value=UIO.address, text=json.dumps(UIO.to_json())),
    row(1_000, "read", 4, 0x8, 0x80080783, took=1_250, pc=0x401000),
    row(1_500, "write", 1, 0x20, 5, flags=layout.RMW | layout.LOCKED, took=90),
    row(2_000, "write", 2, 0x1FFFE, flags=layout.VALUE_UNKNOWN | layout.REASON_LOCKED << layout.REASON_SHIFT),
    row(2_500, "write", 16, 0x40, 0x0706050403020100, data=bytes(range(16)), flags=layout.NONTEMPORAL),
    row(3_000, "read", 8, 0x100, 0xAB, map_id=2, tid=101, flags=layout.PATCHED | layout.STRING),
    row(4_000_000, "mark", map_id=0, text="reset\x1b[2J \N{LATIN SMALL LETTER E WITH ACUTE}"),
    row(4_000_001, "lost", map_id=0, value=3),
    row(2_000_000_000, "unknown", 0, 0x10, data=b"\x0f\xae\x07", flags=layout.STEPPED),
    row(12_000_000_000, "unmap", value=UIO.length, text=json.dumps(UIO.to_json())),
]

LINES = r"""
   0.000000000  100      map        1:uio0        /dev/uio0 at 0x7f0000000000, length 0x20000, file offset 0x0, rw, device 0000:00:03.0, BAR 0, physical 0xfebc0000
   0.000001000  100      read     4 1:uio0        0x00008 -> 0x80080783            1.25us  0x401000
   0.000001500  100      write    1 1:uio0        0x00020 <- 0x05                    90ns  [locked rmw]
   0.000002000  100      write    2 1:uio0        0x1fffe <- ?                   [value unknown: this locked instruction does not return it]
   0.000002500  100      write   16 1:uio0        0x00040 <- 00010203 04050607 08090a0b 0c0d0e0f  [nontemporal]
   0.000003000  101      read     8 2:[io_uring]  0x00100 -> 0x00000000000000ab  [string]
   0.004000000  100      mark       reset\x1b[2J é
   0.004000001  100      lost       3 events were lost here
   2.000000000  100      unknown  ? 1:uio0        0x00010  ? instruction 0f ae 07  [stepped]
  12.000000000  100      unmap      1:uio0        0x00000 length 0x20000
"""[1:]  # noqa: E501


@pytest.fixture
def trace(tmp_path: Path) -> str:
    return str(write_trace(tmp_path / "t", EVERY_KIND[:4], EVERY_KIND[4:]))


def show(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """Run it in this process and return the lines."""
    assert main(["show", *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out.splitlines()


def test_every_kind_of_line(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(capsys, trace) == LINES.splitlines()


@pytest.mark.parametrize(
    ("arguments", "rows"),
    [
        ("--kind write", [2, 3, 4]),
        ("--kind mark,lost", [6, 7]),
        ("--map 2", [5]),
        ("--map *uring*", [5]),
        ("--map /dev/*", [0, 1, 2, 3, 4, 8, 9]),
        ("--map uio0 --map 2 --kind read", [1, 5]),
        ("--offset 0x10..0x20", [2, 8]),
        ("--offset 64", [4]),
        ("--offset ..8", [1]),
        ("--offset 0x100..", [3, 5]),
        ("--offset 0..0xffffffffffffffff", [1, 2, 3, 4, 5, 8]),
        ("--tid 101", [5]),
        ("--tid 99999999999", []),
        ("--time 1.5us..2500ns", [2, 3, 4]),
        ("--time 2..", [8, 9]),
        ("--time ..0.000001", [0, 1]),
        ("--time 4ms..2000ms", [6, 7, 8]),
        ("--limit 2", [0, 1]),
        ("--limit 5", [0, 1, 2, 3, 4]),
        ("--limit 0", []),
        ("--kind read --limit 1", [1]),
    ],
)
def test_filters(trace: str, capsys: pytest.CaptureFixture[str], arguments: str, rows: list[int]) -> None:
    lines = LINES.splitlines()
    assert show(capsys, trace, *arguments.split()) == [lines[index] for index in rows]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--kind", "reed"], "--kind: 'reed' is no kind of event; kinds are read, write, map,"),
        (["--map", "7"], "--map: no mapping is '7'; the trace has /dev/uio0, anon_inode:[io_uring]"),
        (["--map", "/dev/*/x"], "--map: no mapping is '/dev/*/x'; the trace has"),
        (["--offset", "0x"], "--offset: cannot make sense of '0x'; write A..B or A"),
        (["--offset", ".."], "--offset: cannot make sense of '..'"),
        (["--offset", "8..4"], "--offset: '8..4' ends before it begins"),
        (["--offset", "0x10000000000000000"], "--offset: cannot make sense of"),
        (["--time", "1.5"], "--time: cannot make sense of '1.5'; write A..B"),
        (["--time", "1..2h"], "--time: cannot make sense of '1..2h'"),
        (["--time", "1..2ms"], "--time: '1..2ms' ends before it begins"),
        (["--limit", "-1"], "--limit: a number of events cannot be negative"),
    ],
)
def test_wrong_filters(trace: str, capsys: pytest.CaptureFixture[str], arguments: list[str], why: str) -> None:
    assert main(["show", trace, *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"mmiotap: {why}")
    assert captured.err.count("\n") == 1


def test_process_ids_when_there_are_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    processes = [DRIVER, Process(200, 100, "/opt/helper")]
    path = write_trace(tmp_path / "t", [row(0, "read", 1, pid=200, tid=201)], mappings=[UIO], processes=processes)
    assert show(capsys, str(path)) == ["   0.000000000  200/201          read     1 1:uio0  0x00000 -> 0x00"]


def test_glob_is_literal_but_for_stars_and_question_mark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mappings = [
        Mapping(1, 100, "/sys/devices/a/resource0", 0, 16, 0, "rw", None, None, None, 0),
        Mapping(2, 100, "/sys/resource1", 0, 16, 0, "rw", None, None, None, 0),
        Mapping(3, 100, "anon_inode:[x]", 0, 16, 0, "rw", None, None, None, 0),
    ]
    rows = [row(index, "read", 1, map_id=index) for index in (1, 2, 3)]
    path = str(write_trace(tmp_path / "t", rows, mappings=mappings))

    def ids(glob: str) -> list[str]:
        return [line.split()[4].partition(":")[0] for line in show(capsys, path, "--map", glob)]

    assert ids("/sys/**/resource?") == ["1"]
    assert ids("/sys/*") == ["2"]
    assert ids("/sys/**") == ["1", "2"]
    assert ids("[x]") == ["3"]
    assert ids("resource*") == ["1", "2"]


def test_limit_asks_for_no_more_than_it_needs() -> None:
    """A trace may hold a billion events; the first ten come from its first part."""
    asked = []

    def tables() -> Iterator[pa.Table]:
        for number in range(1000):
            asked.append(number)
            yield pa.table({"x": [number] * 4})

    rows = [value for table in select.limited(tables(), 8) for value in table["x"].to_pylist()]
    assert rows == [0] * 4 + [1] * 4
    assert asked == [0, 1]


def test_jsonl_has_the_filtered_events(trace: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["show", trace, "--kind", "read", "--limit", "1", "--format", "jsonl"]) == 0
    (line,) = capfdbinary.readouterr().out.splitlines()
    event = json.loads(line)
    assert (event["kind"], event["offset"], event["width"]) == ("read", 8, 4)


@pytest.mark.parametrize("form", ["text", "jsonl", "csv"])
def test_a_reader_that_goes_away_ends_it_quietly(tmp_path: Path, form: str) -> None:
    rows = [row(index, "write", 4, 4 * index % 4096, index) for index in range(50_000)]
    path = write_trace(tmp_path / "t", rows)
    process = subprocess.Popen(
        [*MMIOTAP, "show", path, "--format", form], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        assert process.stdout.readline() != ""
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(TIME_LIMIT) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_colour_only_on_a_terminal_that_wants_it(trace: str, environment: dict[str, str], coloured: bool) -> None:
    plain = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm"}
    ours, theirs = pty.openpty()
    command = [*MMIOTAP, "show", trace, "--kind", "read", "--limit", "1"]
    subprocess.run(command, stdout=theirs, env=plain | environment, check=True, timeout=TIME_LIMIT)
    os.close(theirs)
    written = os.read(ours, 4096).decode().rstrip("\r\n")
    os.close(ours)
    line = LINES.splitlines()[1]
    assert written == (f"\x1b[36m{line}\x1b[0m" if coloured else line)


def test_text_that_the_output_cannot_encode(trace: str, mmiotap: Run) -> None:
    result = mmiotap("show", trace, "--kind", "mark", env={"PYTHONIOENCODING": "ascii"})
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout.endswith("reset\\x1b[2J \\xe9\n")


FOLDED = [
    *[row(at, "read", 4, 0x8, value) for at, value in enumerate([0x80080781, 0x80080781, 0x80080783])],
    row(10, "read", 4, 0x0, 0x140240),
    row(15, "write", 4, 0x0, 0x140241),
    *[row(20 + at, "write", 4, 0x5200 + 4 * at, 0) for at in range(128)],
    row(200, "mark", text="done"),
]
FOLDED_TEXT = """\
   0.000000000  100      read     4 1:uio0        0x00008 STATUS           -> 0x80080783          {FD LU SPEED=MBIT1000 ASDV=3 ?=0x80080400}  [3 reads in 2ns, until LU]
   0.000000015  100      write    4 1:uio0        0x00000 CTRL             <- 0x00140241          {FD SLU SPEED=MBIT1000 SDP0_DATA ADVD3WUC}  [read-modify-write: +FD]
   0.000000020  100      write    4 1:uio0        0x05200 MTA[0]           <- 0x00000000  [128 writes in 127ns, to 0x53fc]
   0.000000200  100      mark       done
"""  # noqa: E501


def test_folded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write_trace(tmp_path / "t", FOLDED))
    assert main(["show", path, "--fold", "--regs", "e1000@*uio0"]) == 0
    assert capsys.readouterr().out == FOLDED_TEXT
    assert main(["show", path, "--fold", "--no-regs", "--limit", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("  [")[2] for line in lines] == [
        "3 reads in 2ns, until value & 0x2 == 0x2]",
        "read-modify-write: +0x1]",
    ]
    assert main(["show", path, "--fold", "--json"]) == 2
    assert "--fold is for reading" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["show", "stats", "info"])
@pytest.mark.parametrize("content", [None, b"", b"not a trace\n"])
def test_what_is_no_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, content: bytes | None
) -> None:
    """Nothing there, an empty file, a foreign file."""
    path = tmp_path / "foreign"
    if content is not None:
        path.write_bytes(content)
    assert main([command, str(path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("mmiotap: ")
    assert str(path) in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("command", ["show", "stats"])
def test_a_truncated_part(trace: str, capsys: pytest.CaptureFixture[str], command: str) -> None:
    part = sorted(Path(trace, "events").glob("*.parquet"))[0]
    os.truncate(part, part.stat().st_size // 2)
    assert main([command, trace]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("mmiotap: ")
    assert part.name in captured.err
    assert captured.err.count("\n") == 1


def test_help_is_light() -> None:
    """Declaring arguments loads nothing heavy."""
    code = (
        "import sys, argparse; from mmiotap.cli import show, stats, info\n"
        "for module in (show, stats, info): module.add_arguments(argparse.ArgumentParser())\n"
        "print([name for name in ('numpy', 'pyarrow', 'rich', 'elftools') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TIME_LIMIT)
    assert result.stdout == "[]\n"
