"""``mmiotap sites``: who accesses, how often, and how it is patched or why not."""

import csv
import io
import json
from pathlib import Path

import pytest

from conftest import Compile, Run
from mmiotap.analysis.instructions import instruction_text
from mmiotap.cli import main
from mmiotap.trace import layout
from mmiotap.trace.model import SITE_REASONS, SITE_STATES, Module, Process, Site
from mmiotap.views.sites import HOW, WHY, how_text
from synthetic import DRIVER, START, row, write_trace
from test_symbols import module, nm

SITES = [
    Site(100, 0x401000, 4, "seen", 1, "8902", START + 1),
    Site(100, 0x402000, 4, "trapped", 1, "f0834a0801", START + 2, "instruction"),
    Site(100, 0x401000, 4, "punned", 4, "8902", START + 4),
    Site(100, 0x403000, 8, "back", 4, "488b05d42e0000", START + 5, "ordinary"),
    Site(100, 0x404000, 1, "jump", 4, "c6420801909090", START + 6),  # the bytes of more than one instruction
]
FIRST = [
    row(0, "map"),
    *(row(time, "write", 4, 0x8, pc=0x401000) for time in range(1, 5)),
    *(row(time, "write", 4, 0x8, pc=0x401000, flags=layout.PATCHED) for time in range(5, 11)),
    row(20, "read", 4, 0x8, pc=0x402000, flags=layout.RMW | layout.LOCKED),
    row(21, "write", 4, 0x8, pc=0x402000, flags=layout.RMW | layout.LOCKED),
    row(22, "mark", map_id=0, text="half"),
]
SECOND = [
    row(30, "write", 4, 0x8, pc=0x401000, flags=layout.PATCHED | layout.STEPPED),
    row(31, "unknown", 2, 0x10, pc=0x405000, flags=layout.STEPPED),
    row(32, "unknown", 64, 0x10, data=b"\x0f\xae\x00", pc=0x405000, flags=layout.STEPPED),
    row(33, "read", 8, pc=0x403000, data=bytes(8)),
    row(34, "read", 8),  # whose code is not known
    row(35, "lost", map_id=0, value=2),
]

TEXT = """\
5 sites, 16 accesses: 7 patched (43.8%), 7 trapped (43.8%), 2 stepped (12.5%)

Sites
site      instruction                       patch                                            width  hits  patched  trapped  stepped
0x401000  mov [rdx], eax                    punned jump                                          4    11        7        4        0
0x402000  lock or dword ptr [rdx+0x8], 0x1  none: instructions of this kind are not patched      4     2        0        2        0
0x405000  fxsave [rax]                      ?                                                   64     2        0        0        2
0x403000  mov rax, [rip+0x2ed4]             given back: mostly ordinary memory                   8     1        0        1        0
0x404000  (bad) c6 42 08 01 90 90 90        jump                                                 1     0        0        0        0
"""  # noqa: E501

SOURCE = """
__attribute__((noinline)) void ring(volatile int *doorbell, int tail) { *doorbell = tail; }
int main(int argc, char **argv) { int x; ring(&x, argc); return 0; }
"""


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return write_trace(tmp_path / "t", FIRST, SECOND, sites=SITES, lost=2)


def test_text(trace: Path, mmiotap: Run) -> None:
    result = mmiotap("sites", trace)
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout.splitlines() == TEXT.splitlines()


def test_limit_says_what_it_leaves_out(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sites", str(trace), "--limit", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == TEXT.splitlines()[0]
    assert "Sites, 2 of 5 (--limit 0: all)" in lines
    assert [line[:8] for line in lines[4:]] == ["0x401000", "0x402000"]


def test_no_site_is_left_out_of_jsonl_and_csv(tmp_path: Path, mmiotap: Run) -> None:
    """Unlike the table they have no limit of their own, and they hold the same."""
    many = [row(time, "read", 4, pc=0x1000 + time, flags=layout.PATCHED * (time % 2)) for time in range(50)]
    trace = write_trace(tmp_path / "t", many, sites=SITES)
    objects = [json.loads(line) for line in mmiotap("sites", trace, "--format", "jsonl").stdout.splitlines()]
    lines = list(csv.DictReader(io.StringIO(mmiotap("sites", trace, "--format", "csv").stdout)))
    assert len(objects) == 54
    text = [{name: "" if value is None else str(value) for name, value in one.items()} for one in objects]
    assert text == lines
    limited = mmiotap("sites", trace, "--format", "csv", "--limit", "3").stdout
    assert list(csv.DictReader(io.StringIO(limited))) == lines[:3]


def test_jsonl(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sites", str(trace), "--format", "jsonl"]) == 0
    objects = {one["pc"]: one for one in map(json.loads, capsys.readouterr().out.splitlines())}
    assert objects[0x401000] == {
        "pid": 100, "pc": 0x401000, "site": "0x401000", "instruction": "mov [rdx], eax", "bytes": "8902", "width": 4,
        "hits": 11, "patched": 7, "trapped": 4, "stepped": 0, "syscall": 0, "state": "punned", "reason": None,
    }  # fmt: skip
    assert (objects[0x403000]["state"], objects[0x403000]["reason"]) == ("back", "ordinary")
    unknown = objects[0x405000]
    assert [unknown[name] for name in ("instruction", "bytes")] == ["fxsave [rax]", "0fae00"]  # as its event has it
    assert [unknown[name] for name in ("state", "reason")] == [None] * 2


def test_names_of_functions_and_forked_processes(
    compile_c: Compile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A child has the sites it was forked with, until it says otherwise."""
    driver = compile_c(SOURCE, "driver", "-Wl,--build-id")
    bias = 0x555500000000
    loaded = module(driver, bias=bias)
    ring = bias + nm(driver)["ring"]
    rows = [row(time, "write", 4, pc=ring, pid=pid) for time, pid in enumerate([100, 101, 101, 102, 102, 102])]
    trace = write_trace(
        tmp_path / "t",
        rows,
        modules=[loaded],
        processes=[DRIVER, Process(101, 100, str(driver)), Process(102, 101, str(driver))],
        sites=[
            Site(100, ring, 4, "jump", 4, "8937", START),
            Site(101, ring, 4, "trapped", 4, "8937", START, "not-writable"),
        ],
    )
    assert main(["sites", str(trace)]) == 0
    found = [line.split("  ") for line in capsys.readouterr().out.splitlines() if "ring" in line]
    assert [[word.strip() for word in line if word][:5] for line in found] == [
        ["102", "ring+0x0 (driver)", "mov [rdi], esi", "none: the code cannot be written", "4"],
        ["101", "ring+0x0 (driver)", "mov [rdi], esi", "none: the code cannot be written", "4"],
        ["100", "ring+0x0 (driver)", "mov [rdi], esi", "jump", "4"],
    ]


def test_modules_without_names_are_noted(tmp_path: Path, mmiotap: Run) -> None:
    gone = Module(100, "/no/driver", 0x400000, 0x500000, 0x400000, "")
    trace = write_trace(tmp_path / "t", FIRST, sites=SITES, modules=[gone])
    result = mmiotap("sites", trace)
    assert "driver+0x1000  mov [rdx], eax" in result.stdout
    assert result.stderr.splitlines() == [
        "mmiotap: /no/driver cannot be read (No such file or directory): its sites are shown without function names"
    ]


def test_patching_was_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = write_trace(tmp_path / "t", FIRST, sites=SITES[:1], settings={"patch": 0})
    assert main(["sites", str(trace)]) == 0
    assert "0x401000  mov [rdx], eax  none yet: patching is off" in capsys.readouterr().out
    assert main(["sites", str(trace), "--format", "jsonl"]) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[0])
    assert (first["state"], first["reason"]) == ("seen", "disabled")


@pytest.mark.parametrize(("state", "why"), [("imported", "it was imported"), ("finished", "none was recorded")])
def test_a_trace_without_sites(tmp_path: Path, mmiotap: Run, state: str, why: str) -> None:
    trace = write_trace(tmp_path / "t", FIRST, state=state)
    line = f"mmiotap: {trace} has no sites: {why}; mmiotap stats counts accesses by code\n"
    for form in ("text", "jsonl"):
        result = mmiotap("sites", trace, "--format", form)
        assert (result.status, result.stdout, result.stderr) == (0, "", line)
    result = mmiotap("sites", trace, "--format", "csv")
    assert (result.status, result.stdout.count("\n"), result.stderr) == (0, 1, line)


def test_wrong_usage(trace: Path, tmp_path: Path, mmiotap: Run) -> None:
    assert mmiotap("sites").status == 2
    assert mmiotap("sites", trace, "--format", "xml").status == 2
    result = mmiotap("sites", trace, "--limit", "-1")
    assert (result.status, result.stderr) == (2, "mmiotap: --limit: a number of sites cannot be negative\n")
    result = mmiotap("sites", tmp_path / "none")
    assert (result.status, result.stderr) == (1, f"mmiotap: {tmp_path}/none: there is no such trace\n")


def test_every_state_and_reason_has_words() -> None:
    assert [how_text(state, None) for state in SITE_STATES.values()] == list(HOW.values())
    assert [how_text("trapped", reason) for reason in SITE_REASONS.values()] == [f"none: {why}" for why in WHY.values()]
    assert how_text("9", "12") == "9: 12"  # of a later version


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("8902", "mov [rdx], eax"),
        ("c7420801000000", "mov dword ptr [rdx+0x8], 0x1"),
        ("f3a4", "rep movsb [rdi], [rsi]"),
        ("f00fc102", "lock xadd [rdx], eax"),
        ("c5fe6f02", "vmovdqu ymm0, [rdx]"),
        ("62f17c48284201", "vmovaps zmm0, [rdx+0x40]"),
        ("8b0425000000f0", "mov eax, [0xfffffffff0000000]"),
        ("ff12", "call qword ptr [rdx]"),
        ("89", "(bad) 89"),
        ("890289", "(bad) 89 02 89"),
        ("", "(bad)"),
    ],
)
def test_instructions(code: str, text: str) -> None:
    assert instruction_text(bytes.fromhex(code), 0x401000) == text
