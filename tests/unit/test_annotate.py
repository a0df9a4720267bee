"""``--regs`` and ``mmiotap annotate``: which descriptions, of which mappings."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from conftest import TIME_LIMIT, Run
from mmiotap.cli import main
from mmiotap.registers.load import Wanted
from mmiotap.trace import layout
from mmiotap.trace.arena import ArenaWriter
from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.model import Mapping
from recordings import abandon, new_recording
from synthetic import RING, UIO, row, write_trace

DEVICE = "addrmap device { reg { field {} EN[0:0]; field {} N[15:8]; } CTRL @0; reg { field {} D[31:0]; } DATA @4; };"
ROWS = [
    row(0, "write", 4, 0x0, 0x1201),
    row(1, "read", 4, 0x4, 7),
    row(2, "write", 4, 0x8, 1),
    row(3, "mark", text="x"),
]


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("device.rdl").write_text(DEVICE)
    return str(write_trace(tmp_path / "t", ROWS, mappings=[UIO]))


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    status = main(list(arguments))
    captured = capsys.readouterr()
    assert status == 0, captured.err
    return captured.out.splitlines()


def wrong(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 1) -> str:
    assert main(list(arguments)) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err.removeprefix("mmiotap: ").rstrip()


def test_lines(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "show", trace, "--regs", "device.rdl") == [
        "   0.000000000  100      write    4 1:uio0  0x00000 CTRL <- 0x00001201          {EN N=0x12}",
        "   0.000000001  100      read     4 1:uio0  0x00004 DATA -> 0x00000007",
        "   0.000000002  100      write    4 1:uio0  0x00008      <- 0x00000001",
        "   0.000000003  100      mark       x",
    ]


def test_columns(trace: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    expected = [("CTRL", "EN N=0x12"), ("DATA", None), (None, None), (None, None)]
    for command in ("show", "export"):
        assert main([command, trace, "--regs", "device.rdl", "--format", "jsonl"]) == 0
        objects = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
        assert [(each["register"], each["fields"]) for each in objects] == expected
        assert main([command, trace, "--regs", "device.rdl", "--format", "csv"]) == 0
        rows = list(csv.DictReader(io.StringIO(capfdbinary.readouterr().out.decode())))
        assert [(each["register"], each["fields"]) for each in rows] == [(a or "", b or "") for a, b in expected]
    assert main(["export", trace, "--regs", "device.rdl", "--format", "parquet", "-o", "out.parquet"]) == 0
    table = pq.read_table("out.parquet")
    assert list(zip(table["register"].to_pylist(), table["fields"].to_pylist(), strict=True)) == expected
    assert main(["export", trace, "--format", "jsonl"]) == 0
    assert b"register" not in capfdbinary.readouterr().out


def test_statistics(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", trace, "--regs", "device.rdl", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["offset"], one["register"]) for one in found["registers"]] == [(0, "CTRL"), (4, "DATA"), (8, None)]


def test_a_trace_remembers(trace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["annotate", trace, "--regs", "device.rdl@uio0+4"]) == 0
    assert "2 registers for 1 mapping" in capsys.readouterr().err
    (tmp_path / "device.rdl").unlink()
    assert [line[44:57].strip() for line in run(capsys, "show", trace, "--kind", "read,write")] == [
        "0x00000",
        "0x00004 CTRL",
        "0x00008 DATA",
    ]
    assert json.loads(run(capsys, "export", trace, "--format", "jsonl")[1])["register"] == "CTRL"
    lines = run(capsys, "annotate", trace)
    assert lines[1] == "device.rdl: 1:uio0 at +0x4"
    assert [line.split() for line in lines[2:]] == [
        ["offset", "width", "register", "access", "fields"],
        ["0x0", "4", "CTRL", "RW", "EN[0]", "N[15:8]"],
        ["0x4", "4", "DATA", "RW", "D[31:0]"],
    ]
    assert run(capsys, "show", trace, "--no-regs", "--limit", "1")[0].endswith("0x00000 <- 0x00001201")
    assert run(capsys, "annotate", trace, "--forget") == []
    assert main(["annotate", trace]) == 0
    assert "nothing names this trace's registers" in capsys.readouterr().err
    assert run(capsys, "show", trace, "--limit", "1")[0].endswith("0x00000 <- 0x00001201")


def test_a_merged_trace_remembers_what_its_sources_do(
    trace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each has names for its own mappings, from where they began in its own machine's device."""
    Path("other.rdl").write_text(DEVICE.replace("CTRL", "OTHER"))
    here, there = (
        {"address": "00:03.0", "domain": 0, "resources": [{"start": 0xFEBC0000 - before}]} for before in (0x10, 0x20)
    )
    first = str(write_trace(tmp_path / "a", ROWS[:3], mappings=[RING, UIO], pci_devices=[here]))
    second = str(write_trace(tmp_path / "b", ROWS[:3], mappings=[UIO], pci_devices=[there]))
    assert main(["annotate", first, "--regs", "device.rdl@uio0+0x14", "--regs", "device.rdl@uio0+0x18"]) == 0
    assert main(["annotate", second, "--regs", "other.rdl@uio0+0x24"]) == 0
    traces = [first, trace, second]
    places = [f"--offset={one}=0" for one in traces]
    assert main(["merge", *traces, *places, "-o", "c"]) == 0
    assert main(["merge", "c", trace, f"--offset={trace}=0", "-o", "d"]) == 0
    capsys.readouterr()

    def named(one: str, *words: str) -> list[tuple[int, str | None]]:
        lines = run(capsys, "show", one, "--format", "jsonl", "--kind", "read,write", *words)
        return [(json.loads(line)["offset"], json.loads(line).get("register")) for line in lines]

    for one, name in ((first, "a"), (second, "b")):
        assert {register for _, register in named(one)} > {None}
        assert named("c", "--source", name) == named(one)
        assert named("d", "--source", f"c/{name}") == named(one)
    assert {register for _, register in named("c", "--source", "t")} == {None}
    assert "registers:   device.rdl@uio0+0x14, device.rdl@uio0+0x18, other.rdl@uio0+0x24" in run(capsys, "info", "d")


def test_a_description_of_a_mapping_that_never_came_is_said_before_merging(
    trace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["annotate", trace, "--regs", "device.rdl@uio0"]) == 0
    (tmp_path / "t" / "mappings.jsonl").write_text("")
    capsys.readouterr()
    assert "no mapping is 'uio0'" in wrong(capsys, "merge", trace, trace, "-o", "c")
    assert not Path("c").exists()


def test_info_tells_it(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert not any("registers" in line for line in run(capsys, "info", trace))
    assert main(["annotate", trace, "--regs", "device.rdl@uio0+4", "--regs", "edu"]) == 0
    assert "registers:   device.rdl@uio0+4, edu" in run(capsys, "info", trace)


def test_mmiotrace_has_no_names(trace: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["export", trace, "--format", "mmiotrace"]) == 0
    plain = capfdbinary.readouterr().out
    assert main(["export", trace, "--format", "mmiotrace", "--regs", "device.rdl"]) == 0
    assert capfdbinary.readouterr().out == plain


def test_a_trace_that_says_little_of_its_devices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "device.rdl").write_text(DEVICE)
    for number, devices in enumerate(([{}], [{"address": "00:03.0", "domain": 0}], [{"address": UIO.device}])):
        trace = write_trace(tmp_path / f"t{number}", ROWS, mappings=[UIO], pci_devices=devices)
        assert "CTRL" in run(capsys, "show", str(trace), "--regs", str(tmp_path / "device.rdl"))[0]
        assert "CTRL" not in run(capsys, "show", str(trace))[0]


def test_what_was_asked_for_is_before_what_is_remembered(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("other.rdl").write_text(DEVICE.replace("CTRL", "OTHER"))
    assert main(["annotate", trace, "--regs", "device.rdl"]) == 0
    capsys.readouterr()
    assert "OTHER" in run(capsys, "show", trace, "--regs", "other.rdl", "--limit", "1")[0]


@pytest.mark.parametrize("content", ["", "{}", '{"format": 1, "descriptions": [{}]}', "[1]"])
def test_a_damaged_memory(trace: str, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(trace, "registers.json").write_text(content)
    assert "registers.json is damaged; make it again with mmiotap annotate" in wrong(capsys, "show", trace)
    Path(trace, "registers.json").write_text('{"format": 2, "descriptions": []}')
    assert "newer mmiotap" in wrong(capsys, "show", trace)


def test_of_which_mapping(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("device.rdl").write_text(DEVICE)
    again = Mapping(3, 100, UIO.path, 0, 0x1000, 0, "rw", UIO.device, 0, UIO.physical)
    rows = [row(0, "write", 4, 0, 1), row(1, "write", 4, 0, 1, map_id=2), row(2, "write", 4, 0, 1, map_id=3)]
    trace = str(write_trace(tmp_path / "t", rows, mappings=[UIO, RING, again]))

    def named(regs: str) -> list[bool]:
        return ["CTRL" in line for line in run(capsys, "show", trace, "--regs", regs)]

    assert named("device.rdl@1") == [True, False, False]
    assert named("device.rdl@uio*") == [True, False, True]
    assert named("device.rdl@0000:00:03.0") == [True, False, True]
    assert named("device.rdl@[io_uring]") == [False, True, False]
    which = (
        "--regs device.rdl: of which mapping is it? FILE@MAP; there are 1 (/dev/uio0), 2 (anon_inode:[io_uring]), 3 "
    )
    assert wrong(capsys, "show", trace, "--regs", "device.rdl").startswith(which)
    assert "no mapping is 'x'; there are 1 (/dev/uio0)" in wrong(capsys, "show", trace, "--regs", "device.rdl@x")


@pytest.mark.parametrize(
    ("mapping", "position"),
    [
        (Mapping(1, 1, "/sys/bus/pci/devices/0000:00:04.0/resource0", 0, 0x1000, 0x4, "rw"), 4),
        (Mapping(1, 1, "/dev/uio0", 0, 0x1000, 0x1000, "rw", "0000:00:04.0", 0, 0xFE000004), 4),
        (Mapping(1, 1, "/dev/mem", 0, 0x1000, 0xFE000000, "rw", "0000:00:04.0", 0, 0xFE000000), 0),
        (Mapping(1, 1, "/dev/uio0", 0, 0x1000, 0x1000, "rw"), 0),
    ],
)
def test_a_mapping_that_begins_within_its_bar(
    tmp_path: Path, mapping: Mapping, position: int, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "device.rdl").write_text(DEVICE)
    device = {"address": "00:04.0", "domain": 0, "vendor": 1, "device": 2, "irq": 0, "driver": ""}
    device["resources"] = [{"start": 0xFE000008, "size": 0x1000}] + [{"start": 0, "size": 0}] * 6
    trace = write_trace(tmp_path / "t", [row(0, "read", 4, 0)], mappings=[mapping], pci_devices=[device])
    [line] = run(capsys, "show", str(trace), "--regs", str(tmp_path / "device.rdl"))
    assert line.split()[-3] == {0: "CTRL", 4: "DATA"}[position]


def test_how_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Wanted.parse("a.rdl@uio0+0x10") == Wanted(Path("a.rdl"), None, "uio0", 0x10)
    assert Wanted.parse("a.rdl@1+-16") == Wanted(Path("a.rdl"), None, "1", -16)
    assert Wanted.parse("a.svd:UART0@1") == Wanted(Path("a.svd"), "UART0", "1", 0)
    assert Wanted.parse("a.rdl@0000:00:03.0") == Wanted(Path("a.rdl"), None, "0000:00:03.0", 0)
    assert Wanted.parse("e1000@1").file.name == "e1000.rdl"
    for name in ("with@at.rdl", "with:colon.rdl", "e1000"):
        Path(name).touch()
        assert Wanted.parse(name) == Wanted(Path(name))
    assert Wanted.parse("with@at.rdl@2") == Wanted(Path("with@at.rdl"), None, "2")
    assert Wanted.parse("with:colon.rdl:part") == Wanted(Path("with:colon.rdl"), "part")
    for text in ("a.rdl@", "@1", ""):
        with pytest.raises(MmiotapError, match="--regs"):
            Wanted.parse(text)


RDL_ERRORS = {
    "syntax": ("addrmap a {\n  reg { field {} x[0:0] } y;\n};", "device.rdl, line 2: missing ';'"),
    "what the compiled parser cannot tell": (
        "addrmap a {\n reg {\n  field {} x[0:];\n } y;\n};",
        "device.rdl, line 3: ",
    ),
    "overlap": (
        "addrmap a {\n reg { field {} x[0:0]; } y @0;\n reg { field {} x[0:0]; } z @2;\n};",
        "device.rdl, line 3: Instance 'z' at offset +0x2:0x5 overlaps with 'y' at offset +0x0:0x3",
    ),
    "fields": (
        "addrmap a {\n reg {\n  field {} x[3:0];\n  field {} z[5:3];\n } y @0;\n};",
        "device.rdl, line 4: Field 'z[5:3]' overlaps with field 'x[3:0]'",
    ),
    "beyond": ("addrmap a {\n reg { field {} x[32:30]; } y @0;\n};", "device.rdl, line 2: High bit (32) of field 'x'"),
    "unknown field": (
        "addrmap a {\n reg { field {} x[0:0]; } y @0;\n y.nothing->sw = r;\n};",
        "device.rdl, line 3: Could not resolve",
    ),
    "value": (
        "addrmap a {\n enum e { A = 4; };\n reg {\n  field { encode = e; } x[1:0];\n } y @0;\n};",
        "device.rdl, line 4: Field 'x' is not wide enough",
    ),
    "empty": ("", "device.rdl: Could not find any 'addrmap'"),
    "missing": ('`include "none.rdl"\n', "device.rdl, line 1: Could not find 'none.rdl'"),
    "recursive": ('\n`include "device.rdl"\n', "device.rdl, line 2: Include of 'device.rdl' results in a circular"),
    "perl": ("addrmap a {\n<% print 'x'; %>\n};", "device.rdl, line 2: it has a Perl program in it"),
    "far": (
        "addrmap a {\n\n reg { field {} x[0:0]; } y @0xfffffffffffffffe;\n};",
        "device.rdl, line 3: y is at 0xffff",
    ),
    "binary": ("\0\ufffd", "device.rdl, line 1:"),
}


@pytest.mark.parametrize("case", RDL_ERRORS)
def test_wrong_systemrdl_is_one_line(trace: str, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    content, expected = RDL_ERRORS[case]
    Path("device.rdl").write_text(content)
    assert wrong(capsys, "show", trace, "--regs", "device.rdl").startswith(expected)
    assert wrong(capsys, "annotate", trace, "--regs", "device.rdl").startswith(expected)
    assert not Path(trace, "registers.json").exists()


def test_perl_in_an_included_file_is_refused_there(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("inner.rdl").write_text("/* <% in a comment %> */\n// <% too %>\n<%= 1 %>")
    Path("device.rdl").write_text('`include "inner.rdl"\n' + DEVICE)
    assert wrong(capsys, "show", trace, "--regs", "device.rdl").startswith("inner.rdl, line 3: it has a Perl program")


def test_perl_runs_when_it_is_asked_for(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("device.rdl").write_text(DEVICE.replace("CTRL", "<%='CT'.'RL'%>"))
    assert "CTRL" in run(capsys, "show", trace, "--regs", "device.rdl", "--perl", "--limit", "1")[0]


def test_other_wrong_files(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert wrong(capsys, "show", trace, "--regs", "no.rdl") == "no.rdl: No such file or directory"
    assert wrong(capsys, "show", trace, "--regs", ".") == ".: Is a directory"
    assert wrong(capsys, "annotate", trace, "--regs", "device.rdl", "--forget", status=2).startswith(
        "--regs and --forget"
    )
    Path("device.rdl").write_text(DEVICE)
    assert wrong(capsys, "show", trace, "--regs", "device.rdl:b").startswith(
        "device.rdl: Elaboration target 'b' not found"
    )


def test_our_colours_stay_ours(trace: str, tmp_path: Path) -> None:
    """systemrdl-compiler brings colorama, which replaces standard output and writes at the end."""
    code = (
        "import sys; before = sys.stdout, sys.stderr\n"
        "from mmiotap.cli import main\n"
        f"assert main(['show', {trace!r}, '--regs', 'device.rdl', '--limit', '0']) == 0\n"
        "assert 'colorama' in sys.modules and (sys.stdout, sys.stderr) == before"
    )
    ours, theirs = os.openpty()
    command = [sys.executable, "-c", code]
    subprocess.run(command, stdout=theirs, cwd=tmp_path, check=True, timeout=TIME_LIMIT)
    os.write(theirs, b"end")
    assert os.read(ours, 100) == b"end"
    os.close(ours)
    os.close(theirs)


def test_a_reader_that_goes_away(mmiotap: Run, trace: str, tmp_path: Path) -> None:
    assert mmiotap("annotate", trace, "--regs", "nvme").status == 0
    process = subprocess.run(
        f"{sys.executable} -m mmiotap annotate {trace} | head -n 3",
        shell=True, capture_output=True, text=True, timeout=TIME_LIMIT, check=False,
    )  # fmt: skip
    assert (process.stderr, process.stdout.count("\n")) == ("", 3)


def test_a_trace_that_is_still_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What maps come later are named, too; and a crash, or recovering from it, takes no names away."""
    (tmp_path / "device.rdl").write_text(DEVICE)
    arena = new_recording(tmp_path / "t", segments=1)
    assert main(["annotate", str(tmp_path / "t"), "--regs", str(tmp_path / "device.rdl")]) == 0
    assert "2 registers for 0 mappings" in capsys.readouterr().err
    thread = ArenaWriter(arena, pid=1, tid=1)
    thread.write(layout.MAP, time_ns=1, map_id=1, value=0x1000, extra=bytes(24) + b"/dev/uio0")
    thread.write(layout.WRITE, time_ns=2, map_id=1, offset=0, width=4, value=1)
    assert "CTRL <- 0x00000001          {EN}" in run(capsys, "show", str(tmp_path / "t"), "--kind", "write")[0]
    abandon(tmp_path / "t")
    assert main(["recover", str(tmp_path / "t")]) == 0
    capsys.readouterr()
    assert "CTRL <- 0x00000001          {EN}" in run(capsys, "show", str(tmp_path / "t"), "--kind", "write")[0]
