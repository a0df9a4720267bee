"""``mmiotap summary``: what real traces say, and names for it."""

import itertools
import json
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from conftest import TIME_LIMIT, Compile
from mmiotap.analysis.inlined import Frames
from mmiotap.analysis.summary import summary
from mmiotap.analysis.symbols import Symbols, build_id
from mmiotap.cli import main
from mmiotap.registers import choose
from mmiotap.trace.model import Module
from mmiotap.trace.reader import Trace, open_trace
from synthetic import START, row, write_trace

DATA = Path(__file__).parents[1] / "data"
LOGS = ["mmiotrace-e1000.log.xz", "qemu-e1000.log.xz", "ftrace-e1000.txt.xz"]


@pytest.fixture(scope="module", params=LOGS)
def logged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """Start-ups of Linux's e1000, as the kernel's mmiotrace and QEMU saw them."""
    path = tmp_path_factory.mktemp("e1000") / "t"
    assert main(["import", str(DATA / request.param), "-o", str(path)]) == 0
    return open_trace(path)


@pytest.fixture(scope="module")
def e1000(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("e1000") / "t"
    assert main(["import", str(DATA / LOGS[0]), "-o", str(path)]) == 0
    return path


def accesses(trace: Trace) -> list[dict[str, Any]]:
    rows = trace.events(["kind", "map_id", "offset", "width", "value", "tid"]).to_pylist()
    return [one for one in rows if one["kind"] in ("read", "write")]


def place(one: dict[str, Any]) -> tuple[int, int, int]:
    return one["map_id"], one["offset"], one["width"]


def test_modifies_of_real_drivers_as_a_plain_loop_finds_them(logged: Trace) -> None:
    """These logs are of one thread each."""
    expected: Counter[tuple[Any, ...]] = Counter()
    for before, after in itertools.pairwise(accesses(logged)):
        if place(before) == place(after) and (before["kind"], after["kind"]) == ("read", "write"):
            expected[*place(after), after["value"] & ~before["value"], before["value"] & ~after["value"]] += 1
    found = summary(logged).modifies.to_pylist()
    assert {(*place(one), one["set"], one["cleared"]): one["count"] for one in found} == expected
    assert sum(expected.values()) > 1000


def test_the_life_of_real_registers_as_a_plain_loop_finds_it(logged: Trace) -> None:
    values: dict[tuple[int, int, int], Counter[int]] = {}
    for one in accesses(logged):
        values.setdefault(place(one), Counter())[one["value"]] += 1
    found = {place(one): one for one in summary(logged).life.to_pylist()}
    assert found.keys() == values.keys()
    for key, counted in values.items():
        one = found[key]
        assert one["reads"] + one["writes"] == sum(counted.values())
        assert [value["count"] for value in one["values"]] == sorted(counted.values(), reverse=True)[:8]
        assert one["distinct"] == len(counted)
        assert one["toggled"] == _or(counted) & ~_and(counted)


def _or(values: Counter[int]) -> int:
    found = 0
    for value in values:
        found |= value
    return found


def _and(values: Counter[int]) -> int:
    found = 2**64 - 1
    for value in values:
        found &= value
    return found


def test_gaps_and_transfers_of_a_real_driver(e1000: Path) -> None:
    trace = open_trace(e1000)
    found = summary(trace, choose.decoder(trace))
    rows = trace.events(["time_ns", "kind"]).to_pylist()
    times = [one["time_ns"] for one in rows if one["kind"] in ("read", "write")]
    steps = sorted((after - before for before, after in itertools.pairwise(times)), reverse=True)
    assert found.gaps["gap_ns"].to_pylist() == steps[:32]
    assert found.delays["total_ns"].to_numpy().sum() == times[-1] - times[0]
    # The driver reads the statistics from XONRXC to MPTC in a row.
    first = found.transfers.to_pylist()[0]
    assert (first["register"], first["kind"], first["onward"]) == ("XONRXC", "read", True)
    assert found.phases["phase"].to_pylist() == ["insmod e1000", "done"]
    icr = next(one for one in found.life.to_pylist() if one["register"] == "ICR")
    assert icr["cleared_fields"] == "RXDMT0"
    assert not any(found.polls.to_pylist())  # QEMU is ready at once


def test_text_names_registers_and_fields(e1000: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", str(e1000), "--only", "modifies,life", "--limit", "3"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["1:BAR0", "0x10", "EECD", "-SK", "4", "1136", "0.247924000"] in lines
    assert any(line[:3] == ["1:BAR0", "0x8", "STATUS"] and "LU" in line for line in lines)


POLLED = [
    *[row(10 * at, "read", 4, 0x8, value) for at, value in enumerate([0x80000, 0x80000, 0x80002])],
    row(100, "write", 1, 0x70, 1),
]


def test_a_condition_in_words_and_in_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write_trace(tmp_path / "t", POLLED))
    assert main(["summary", path, "--only", "polls"]) == 0
    assert "value & 0x2 == 0x2" in capsys.readouterr().out
    assert main(["summary", path, "--only", "polls", "--regs", "e1000@*uio0"]) == 0
    line = capsys.readouterr().out.splitlines()[-1].split()
    assert line == ["1:uio0", "0x8", "STATUS", "LU", "4", "1", "1", "3", "3", "20ns", "20ns", "0.000000000"]


def test_a_filter_chooses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write_trace(tmp_path / "t", POLLED))
    assert main(["summary", path, "--filter", "write", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["polls"], [one["offset"] for one in found["life"]]) == ([], [0x70])
    assert found["start_ns"] == START


def test_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", str(write_trace(tmp_path / "t"))]) == 0
    assert capsys.readouterr().out == "nothing found\n"


@pytest.mark.parametrize("words", [["--only", "poll"], ["--limit", "-1"], ["--memory", "nothing"]])
def test_wrong_usage(tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", str(write_trace(tmp_path / "t", POLLED)), *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"mmiotap: {words[0]}: ")
    assert error.count("\n") == 1


SOURCE = """
#include <stdint.h>
static volatile uint32_t *regs;
static inline __attribute__((always_inline)) void reg_write(unsigned at, uint32_t value)
{
    regs[at / 4] = value;
}
static inline __attribute__((always_inline)) void reset_device(void)
{
    reg_write(0, 0x11223344);
}
__attribute__((noinline)) void bring_up(int n)
{
    reset_device();
    for (int i = 0; i < n; i++)
        reg_write(16, i);
}
int main(int count, char **words) { regs = (uint32_t *)words; bring_up(count); return 0; }
"""
BIAS = 0x555500000000


@pytest.mark.parametrize("version", [4, 5])
def test_inlined_functions(
    compile_c: Compile, tmp_path: Path, version: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """addr2line is the judge, of every instruction of the program's own code."""
    program = compile_c(SOURCE, "driver", f"-gdwarf-{version}", "-Wl,--build-id")
    with program.open("rb") as file:
        module = Module(100, str(program), BIAS, BIAS + 0x10000, BIAS, build_id(ELFFile(file)))
    listing = subprocess.run(
        ["objdump", "-d", "--disassemble=bring_up", program], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    code = [int(one, 16) for one in re.findall(r"^ +([0-9a-f]+):\t", listing, re.MULTILINE)]
    assert len(code) > 5
    found = Frames(Symbols([module])).of([100] * len(code), [BIAS + at for at in code])
    for at, frames in zip(code, found, strict=True):
        told = subprocess.run(
            ["addr2line", "-f", "-i", "-s", "-e", program, hex(at)],
            capture_output=True,
            text=True,
            check=True,
            timeout=TIME_LIMIT,
        ).stdout.split("\n")[:-1]
        lines = [line.partition(" ")[0] for line in told]  # without discriminators
        assert [word for one in frames for word in (one.function, f"{one.file}:{one.line}")] == lines
    [store] = re.findall(r"^ +([0-9a-f]+):\t.*\$0x11223344", listing, re.MULTILINE)
    rows = [row(0, "write", 4, 0, 0x11223344, pc=BIAS + int(store, 16))]
    path = write_trace(tmp_path / "t", rows, modules=[module])
    assert main(["summary", str(path), "--only", "callers,life"]) == 0
    out = capsys.readouterr().out
    assert "reg_write < reset_device < bring_up (driver.c:6)" in out
    assert "bring_up (driver)" in out


def test_no_debug_information_no_frames(compile_c: Compile) -> None:
    program = compile_c(SOURCE, "driver", "-s", "-Wl,--build-id")
    with program.open("rb") as file:
        module = Module(100, str(program), BIAS, BIAS + 0x10000, BIAS, build_id(ELFFile(file)))
    gone = Module(100, "/nowhere/driver", BIAS + 0x10000, BIAS + 0x20000, BIAS, "00")
    frames = Frames(Symbols([module, gone])).of([100] * 3, [BIAS + 0x1100, BIAS + 0x11000, 5])
    assert frames == [[], [], []]
