"""System calls that are given pointers into a region: they do what they would have done, and are recorded."""

import shutil
import time
from pathlib import Path

import pytest

from conftest import MMIOTAP, Compile, Result, Run, Start
from mmiotap.trace import layout
from mmiotap.trace.reader import open_trace

CALLS = Path(__file__).parents[1] / "data" / "system_calls.c"

RING = r"""
#include <linux/perf_event.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(void)
{
    struct perf_event_attr attributes = {.type = PERF_TYPE_SOFTWARE, .config = PERF_COUNT_SW_DUMMY,
                                         .size = sizeof attributes, .disabled = 1, .exclude_kernel = 1};
    int event = syscall(SYS_perf_event_open, &attributes, 0, -1, -1, 0), ends[2];
    char *ring = mmap(0, 2 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, event, 0), sent[64];
    if (ring == MAP_FAILED || pipe(ends))
        return 1;
    printf("%zd", write(ends[1], ring + 4096 - 32, 64));
    printf(" %zd", read(ends[0], sent, 64));
    printf(" %d\n", memcmp(sent, ring + 4096 - 32, 64));
    return 0;
}
"""

PAGE = 4096


class Calls:
    """The program of all those calls, in a folder; and how it ended without us."""

    def __init__(self, folder: Path, program: Path, run: Run) -> None:
        self.device, self.go = folder / "device", folder / "go"
        self.command = [program, self.device, folder / "scratch", self.go]
        self.device.write_bytes(bytes(2 * PAGE))
        self.go.touch()
        self.plain = run(*self.command)
        assert self.plain.status == 0, self.plain.stderr
        self.device.write_bytes(bytes(2 * PAGE))

    def check(self, traced: Result, recording: Path) -> None:
        """Nothing is different, and what was done is recorded."""
        assert (traced.status, traced.stdout) == (0, self.plain.stdout), traced.stderr
        check_events(recording)


@pytest.fixture
def calls(run: Run, compile_c: Compile, tmp_path: Path) -> Calls:
    quiet = ("-Wno-stringop-overread", "-Wno-stringop-overflow", "-Wno-unused-result")
    return Calls(tmp_path, compile_c(CALLS.read_text(), "calls", "-fexceptions", *quiet), run)


def test_they_are_what_they_were(calls: Calls, mmiotap: Run, tmp_path: Path) -> None:
    """Results, errno, counts, memory, cancellation, interruption, vfork."""
    calls.check(mmiotap("record", "--map", "**/device", "-o", "trace", "--", *calls.command), tmp_path / "trace")


def test_attached_to(calls: Calls, start: Start, tmp_path: Path) -> None:
    """A program that has looked its functions up before is diverted as well."""
    calls.go.unlink()
    program = start(*calls.command)
    wait_for(program.pid, "/device")
    recorder = start(*MMIOTAP, "attach", "--engine", "agent", "--map", "**/device", "-o", "trace", str(program.pid))
    wait_for(program.pid, "/live/arena")
    calls.go.touch()
    ended = program.wait()
    assert recorder.wait().status == 0
    calls.check(ended, tmp_path / "trace")


def wait_for(pid: int, mapped: str) -> None:
    """Until the process has mapped a file with this name. Fails the test only for a hang."""
    end = time.monotonic() + 60
    while mapped not in Path(f"/proc/{pid}/maps").read_text():
        assert time.monotonic() < end
        time.sleep(0.01)


def check_events(recording: Path) -> None:
    trace = open_trace(recording)
    assert trace.lost == 0
    events = [event for event in trace.events().to_pylist() if event["flags"] & layout.SYSCALL]
    seen = [(event["kind"], event["offset"], event["width"], event["data"] or event["value"]) for event in events]
    assert seen[:10] == expected()
    # FIONREAD's number does not say how long its operand is, RNDGETENTCNT's does.
    assert [one for one in seen if one[0] == "unknown"] == [("unknown", 200, 0, 0)]
    assert [one[:3] for one in seen if one[1] == 204] == [("write", 204, 4)]
    # And nothing more of those that failed, or were cancelled.
    assert len(seen) == 1730


def expected() -> list[tuple[str, int, int, int | bytes]]:
    """What the program's first calls do, on the memory that it has filled."""
    memory = bytearray((at * 7 + at // 256) & 0xFF for at in range(4 * PAGE))
    begin, end = PAGE, 3 * PAGE
    found: list[tuple[str, int, int, int | bytes]] = []

    def seen(kind: str, first: int, last: int) -> None:
        first, last = max(first, begin), min(last, end)
        while first < last:
            following = min(first // PAGE * PAGE + PAGE, last)
            data = bytes(memory[first:following])
            found.append((kind, first - begin, len(data), data if len(data) > 8 else int.from_bytes(data, "little")))
            first = following

    def through_pipe(source: int, length: int, target: int, room: int) -> None:
        data = memory[source : source + length]
        seen("read", source, source + length)
        memory[target : target + min(room, length)] = data[:room]
        seen("write", target, target + min(room, length))

    through_pipe(begin, 16, begin + 100, 64)
    through_pipe(begin - 5, 10, end - 4, 10)
    through_pipe(0, 4 * PAGE, 8, 4 * PAGE - 8)
    seen("read", begin + 1000, begin + 6000)
    return found


GIVEN = Path(__file__).parents[1] / "data" / "given.c"

#: What the calls of given.c do, in their order: a name has no length, for nobody knows how far the kernel reads.
NAME, STAT = ("unknown", PAGE + 64, 0), ("write", 512, 144)
FILES = [
    *[NAME, STAT, NAME, STAT, NAME, STAT, NAME, STAT, STAT, NAME, STAT],
    *[NAME, ("write", 512, 256), NAME, ("write", 512, 120), ("write", 512, 120)],
    *[NAME, ("write", 512, 4), NAME, ("write", 512, 2), ("write", 512, 3), ("read", PAGE + 64, 4)],
    *[NAME, NAME, NAME, NAME, NAME, ("write", 1024, 96), NAME],
    *[("read", 256, 8), ("write", 256, 8)],
    *[("read", 256, 8), ("read", 264, 8), ("write", 256, 8), ("write", 264, 8), NAME],
]
WAITS = [
    ("write", 512, 8),
    *2 * [("read", 64, 16), ("write", 64, 16)],
    *[("read", 512, 8), ("read", 32, 16), ("write", 512, 8), ("write", 32, 16)],
    *[("read", 32, 12), ("write", 512, 12)],
    *[("read", 32, 32), ("write", 512, 32), ("write", 512, 32), ("write", 512, 8), ("read", PAGE - 4, 4)],
]
SOCKETS = [
    *[("write", 512, 8), ("read", 40, 4), ("write", 48, 4), ("write", 40, 4), ("read", 48, 4)],
    *2 * [("read", 512, 110)],
    *[("read", 40, 4), ("write", 512, 7), ("write", 40, 4), ("read", 40, 4), ("write", 512, 1), ("write", 40, 4)],
    *[("read", 40, 4), ("write", 512, 2), ("write", 40, 4)],
]
MACHINE = [("write", 512, 390), ("write", 512, 112), ("write", 512, 144), ("write", 512, 8)]


@pytest.mark.parametrize("patch", ["auto", "off"])
def test_structures_and_names(run: Run, mmiotap: Run, compile_c: Compile, tmp_path: Path, patch: str) -> None:
    given = compile_c(GIVEN.read_text(), "given")
    device, folder = tmp_path / "device", tmp_path / "folder"

    def prepare() -> None:
        """So that what one run has left does not change the other."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "file").write_text("content of it")
        (folder / "link").symlink_to("file")
        device.write_bytes(bytes(2 * PAGE))

    prepare()
    plain = run(given, device, folder)
    assert plain.status == 0, plain.stderr
    prepare()
    traced = mmiotap("record", "--patch", patch, "--map", "**/device", "-o", "trace", "--", given, device, folder)
    assert (traced.status, traced.stdout) == (0, plain.stdout), traced.stderr
    trace = open_trace(tmp_path / "trace")
    assert trace.lost == 0
    events = [event for event in trace.events().to_pylist() if event["flags"] & layout.SYSCALL]
    found = [(event["kind"], event["offset"], event["width"]) for event in events]
    # What is taken and what is written by one call have different times: compared by what they are.
    assert sorted(found) == sorted([*FILES, *WAITS, *SOCKETS, *MACHINE])
    size = next(event for event in events if event["kind"] == "write" and event["width"] == 144)["data"][48:56]
    assert int.from_bytes(size, "little") == len("content of it"), "st_size"


def test_values_are_not_read_from_a_device_again(run: Run, mmiotap: Run, compile_c: Compile, tmp_path: Path) -> None:
    """A perf ring is a mapping of the kind that devices make: no memory to the kernel."""
    ring = compile_c(RING, "ring")
    plain = run(ring)
    assert plain.stdout == "64 64 0\n", plain.stderr
    traced = mmiotap("record", "--map", "anon_inode:*", "-o", "trace", "--", ring)
    assert (traced.status, traced.stdout) == (0, plain.stdout), traced.stderr
    events = [event for event in open_trace(tmp_path / "trace").events().to_pylist() if event["flags"] & layout.SYSCALL]
    assert [(event["kind"], event["offset"], event["width"]) for event in events] == [
        ("read", PAGE - 32, 32),
        ("read", PAGE, 32),
    ]
    unknown = layout.SYSCALL | layout.VALUE_UNKNOWN | layout.REASON_SYSCALL << layout.REASON_SHIFT
    assert {(event["flags"], event["value"], event["data"]) for event in events} == {(unknown, 0, None)}
