"""SIGKILL of the program, of the recorder, or of both, at random moments: what was published is in the trace, once."""

import os
import random
import signal
import struct
import time
from pathlib import Path

import pytest

from conftest import MMIOTAP, Compile, Run, Start, Started
from mmiotap.trace.reader import Trace, open_trace

THREADS = 2

#: Each thread stores 1, 2, 3 … to its own slot of the shared file: what the slot holds at the end, the trace must too.
COUNT = r"""
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static volatile uint64_t *slots;
static uint64_t count;

static void *work(void *slot)
{
    for (uint64_t index = 1; index <= count; index++)
        *(volatile uint64_t *)slot = index;
    return 0;
}

int main(int argc, char **argv)
{
    int fd = open(argv[1], O_RDWR);
    pthread_t threads[2];
    FILE *file = fopen("pid.new", "w");
    fprintf(file, "%d", getpid());
    fclose(file);
    rename("pid.new", "pid");
    count = strtoull(argv[2], 0, 0);
    slots = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    for (int i = 0; i < 2; i++)
        pthread_create(&threads[i], 0, work, (void *)&slots[i]);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], 0);
    return 7;
}
"""

FOREVER = 1 << 62
#: So many accesses each take the threads some 0.05 seconds; the buffer that goes with it has room for them all.
LAST = 100_000
MOMENTS = [pytest.param(5, id="5"), pytest.param(50, id="50", marks=[pytest.mark.long, pytest.mark.timeout(1200)])]


class Counting:
    """A recorded COUNT."""

    def __init__(self, start: Start, program: Path, folder: Path, count: int, *options: str) -> None:
        folder.mkdir()
        self._folder = folder
        self.trace = folder / "t"
        self._slots = folder / "slots"
        self._slots.write_bytes(bytes(4096))
        command = ["record", "-o", "t", *options, "--map", self._slots, "--", program, self._slots, str(count)]
        self.recorder: Started = start(*MMIOTAP, *command, cwd=folder)
        while 0 in self.slots():
            assert self.recorder.process.poll() is None
            time.sleep(0.001)
        self.pid = int((folder / "pid").read_text())

    def slots(self) -> tuple[int, ...]:
        """The last value that each thread has stored."""
        return struct.unpack("<2Q", self._slots.read_bytes()[:16])

    def check(self, trace: Trace, *, slack: int) -> None:
        """Every stored value is there once and in order; ``slack``: accesses in flight that may be missing or ahead."""
        table = trace.events(["kind", "offset", "value"])
        assert trace.count == table.num_rows
        rows = list(zip(*(table[name].to_pylist() for name in table.column_names), strict=True))
        for slot, last in enumerate(self.slots()):
            values = [value for kind, offset, value in rows if kind == "write" and offset == 8 * slot]
            assert values == list(range(1, len(values) + 1))
            assert abs(len(values) - last) <= slack


def any_moment() -> None:
    time.sleep(random.uniform(0.0, 0.5))


def kill(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def check_left_by_a_crash(counting: Counting, mmiotap: Run, *, slack: int) -> None:
    """The trace opens as it lies there, says that it is incomplete, and is the same after ``recover``."""
    trace = open_trace(counting.trace)
    assert trace.state == "incomplete"
    counting.check(trace, slack=slack)
    info = mmiotap("info", counting.trace)
    assert info.status == 0
    assert "incomplete" in info.stdout
    assert mmiotap("recover", counting.trace).status == 0
    recovered = open_trace(counting.trace)
    assert recovered.state == "recovered"
    assert recovered.count == trace.count
    counting.check(recovered, slack=slack)


@pytest.mark.parametrize("times", MOMENTS)
def test_the_program_is_killed(compile_c: Compile, start: Start, tmp_path: Path, times: int) -> None:
    program = compile_c(COUNT)
    for index in range(times):
        counting = Counting(start, program, tmp_path / str(index), FOREVER, "--buffer", "1M")
        any_moment()
        kill(counting.pid)
        result = counting.recorder.wait()
        assert result.status == -signal.SIGKILL
        assert "lost: 0" in result.stderr
        trace = open_trace(counting.trace)
        assert trace.state == "finished"
        assert trace.info["exit"] == {"status": None, "signal": signal.SIGKILL}
        counting.check(trace, slack=1)


@pytest.mark.parametrize("times", MOMENTS)
def test_the_recorder_is_killed(compile_c: Compile, start: Start, mmiotap: Run, tmp_path: Path, times: int) -> None:
    """The buffer has room for every row, and some are sealed: all must be there when the program has run to its end."""
    program = compile_c(COUNT)
    for index in range(times):
        counting = Counting(start, program, tmp_path / str(index), LAST, "--buffer", "16M")
        moment = random.randrange(LAST * 3 // 4)
        while counting.slots()[0] < moment:
            time.sleep(0.001)
        kill(counting.recorder.pid)
        assert counting.recorder.wait().status == -signal.SIGKILL  # the pipes close when the program has ended, too
        assert counting.slots() == (LAST, LAST)
        check_left_by_a_crash(counting, mmiotap, slack=0)


@pytest.mark.parametrize("times", MOMENTS)
def test_both_are_killed(compile_c: Compile, start: Start, mmiotap: Run, tmp_path: Path, times: int) -> None:
    program = compile_c(COUNT)
    for index in range(times):
        counting = Counting(start, program, tmp_path / str(index), FOREVER, "--buffer", "1M")
        any_moment()
        kill(*random.sample([counting.pid, counting.recorder.pid], 2))
        counting.recorder.wait()
        check_left_by_a_crash(counting, mmiotap, slack=1)
