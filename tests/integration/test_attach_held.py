"""A thread is brought to where it may stand by ptrace, and does not know afterwards."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from conftest import Compile, Start
from mmiotap.sources.inside import calling, held, loading, record
from mmiotap.sources.inside.held import Held
from mmiotap.sources.launch import NoAgentError
from mmiotap.sources.ptrace.calls import Gone

# Pushes and pops its flags all the time, as the agent does around an instruction that it runs; makes no system call.
FLAGS = r"""
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>

extern char place[];
static volatile sig_atomic_t stop;
static void on_term(int number) { (void)number; stop = 1; }

int main(void)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
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


# Two threads that wait for all time; ends with status 3.
ENDING = r"""
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <unistd.h>

static void on_term(int number) { (void)number; _exit(3); }
static void *wait_long(void *unused) { for (;;) pause(); return unused; }

int main(void)
{
    pthread_t thread;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGTERM, on_term);
    pthread_create(&thread, 0, wait_long, 0);
    puts("ready");
    fflush(stdout);
    wait_long(0);
}
"""


@pytest.mark.parametrize("patching", ["auto"], indirect=True)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 3), (signal.SIGKILL, -signal.SIGKILL)])
def test_the_end_of_a_child_that_is_held_is_told_to_us(
    compile_c: Compile, start: Start, number: int, status: int
) -> None:
    """We are its parent, and have to wait for it once more."""
    program = start(compile_c(ENDING))
    assert program.process.stdout is not None
    assert program.process.stdout.readline() == "ready\n"

    @held.apart
    def hold_and_kill() -> None:
        with Held(program.pid) as threads:
            threads.hold_all()
            os.kill(program.pid, number)
            threads.until(lambda thread: thread.registers().rip == 0, lambda _: False, "it runs on")

    for _ in range(2):  # when it is a zombie, too
        with pytest.raises(Gone):
            hold_and_kill()
    assert program.wait().status == status


# A thread waits for its vforked child, uninterruptibly, until there is a file "go"; the other one for all time.
VFORKED = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static void *work(void *device)
{
    for (;;) {
        *(volatile int *)device += 1;
        usleep(1000);
    }
    return device;
}

int main(void)
{
    int fd = open("device", O_RDWR | O_CREAT, 0600);
    if (ftruncate(fd, 4096))
        return 3;
    pthread_t thread;
    pthread_create(&thread, 0, work, mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    puts("ready");
    fflush(stdout);
    pid_t child = vfork();
    if (child == 0) {
        while (access("go", F_OK))
            usleep(1000);
        _exit(0);
    }
    waitpid(child, 0, 0);
    puts("back");
    return 0;
}
"""


@pytest.mark.parametrize("patching", ["auto"], indirect=True)
def test_a_thread_that_cannot_stop_goes_on_when_it_can(compile_c: Compile, start: Start, tmp_path: Path) -> None:
    """It is not left to stop for somebody who has gone, while the recording goes on."""
    program = start(compile_c(VFORKED))
    assert program.process.stdout is not None
    assert program.process.stdout.readline() == "ready\n"
    end = threading.Event()
    with ThreadPoolExecutor() as pool:
        recording = pool.submit(
            record.attach, program.pid, until=end, maps=["**/device"], path=tmp_path / "trace", report=pytest.fail
        )
        try:
            while not (recording.done() or "/live/arena" in Path(f"/proc/{program.pid}/maps").read_text()):
                time.sleep(0.01)
            (tmp_path / "go").touch()
            ended = program.wait()
        finally:
            end.set()
        assert recording.result().mappings == 1
    assert (ended.status, ended.stdout) == (0, "back\n")


# The first thread waits for all time; the second one is in the middle of loading a library until there is a file "go".
LOADING = r"""
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

static void *load(void *path) { return dlopen(path, RTLD_NOW); }

int main(int argc, char **argv)
{
    pthread_t thread;
    void *loaded;
    pthread_create(&thread, 0, load, argv[1]);
    while (access("in", F_OK))
        usleep(1000);
    puts("ready");
    fflush(stdout);
    while (access("go", F_OK))
        usleep(1000);
    pthread_join(thread, &loaded);
    return argc != 2 || !loaded;
}
"""

LOADED = r"""
#include <fcntl.h>
#include <unistd.h>
__attribute__((constructor)) static void wait_long(void)
{
    close(open("in", O_CREAT, 0600));
    while (access("go", F_OK))
        usleep(1000);
}
"""


@pytest.mark.parametrize("patching", ["auto"], indirect=True)
def test_a_call_that_does_not_come_back(
    compile_c: Compile, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The load is given up, which is said, and the thread goes on where it was."""
    library = compile_c(LOADED, "late.so", "-shared", "-fPIC")
    program = start(compile_c(LOADING), library)
    assert program.process.stdout is not None
    assert program.process.stdout.readline() == "ready\n"
    monkeypatch.setattr(calling, "PATIENCE", 1.0)
    with pytest.raises(NoAgentError, match="does not come back"):
        record.attach(
            program.pid, until=threading.Event(), maps=["**/device"], path=tmp_path / "trace", report=pytest.fail
        )
    (tmp_path / "go").touch()
    assert program.wait().status == 0


# A signal of the agent's waits until there is a file "go".
WAITING = r"""
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    sigset_t set;
    int number = 0;
    sigemptyset(&set);
    sigaddset(&set, SIGFPE);
    sigprocmask(SIG_BLOCK, &set, 0);
    if (argc != 2 || (atoi(argv[1]) ? kill(getpid(), SIGFPE) : raise(SIGFPE)))
        return 2;
    puts("ready");
    fflush(stdout);
    while (access("go", F_OK))
        usleep(1000);
    return sigwait(&set, &number) || number != SIGFPE;
}
"""


@pytest.mark.parametrize("to_all", ["0", "1"])
@pytest.mark.parametrize("patching", ["auto"], indirect=True)
def test_a_signal_that_waits_keeps_the_agent_out(
    compile_c: Compile, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to_all: str
) -> None:
    program = start(compile_c(WAITING), to_all)
    assert program.process.stdout is not None
    assert program.process.stdout.readline() == "ready\n"
    monkeypatch.setattr(loading, "_LOOKING", 0.5)
    with pytest.raises(NoAgentError, match="none of its threads"):
        record.attach(program.pid, until=threading.Event(), maps=["**/x"], path=tmp_path / "trace", report=pytest.fail)
    (tmp_path / "go").touch()
    assert program.wait().status == 0
