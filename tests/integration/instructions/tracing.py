"""Running cases untraced and under mmiotap, and what is wrong with what came of it."""

import os
import re
import struct
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from conftest import MMIOTAP
from mmiotap.trace import layout
from mmiotap.trace.reader import open_trace

from . import expected, program
from .case import TARGET, WINDOW, Case

#: Runs of each case on the mapping: the first are sure to trap.
ROUNDS = 20
#: Cases a recording: of each, both its windows are kept.
BATCH = 2500
#: After so many crashes the rest is not tried.
MAX_CRASHES = 100
RECORD = struct.Struct(f"<QQ{WINDOW}s{WINDOW}s")
PROCESSOR = frozenset((re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.M) or [""])[1].split())


@dataclass
class Outcome:
    """What went wrong, by the case's name; and the names of the cases that ran."""

    wrong: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    ran: set[str] = field(default_factory=set)
    untold: set[str] = field(default_factory=set)  #: of these a value is not known, for they were stepped
    stepped: set[str] = field(default_factory=set)
    patched: set[str] = field(default_factory=set)

    def all_wrong(self) -> str:
        """One line a case; empty if all is right."""
        return "\n".join(f"{name}: {'; '.join(lines[:2])}" for name, lines in self.wrong.items() if lines)


@dataclass(frozen=True)
class Runner:
    """The program of these cases, in a folder with its device."""

    folder: Path
    cases: Sequence[Case]

    @classmethod
    def build(cls, cases: Sequence[Case], folder: Path) -> "Runner":
        (folder / "device").write_bytes(bytes(WINDOW + 4096))
        program.build(cases, PROCESSOR, folder)
        return cls(folder, cases)

    def command(self, first: int, rounds: int = ROUNDS) -> list[str]:
        last = min(first + BATCH, len(self.cases))
        words = [self.folder / "runner", self.folder / "device", self.folder / "results", rounds, first, last]
        return [str(word) for word in words]

    def run(self, command: list[str]) -> tuple[int, str, str]:
        """Status, output and errors of a command; a hang is a status like SIGKILL's."""
        process = subprocess.Popen(
            command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            stdout, stderr = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            stdout, stderr = process.communicate()
        return process.returncode, stdout, stderr

    def records(self) -> Iterator[tuple[int, int, bytes, bytes]]:
        """Of each case that was started: number, address of the instruction, plain memory before and after."""
        data = (self.folder / "results").read_bytes()
        yield from RECORD.iter_unpack(data[: len(data) // RECORD.size * RECORD.size])

    def check_untraced(self) -> None:
        """The program finds no difference, and the writes that are expected make what is there afterwards."""
        first = 0
        while first < len(self.cases):
            assert self.run(self.command(first)) == (0, "", "")
            started = list(self.records())
            for number, _, before, after in started:
                case = self.cases[number]
                rows = expected.rows(case, program.content(), before, after)
                unknown = any(not access.known for access in case.accesses) or case.some_of
                assert unknown or replay(rows, before) == after, (
                    f"{case.name}: the writes that are expected make something else"
                )
            first += len(started)

    def trace_all(self, *options: str, rounds: int = ROUNDS, exact: bool = True) -> Outcome:
        """All cases under ``mmiotap record``. One that ends the program is noted; the next recording goes on behind it.

        ``exact``: no case may be ``unknown``.
        """
        outcome = Outcome()
        first = crashes = 0
        while first < len(self.cases) and crashes < MAX_CRASHES:
            trace = self.folder / f"{'-'.join(options)}-{first}.mmiotap"
            record = [*MMIOTAP, "record", "-q", "-o", str(trace), "--map", str(self.folder / "device"), *options, "--"]
            status, stdout, stderr = self.run([*record, *self.command(first, rounds)])
            started = list(self.records())
            assert started, f"the program did not run: {status} {stdout} {stderr}"
            for line in stdout.splitlines():
                name, _, what = line.partition(": round ")
                outcome.wrong[name].append(f"round {what}")
            complete = len(started) - (status not in (0, 1))
            self.check_trace(trace, started[:complete], outcome, rounds, exact)
            first += len(started)
            if status not in (0, 1):
                name = self.cases[first - 1].name
                outcome.wrong[name].append(f"it ended the program: status {status}, {stderr.strip()}")
                outcome.ran.add(name)
                crashes += 1
        return outcome

    def check_trace(
        self, trace: Path, started: list[tuple[int, int, bytes, bytes]], outcome: Outcome, rounds: int, exact: bool
    ) -> None:
        """The rows between two marks are those of one run of one case."""
        runs = rows_by_case(trace)
        content = program.content()
        for number, pc, before, after in started:
            case = self.cases[number]
            outcome.ran.add(case.name)
            wrong = outcome.wrong[case.name]
            want = expected.rows(case, content, before, after)
            if len(runs[number]) != rounds:
                wrong.append(f"{len(runs[number])} runs are in the trace instead of {rounds}")
            for round_, rows in enumerate(runs[number]):
                if stray := {hex(seen.pc) for seen in rows if seen.pc != pc}:
                    wrong.append(f"round {round_}: the instruction is at {pc:#x}, rows are from {stray}")
                got = [seen.row for seen in rows]
                flags = [seen.flags for seen in rows]
                if any(flag & layout.STEPPED for flag in flags):
                    outcome.stepped.add(case.name)
                if any(flag & layout.PATCHED for flag in flags):
                    outcome.patched.add(case.name)
                if any(map(is_untold, got)):
                    outcome.untold.add(case.name)
                    got = [*map(complete, got, want), *got[len(want) :]]
                unknown_is_right = not exact and case.may_be_unknown and {row.kind for row in got} == {"unknown"}
                is_right = is_some_of(case, got, want, before, after) if case.some_of else got == want
                if not is_right and not unknown_is_right:
                    wrong.append(f"round {round_}: wanted {describe(want)}; got {describe(got)}")
                    break


@dataclass(frozen=True)
class Seen:
    """A row of the trace, with the address of its instruction and all its flags."""

    row: expected.Row
    pc: int
    flags: int


def replay(rows: list[expected.Row], before: bytes) -> bytes:
    """What these writes make of the window."""
    window = bytearray(before)
    for row in rows:
        if row.kind == "write" and not row.flags & layout.VALUE_UNKNOWN:
            window[row.offset : row.offset + row.width] = row.value.to_bytes(row.width, "little")
    return bytes(window)


def is_some_of(case: Case, got: list[expected.Row], want: list[expected.Row], before: bytes, after: bytes) -> bool:
    """What is wanted, and then writes in the operand that make what it is afterwards."""
    rest = got[len(want) :]
    inside = all(row.offset >= TARGET and row.offset + row.width <= TARGET + case.some_of for row in rest)
    known = {(row.kind, row.flags) for row in rest} == {("write", 0)}
    return got[: len(want)] == want and inside and known and replay(rest, before) == after


def is_untold(row: expected.Row) -> bool:
    reason = row.flags >> layout.REASON_SHIFT & 0xF
    return bool(row.flags & layout.VALUE_UNKNOWN) and reason == layout.REASON_STEPPED


def complete(row: expected.Row, wanted: expected.Row) -> expected.Row:
    """The row, if it was stepped and its value is not known, with what is wanted of a value."""
    about = layout.VALUE_UNKNOWN | 0xF << layout.REASON_SHIFT
    if not is_untold(row) or (row.flags ^ wanted.flags) & ~about:
        return row
    return replace(row, value=wanted.value, flags=wanted.flags)


def rows_by_case(trace: Path) -> dict[int, list[list[Seen]]]:
    """For each case its runs, for each run its rows."""
    runs: dict[int, list[list[Seen]]] = defaultdict(list)
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
        rows.append(Seen(expected.Row(kind, width, offset, whole, flags & expected.MEANING), pc, flags))
    return runs


def describe(rows: list[expected.Row]) -> str:
    return "[" + "; ".join(map(str, rows[:8])) + (f"; and {len(rows) - 8} more" if len(rows) > 8 else "") + "]"
