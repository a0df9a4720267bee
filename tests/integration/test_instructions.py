"""Every instruction with a memory operand: right on a traced mapping, and in the trace as the table says.

The program of ``instructions/`` runs each case on plain memory and then, traced, on a file mapping, and compares all
registers, flags and memory. Here the rows of the trace are compared with what the case says and what plain memory held.
"""

import os
import re
import struct
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from instructions import expected, program
from instructions.case import WINDOW
from instructions.table import all_cases

from conftest import MMIOTAP
from mmiotap.trace import layout
from mmiotap.trace.reader import open_trace

#: Runs of each case on the mapping: the first are sure to trap.
ROUNDS = 20
#: After so many crashes the rest is not tried.
MAX_CRASHES = 100
RECORD = struct.Struct(f"<QQ{WINDOW}s{WINDOW}s")
PROCESSOR = frozenset((re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.M) or [""])[1].split())
CASES = all_cases(PROCESSOR)


@dataclass
class Outcome:
    """What went wrong, by the case's name; and the names of the cases that ran."""

    wrong: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    ran: set[str] = field(default_factory=set)
    untold: set[str] = field(default_factory=set)  #: of these a value is not known, for they were stepped


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("instructions")
    (folder / "device").write_bytes(bytes(WINDOW + 4096))
    program.build(CASES, PROCESSOR, folder)
    return folder


@pytest.fixture(scope="module")
def traced(folder: Path, patching: str) -> Outcome:
    return trace_all(folder, "--patch", patching)


@pytest.fixture(scope="module", params=["step", "lock"])
def stepped(folder: Path, request: pytest.FixtureRequest) -> Outcome:
    return trace_all(folder, "--smp", request.param)


@pytest.fixture(scope="module", params=["emulate", "lock"])
def outside(folder: Path, request: pytest.FixtureRequest) -> Outcome:
    return trace_all(folder, "--engine", "ptrace", "--smp", request.param, rounds=2)


def trace_all(folder: Path, *options: str, rounds: int = ROUNDS) -> Outcome:
    """All cases under ``mmiotap record``. One that ends the program is noted; the next recording goes on behind it."""
    outcome = Outcome()
    first = crashes = 0
    while first < len(CASES) and crashes < MAX_CRASHES:
        trace = folder / f"{'-'.join(options)}-{first}.mmiotap"
        record = [
            *MMIOTAP,
            "record",
            "-q",
            "-o",
            str(trace),
            "--map",
            str(folder / "device"),
            *options,
            "--",
        ]
        status, stdout, stderr = run([*record, *runner(folder, first, rounds)], folder)
        started = list(records(folder))
        assert started, f"the program did not run: {status} {stdout} {stderr}"
        note_differences(stdout, outcome)
        complete = len(started) - (status not in (0, 1))
        check_trace(trace, started[:complete], outcome, rounds)
        first += len(started)
        if status not in (0, 1):
            outcome.wrong[CASES[first - 1].name].append(f"it ended the program: status {status}, {stderr.strip()}")
            outcome.ran.add(CASES[first - 1].name)
            crashes += 1
    return outcome


def test_the_program_finds_no_difference_without_mmiotap(folder: Path) -> None:
    status, stdout, stderr = run(runner(folder, 0), folder)
    assert (stdout, stderr, status) == ("", "", 0)
    started = list(records(folder))
    assert len(started) == len(CASES) > 600
    for number, _, before, after in started:
        case = CASES[number]
        window = bytearray(before)
        for row in expected.rows(case, program.content(), before, after):
            if row.kind == "write" and not row.flags & layout.VALUE_UNKNOWN:
                window[row.offset : row.offset + row.width] = row.value.to_bytes(row.width, "little")
        unknown = any(not access.known for access in case.accesses)
        assert unknown or window == after, f"{case.name}: the writes that are expected do not make what is there"


@pytest.mark.parametrize("name", [case.name for case in CASES])
@pytest.mark.timeout(600)
def test_traced(name: str, traced: Outcome) -> None:
    assert traced.wrong.get(name, []) == []
    assert name in traced.ran


@pytest.mark.parametrize("name", [case.name for case in CASES])
@pytest.mark.timeout(600)
def test_stepped(name: str, stepped: Outcome) -> None:
    """Each access as it is; its value, too, where registers or ordinary memory tell it."""
    wrong = stepped.wrong.get(name, [])
    # A pop moves the red zone's far end, and the kernel writes the trap's frame behind that.
    assert [line for line in wrong if not (name.startswith("pop") and "stack byte" in line)] == []
    assert name in stepped.ran


@pytest.mark.parametrize("name", [case.name for case in CASES])
@pytest.mark.timeout(600)
def test_from_outside(name: str, outside: Outcome) -> None:
    """The same, by the ptrace engine."""
    wrong = outside.wrong.get(name, [])
    assert wrong == []
    assert name in outside.ran


def test_stepping_tells_the_value_of_a_move(stepped: Outcome) -> None:
    words = "mov movabs movb movw movl movzbl movswl movups movdqu movaps vmovdqu movnti xchg pushq popq call jmp stosb"
    assert {name for name in stepped.untold if name.split()[0] in words.split()} == set()


def runner(folder: Path, first: int, rounds: int = ROUNDS) -> list[str]:
    words = [folder / "runner", folder / "device", folder / "results", rounds, first, len(CASES)]
    return [str(word) for word in words]


def run(command: list[str], folder: Path) -> tuple[int, str, str]:
    """Status, output and errors of a command; a hang is a status like SIGKILL's."""
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        stdout, stderr = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        stdout, stderr = process.communicate()
    return process.returncode, stdout, stderr


def records(folder: Path) -> Iterator[tuple[int, int, bytes, bytes]]:
    """Of each case that was started: number, address of the instruction, window before and after on plain memory."""
    data = (folder / "results").read_bytes()
    yield from RECORD.iter_unpack(data[: len(data) // RECORD.size * RECORD.size])


def note_differences(stdout: str, outcome: Outcome) -> None:
    for line in stdout.splitlines():
        name, _, what = line.partition(": round ")
        outcome.wrong[name].append(f"round {what}")


def check_trace(trace: Path, started: list[tuple[int, int, bytes, bytes]], outcome: Outcome, rounds: int) -> None:
    """The rows between two marks are those of one run of one case."""
    runs = rows_by_case(trace)
    content = program.content()
    for number, pc, before, after in started:
        case = CASES[number]
        outcome.ran.add(case.name)
        wrong = outcome.wrong[case.name]
        want = expected.rows(case, content, before, after)
        if len(runs[number]) != rounds:
            wrong.append(f"{len(runs[number])} runs are in the trace instead of {rounds}")
        for round_, rows in enumerate(runs[number]):
            if stray := {hex(at) for _, at in rows if at != pc}:
                wrong.append(f"round {round_}: the instruction is at {pc:#x}, rows are from {stray}")
            got = [row for row, _ in rows]
            if any(map(is_untold, got)):
                outcome.untold.add(case.name)
                got = [*map(complete, got, want), *got[len(want) :]]
            unknown_is_right = case.may_be_unknown and got != [] and {row.kind for row in got} == {"unknown"}
            if got != want and not unknown_is_right:
                wrong.append(f"round {round_}: wanted {describe(want)}; got {describe(got)}")
                break


def is_untold(row: expected.Row) -> bool:
    reason = row.flags >> layout.REASON_SHIFT & 0xF
    return bool(row.flags & layout.VALUE_UNKNOWN) and reason == layout.REASON_STEPPED


def complete(row: expected.Row, wanted: expected.Row) -> expected.Row:
    """The row, if it was stepped and its value is not known, with what is wanted of a value."""
    about = layout.VALUE_UNKNOWN | 0xF << layout.REASON_SHIFT
    if not is_untold(row) or (row.flags ^ wanted.flags) & ~about:
        return row
    return replace(row, value=wanted.value, flags=wanted.flags)


def rows_by_case(trace: Path) -> dict[int, list[list[tuple[expected.Row, int]]]]:
    """For each case its runs, for each run its rows, each with its pc."""
    runs: dict[int, list[list[tuple[expected.Row, int]]]] = defaultdict(list)
    table = open_trace(trace).events(["kind", "width", "offset", "value", "data", "flags", "pc"])
    columns = [table.column(name).to_pylist() for name in table.column_names]
    for kind, width, offset, value, data, flags, pc in zip(*columns, strict=True):
        if kind in ("map", "unmap"):
            continue
        if offset == WINDOW and kind == "write":
            runs[value].append([])
            rows = runs[value][-1]
            continue
        whole = int.from_bytes(data, "little") if data is not None and kind != "unknown" else value
        rows.append((expected.Row(kind, width, offset, whole, flags & expected.MEANING), pc))
    return runs


def describe(rows: list[expected.Row]) -> str:
    return "[" + "; ".join(map(str, rows[:8])) + (f"; and {len(rows) - 8} more" if len(rows) > 8 else "") + "]"
