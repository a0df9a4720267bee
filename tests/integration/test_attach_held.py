"""A thread is brought to where it may stand by ptrace, and does not know afterwards."""

import os
import signal

import pytest

from conftest import Compile, Start
from mmiotap.sources.inside import held
from mmiotap.sources.inside.held import Held

# Pushes and pops its flags all the time, as the agent does around an instruction that it runs; makes no system call.
FLAGS = r"""
#include <signal.h>
#include <stdio.h>

extern char place[];
static volatile sig_atomic_t stop;
static void on_term(int number) { (void)number; stop = 1; }

int main(void)
{
    signal(SIGTERM, on_term);
    printf("%p\n", (void *)place);
    fflush(stdout);
    unsigned long seen = 0;
    while (!stop) {
        for (int turn = 0; turn < 30; turn++) {
            unsigned long flags;
            __asm__ volatile("pushfq\n nop\n popfq\n nop\n pushfq\n pop %0" : "=r"(flags));
            seen |= flags;
        }
        __asm__ volatile(".globl place\n place: nop");
    }
    printf("%lx\n", seen & 0x100);
    return 0;
}
"""


@pytest.mark.parametrize("patching", ["auto"], indirect=True)
def test_stepped_where_flags_are_pushed_and_popped(compile_c: Compile, start: Start) -> None:
    program = start(compile_c(FLAGS))
    assert program.process.stdout is not None
    place = int(program.process.stdout.readline(), 16)
    for _ in range(20):
        with Held(program.pid) as threads:
            thread = threads.until(
                lambda thread: thread.registers().rip == place, lambda _: False, "it does not come there"
            )
            assert thread.registers().rip == place
    os.kill(program.pid, signal.SIGTERM)
    ended = program.wait()
    assert (ended.status, ended.stdout) == (0, "0\n")


@pytest.mark.parametrize("patching", ["auto"], indirect=True)
def test_stopped_where_it_hardly_gets_a_processor(
    compile_c: Compile, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not running is not refusing to stop."""
    processor = str(min(os.sched_getaffinity(0)))
    program = start("taskset", "-c", processor, "chrt", "-i", "0", compile_c(FLAGS))
    assert program.process.stdout is not None
    assert program.process.stdout.readline()
    hogs = [start("taskset", "-c", processor, "sh", "-c", "while :; do :; done") for _ in range(3)]
    monkeypatch.setattr(held, "_STOPPING", 0.002)
    for _ in range(5):
        with Held(program.pid) as threads:
            threads.hold_all()
            assert [thread.tid for thread in threads.still()] == [program.pid]
    for hog in hogs:
        hog.kill()
    os.kill(program.pid, signal.SIGTERM)
    ended = program.wait()
    assert (ended.status, ended.stdout) == (0, "0\n")
