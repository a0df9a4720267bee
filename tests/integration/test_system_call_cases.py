"""Each function and each number that the agent knows to be given pointers, with pointers into a region."""

import errno
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import Compile, Run
from mmiotap.trace import layout
from mmiotap.trace.reader import open_trace

ROOT = Path(__file__).parents[2]
DATA, INTERPOSE = ROOT / "tests" / "data", ROOT / "agent" / "src" / "interpose"
PROGRAMS = ("files", "processes", "messages")
PAGE = 4096

#: What would change the machine: the case asks for what the kernel refuses when it has looked at what it was given.
REFUSED = {
    *("chroot", "mount", "umount", "umount2", "pivot_root", "swapon", "swapoff", "acct"),
    *("clock_settime", "settimeofday"),
}
#: What a machine, a file system or a user may lack.
LACKING = {errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS}


@dataclass
class Case:
    """One call: of which function or number, the error, whether all was written that should be, and its events."""

    name: str
    error: int
    is_written: bool
    events: list[tuple[str, int, int]]

    @property
    def is_refused(self) -> bool:
        return self.error in LACKING or self.name.removeprefix("SYS_") in REFUSED


def cases_of(output: str) -> list[Case]:
    cases = []
    for name, error, written, events in re.findall(r"^(\w+) (\d+) ([01])((?: [a-z]+,\d+,\d+)*)$", output, re.MULTILINE):
        split = [event.split(",") for event in events.split()]
        expected = sorted((kind, int(offset), int(width)) for kind, offset, width in split)
        cases.append(Case(name, int(error), written == "1", expected))
    return cases


def recorded(recording: Path) -> list[tuple[str, list[tuple[str, int, int]]]]:
    """The kernel's accesses between the marks of each case."""
    found: list[tuple[str, list[tuple[str, int, int]]]] = []
    is_in_one = False
    trace = open_trace(recording)
    assert trace.lost == 0
    for event in trace.events().to_pylist():
        if event["kind"] == "mark":
            is_in_one = bool(event["text"])
            if is_in_one:
                found.append((event["text"], []))
        elif event["flags"] & layout.SYSCALL and is_in_one:
            found[-1][1].append((event["kind"], event["offset"], event["width"]))
    return [(name, sorted(events)) for name, events in found]


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_does_what_it_did_and_is_recorded(
    run: Run, mmiotap: Run, compile_c: Compile, tmp_path: Path, program: str
) -> None:
    source = (DATA / f"cases_{program}.c").read_text()
    quiet = ("-Wno-nonnull", "-Wno-unused-variable", "-Wno-unused-but-set-variable", "-Wno-stringop-truncation")
    binary = compile_c(source, "cases", f"-I{DATA}", *quiet)
    device, folder = tmp_path / "device", tmp_path / "folder"

    def prepare() -> None:
        """So that what one run has left does not change the other."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "file").write_text("content of it")
        device.write_bytes(bytes(2 * PAGE))

    prepare()
    plain = run(binary, device, folder)
    assert plain.status == 0, plain.stderr
    cases = cases_of(plain.stdout)
    assert all(case.is_written and case.error != errno.EFAULT for case in cases)
    assert {case.name for case in cases if case.events or case.is_refused} == named_in(source)
    prepare()
    traced = mmiotap("record", "--map", "**/device", "-o", "trace", "--", binary, device, folder)
    assert (traced.status, traced.stdout) == (0, plain.stdout), traced.stderr
    assert recorded(tmp_path / "trace") == [(case.name, case.events) for case in cases]


def named_in(source: str) -> set[str]:
    """The functions and numbers that a program has a case for, but for those that concern no memory."""
    source = re.sub(r"^#define .*", "", source, flags=re.MULTILINE)
    found = re.findall(r"\b(CASE|ERROR|ADDRESS|OPENED|EXEC|BOTH)\((\w+),", source)
    names = {name for _, name in found} | {f"SYS_{name}" for kind, name in found if kind == "BOTH"}
    return names - {"getcpu", "time"}


def test_there_is_a_case_for_each() -> None:
    """Those of the agent's tables, and no other."""
    table = re.search(r"^calls! \{\n(.*?)^\}", (INTERPOSE / "calls.rs").read_text(), re.DOTALL | re.MULTILINE)
    assert table
    functions = {name for names in re.findall(r"^    ([\w ]+): ", table[1], re.MULTILINE) for name in names.split()}
    functions |= set(re.findall(r"^    (__\w+_chk)\(", (INTERPOSE / "checked.rs").read_text(), re.MULTILINE))
    body = (INTERPOSE / "numbers.rs").read_text().split("match number {")[1]
    numbers = set(re.findall(r"\bSYS_\w+", body))
    tested = set().union(*(named_in((DATA / f"cases_{program}.c").read_text()) for program in PROGRAMS))
    assert functions
    assert numbers
    assert tested == functions | numbers
