"""`mmiotap attach` through the agent: it comes into a process that runs, records it, and leaves it as it was."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from conftest import MMIOTAP, WAYS, Compile, Run, Start, Started, until
from mmiotap.sources.inside import loading, record
from mmiotap.trace import layout
from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.reader import open_trace

# Never stops, while whoever started it lives, touching `first`, and `second` from the moment that `go` exists; faults
# of its own, a signal every two milliseconds whose handler touches the device with SIGSEGV blocked, a thread that
# blocks all signals. With a fourth argument only so many of its threads never stop, the others rest now and then.
BUSY = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <unistd.h>

enum { THREADS = 4, SIZE = 8192 };
static volatile uint32_t *first, *volatile second;
static volatile sig_atomic_t stop, alarms, faults, wrong;
static char *hole;
static uintptr_t tireless = THREADS;

static void on_alarm(int number) { (void)number; alarms++; first[900] = first[900] + 1; }
static void on_term(int number) { (void)number; stop = 1; }
static void on_fault(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    if (info->si_addr != hole)
        _exit(99);
    faults++;
    mprotect(hole, 4096, PROT_READ | PROT_WRITE);
}

static void *map(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    if (fd < 0 || ftruncate(fd, SIZE))
        exit(3);
    void *made = mmap(0, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return made;
}

static void *work(void *argument)
{
    uintptr_t id = (uintptr_t)argument;
    uint32_t count = 0;
    sigset_t all;
    if (id == 3) {
        sigfillset(&all);
        pthread_sigmask(SIG_BLOCK, &all, 0);
    }
    while (!stop) {
        count++;
        first[16 * id] = count;
        if (first[16 * id] != count)
            wrong++;
        if (second)
            second[16 * id] += 1;
        if (id == 1) {
            hole[0] = 1;
            mprotect(hole, 4096, PROT_NONE);
        }
        if (id == 2 && count % 64 == 0)
            usleep(50);
        if (id >= tireless && count % 64 == 0)
            usleep(5000);
    }
    sigset_t now;
    pthread_sigmask(SIG_SETMASK, 0, &now);
    if (sigismember(&now, SIGSEGV) != (id == 3) || sigismember(&now, SIGTRAP) != (id == 3))
        wrong++;
    return (void *)(uintptr_t)count;
}

int main(int count, char **argument)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (count > 4)
        tireless = atoi(argument[4]);
    first = map(argument[1]);
    hole = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct sigaction alarmed = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    sigaddset(&alarmed.sa_mask, SIGSEGV);
    sigaction(SIGALRM, &alarmed, 0);
    struct sigaction faulted = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &faulted, 0);
    signal(SIGTERM, on_term);
    struct itimerval timer = {{0, 2000}, {0, 2000}};
    setitimer(ITIMER_REAL, &timer, 0);
    pthread_t threads[THREADS];
    for (uintptr_t id = 0; id < THREADS; id++)
        pthread_create(threads + id, 0, work, (void *)id);
    puts("ready");
    fflush(stdout);
    while (!stop) {
        if (!second && !access(argument[3], F_OK))
            second = map(argument[2]);
        usleep(1000);
    }
    for (uintptr_t id = 0; id < THREADS; id++) {
        void *done;
        pthread_join(threads[id], &done);
        if (first[16 * id] != (uint32_t)(uintptr_t)done || (second && !second[16 * id]))
            wrong++;
    }
    struct sigaction now;
    sigaction(SIGALRM, 0, &now);
    if (now.sa_handler != on_alarm || now.sa_flags & SA_SIGINFO || !sigismember(&now.sa_mask, SIGSEGV))
        wrong++;
    sigaction(SIGSEGV, 0, &now);
    if (now.sa_sigaction != on_fault)
        wrong++;
    printf("wrong: %d, faults: %d, alarms: %d\n", (int)wrong, faults > 0, alarms > 0);
    return wrong != 0;
}
"""

#: Accesses to the device in the program above, and as many for what a compiler makes of them.
SITES = 20
#: More than there are of libc's futexes: they are replaced once, with a page for each at most.
FUTEXES = 100

RIGHT = "ready\nwrong: 0, faults: 1, alarms: 1\n"


class Busy:
    """The program above, running."""

    def __init__(self, started: Started, folder: Path) -> None:
        self.started = started
        self.pid = started.pid
        self._go = folder / "go"
        until(lambda: (folder / "first").exists() and len(tasks(self.pid)) == 5)

    def map_second(self) -> None:
        self._go.touch()
        until(lambda: "/second" in maps(self.pid))

    def check_end(self) -> None:
        """It ends as it would have."""
        os.kill(self.pid, signal.SIGTERM)
        result = self.started.wait()
        assert (result.stdout, result.status) == (RIGHT, 0), result.stderr

    @contextmanager
    def watched(self, doing: str) -> Iterator[None]:
        """What fails inside says what had become of the program."""
        try:
            yield
        except BaseException as error:
            error.add_note(f"{doing}: the program {self._fate()}")
            raise

    def _fate(self) -> str:
        """It is left to be waited for. What is said of a thread that we still trace is no end."""
        found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None or found.si_code == os.CLD_TRAPPED:
            state = next(line for line in status(self.pid, str(self.pid)) if line.startswith("State:"))
            return f"has not ended; {state}"
        how = f"status {found.si_status}" if found.si_code == os.CLD_EXITED else signal.strsignal(found.si_status)
        return f"has ended: {how}"


@pytest.fixture
def run_busy(compile_c: Compile, start: Start, tmp_path: Path) -> Callable[..., Busy]:
    words = [tmp_path / name for name in ("first", "second", "go")]
    return lambda *more: Busy(start(compile_c(BUSY, "busy"), *words, *more), tmp_path)


@pytest.fixture
def busy(run_busy: Callable[..., Busy]) -> Busy:
    return run_busy()


@pytest.fixture
def gentle(run_busy: Callable[..., Busy]) -> Busy:
    """The same, in such a way that the recorder keeps up."""
    return run_busy("0")


@pytest.fixture
def steady(run_busy: Callable[..., Busy]) -> Busy:
    """The same with one thread that never stops: four would take the recorder's processor from it."""
    return run_busy("1")


def maps(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


def tasks(pid: int) -> list[str]:
    return [folder.name for folder in Path(f"/proc/{pid}/task").iterdir()]


def kernel_signals(pid: int) -> dict[str, int]:
    """What the kernel knows of a process's handlers, and of what its threads have blocked."""
    known: dict[str, int] = {}
    for _ in range(50):
        for tid in tasks(pid):
            for name, _, value in (line.partition(":") for line in status(pid, tid)):
                if name in ("SigBlk", "SigIgn", "SigCgt"):
                    known[f"{tid} {name}"] = int(value, 16) & known.get(f"{tid} {name}", -1)
        time.sleep(0.002)
    return known


def status(pid: int, tid: str) -> list[str]:
    return Path(f"/proc/{pid}/task/{tid}/status").read_text().splitlines()


def held(pid: int) -> tuple[list[str], list[str]]:
    """The mappings without those of thunks, which come when a site is first patched, in whichever round; and those."""
    lines = maps(pid).splitlines()
    code = [line for line in lines if "mmiotap-code" in line]
    return [line for line in lines if line not in code], code


def recorded(pid: int) -> bool:
    return "/live/arena" in maps(pid)


def check_left(pid: int) -> None:
    """Nothing is left in the process but the agent: itself, its memory, its code."""
    assert not recorded(pid)
    for name in ("/first", "/second"):
        lines = [line for line in maps(pid).splitlines() if line.endswith(name)]
        assert [line.split()[1] for line in lines] in ([], ["rw-s"])


def test_all_that_threads_do_is_recorded_and_they_notice_nothing(
    gentle: Busy, start: Start, tmp_path: Path, patching: str
) -> None:
    before = kernel_signals(gentle.pid)
    command = ["attach", "--engine", "agent", "--map", f"{tmp_path}/*", "-o", "trace", str(gentle.pid)]
    recorder = start(*MMIOTAP, *command)
    until(lambda: recorded(gentle.pid))
    gentle.map_second()
    time.sleep(0.5)
    os.kill(recorder.pid, signal.SIGINT)
    result = recorder.wait()
    assert result.status == 0, result.stderr
    assert "2 mappings" in result.stderr
    assert kernel_signals(gentle.pid) == before
    check_left(gentle.pid)
    gentle.check_end()

    trace = open_trace(tmp_path / "trace")
    assert trace.state == "finished"
    assert trace.info["source"] == "agent"
    assert [Path(mapping.path).name for mapping in trace.mappings] == ["first", "second"]
    assert [mapping.prot for mapping in trace.mappings] == ["rw", "rw"]
    rows = trace.events().to_pylist()
    counts: dict[tuple[int, int], list[int]] = {}
    for row in rows:
        if row["kind"] == "write" and row["map_id"] == 1 and row["offset"] != 3600:
            counts.setdefault((row["tid"], row["offset"]), []).append(row["value"])
    assert len(counts) == 4
    for values in counts.values():
        assert values == list(range(values[0], values[0] + len(values)))
    assert any(row["map_id"] == 2 for row in rows)
    assert any(row["flags"] & layout.PATCHED for row in rows) == (patching == "1")
    assert len(rows) == trace.count
    assert trace.lost == 0


def test_python_with_the_mmap_module(start: Start, mmiotap: Run, tmp_path: Path) -> None:
    program = tmp_path / "driver.py"
    program.write_text(
        "import mmap, pathlib, time\n"
        "file = pathlib.Path('device'); file.write_bytes(bytes(4096))\n"
        "opened = file.open('r+b')\n"
        "first = mmap.mmap(opened.fileno(), 4096)\n"
        "number = 0\n"
        "while not pathlib.Path('end').exists():\n"
        "    number += 1\n"
        "    first[0:4] = number.to_bytes(4, 'little')\n"
        "    assert int.from_bytes(first[0:4], 'little') == number\n"
        "    with mmap.mmap(opened.fileno(), 4096) as other:\n"
        "        assert other[0] == number & 255\n"
        "    time.sleep(0.001)\n"
        "print('right')\n"
    )
    driver = start(sys.executable, program)
    until(lambda: (tmp_path / "device").exists() and "/device" in maps(driver.pid))
    words = ["--engine", "agent", "--map", f"{tmp_path}/*", "--duration", "1", "-o", "trace"]
    result = mmiotap("attach", *words, str(driver.pid))
    assert result.status == 0, result.stderr
    (tmp_path / "end").touch()
    ended = driver.wait()
    assert (ended.status, ended.stdout) == (0, "right\n"), ended.stderr
    trace = open_trace(tmp_path / "trace")
    assert len(trace.mappings) > 2  # the one that was there, and those that came
    assert trace.lost == 0


def cycles(busy: Busy, tmp_path: Path, patching: str, count: int, seconds: float = 0.005) -> None:
    before = kernel_signals(busy.pid)
    memory = events = 0
    for number in range(count):
        if number == 2:
            busy.map_second()
        with busy.watched(f"cycle {number}"):
            result = record.attach(
                busy.pid,
                until=threading.Event(),
                seconds=seconds,
                maps=[f"{tmp_path}/*"],
                path=tmp_path / "trace",
                buffer=1 << 20,
                patch=patching,
                force=True,
                report=pytest.fail,
            )
            assert result.mappings == (1 if number < 2 else 2)
            check_left(busy.pid)
        events += result.events
        if number == count // 2:
            memory = len(held(busy.pid)[0])
    assert events > count
    assert kernel_signals(busy.pid) == before
    other, code = held(busy.pid)
    # What is hot late takes memory late; a leak would be a mapping each time.
    assert len(other) <= memory + 4 < memory + count // 2
    assert len(code) <= 2 * (SITES + FUTEXES)
    busy.check_end()


def test_attached_and_left_while_all_threads_are_busy(busy: Busy, tmp_path: Path, patching: str) -> None:
    cycles(busy, tmp_path, patching, 20, seconds=0.02)


@pytest.mark.timeout(600)
def test_attached_and_left_three_hundred_times(steady: Busy, tmp_path: Path, patching: str) -> None:
    cycles(steady, tmp_path, patching, 300 // len(WAYS))


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_attached_and_left_ten_thousand_times(steady: Busy, tmp_path: Path, patching: str) -> None:
    cycles(steady, tmp_path, patching, 10_000 // len(WAYS))


def test_the_time_begins_when_the_agent_has_joined(
    gentle: Busy, tmp_path: Path, patching: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine that has much else to do, that takes long."""
    late, load, end = 0.0, loading.load, threading.Event()

    def load_slowly(pid: int, agent: Path) -> None:
        nonlocal late
        load(pid, agent)
        late = 1000

    monkeypatch.setattr(loading, "load", load_slowly)
    monkeypatch.setattr(record, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + late))
    with ThreadPoolExecutor() as pool:
        recording = pool.submit(
            record.attach,
            gentle.pid,
            until=end,
            seconds=500,
            maps=[f"{tmp_path}/*"],
            path=tmp_path / "trace",
            patch=patching,
            report=pytest.fail,
        )
        until(lambda: recording.done() or recorded(gentle.pid))
        time.sleep(0.5)  # enough to leave it in
        gentle.map_second()
        end.set()
        assert recording.result().mappings == 2
    gentle.check_end()


def test_attached_and_left_by_command(busy: Busy, mmiotap: Run, tmp_path: Path) -> None:
    before = kernel_signals(busy.pid)
    for _ in range(3):
        words = ["-f", "--map", f"{tmp_path}/*", "--duration", "0.1", "-o", "trace"]
        result = mmiotap("attach", *words, str(busy.pid))
        assert result.status == 0, result.stderr
        assert ", 1 mapping, " in result.stderr
        check_left(busy.pid)
    assert kernel_signals(busy.pid) == before
    busy.check_end()


def test_a_second_recorder_is_refused(busy: Busy, start: Start, mmiotap: Run, tmp_path: Path) -> None:
    first = start(*MMIOTAP, "attach", "--map", f"{tmp_path}/*", "-o", "first.trace", str(busy.pid))
    # It has come in, and does not hold the process any more.
    until(lambda: recorded(busy.pid) and "TracerPid:\t0" in status(busy.pid, str(busy.pid)))
    for engine in ("agent", "ptrace"):
        second = mmiotap("attach", "--engine", engine, "-o", "second.trace", str(busy.pid))
        assert second.status == 1
        assert second.stderr.count("\n") == 1
        assert "is being recorded already" in second.stderr
        assert not (tmp_path / "second.trace").exists()
    os.kill(first.pid, signal.SIGINT)
    assert first.wait().status == 0
    busy.check_end()


def test_the_program_outlives_its_recorder_and_can_be_attached_to_again(
    busy: Busy, start: Start, mmiotap: Run, tmp_path: Path
) -> None:
    first = start(*MMIOTAP, "attach", "--map", f"{tmp_path}/*", "-o", "first.trace", str(busy.pid))
    until(lambda: recorded(busy.pid))
    busy.map_second()
    first.kill()
    first.wait()
    words = ["--engine", "agent", "--map", f"{tmp_path}/*", "--duration", "0.3", "-o", "second.trace"]
    second = mmiotap("attach", *words, str(busy.pid))
    assert second.status == 0, second.stderr
    assert "2 mappings" in second.stderr
    check_left(busy.pid)
    busy.check_end()


def test_a_library_that_is_loaded_later_is_seen(compile_c: Compile, start: Start, tmp_path: Path) -> None:
    """By a name without a slash: the dynamic loader looks where the program that calls it says."""
    (tmp_path / "lib").mkdir()
    compile_c(
        "#include <fcntl.h>\n#include <sys/mman.h>\n"
        "volatile int *map(void)\n"
        '{ return mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, open("late", O_RDWR), 0); }',
        "lib/liblate.so",
        "-shared",
        "-fPIC",
    )
    program = compile_c(
        "#include <dlfcn.h>\n#include <stdio.h>\n#include <unistd.h>\n"
        "int main(void) {\n"
        '  while (access("go", F_OK)) usleep(1000);\n'
        '  void *library = dlopen("liblate.so", RTLD_LAZY);\n'
        "  if (!library || dlerror()) return 1;\n"
        '  volatile int *late = ((volatile int *(*)(void))dlsym(library, "map"))();\n'
        "  late[3] = 42;\n"
        '  printf("%d\\n", late[3]);\n'
        '  return dlopen("libnone.so", RTLD_LAZY) || !dlerror();\n'
        "}",
        "program",
        "-Wl,-rpath,$ORIGIN/lib,--enable-new-dtags",
    )
    (tmp_path / "late").write_bytes(bytes(4096))
    driver = start(program)
    recorder = start(*MMIOTAP, "attach", "--map", "**/late", "-o", "trace", str(driver.pid))
    until(lambda: recorded(driver.pid))
    (tmp_path / "go").touch()
    ended = driver.wait()
    assert (ended.status, ended.stdout) == (0, "42\n")
    assert recorder.wait().status == 0
    rows = open_trace(tmp_path / "trace").events().to_pylist()
    assert [(row["kind"], row["offset"], row["value"]) for row in rows if row["kind"] in ("read", "write")] == [
        ("write", 12, 42),
        ("read", 12, 42),
    ]


STATIC = r"""
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
int main(void)
{
    int fd = open("device", O_RDWR | O_CREAT, 0600);
    if (ftruncate(fd, 4096))
        return 1;
    volatile int *device = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    while (access("end", F_OK)) {
        device[1]++;
        usleep(1000);
    }
    return 0;
}
"""


@pytest.mark.parametrize("patching", ["auto"], indirect=True)
def test_where_the_agent_cannot_go(compile_c: Compile, start: Start, mmiotap: Run, tmp_path: Path) -> None:
    driver = start(compile_c(STATIC, "static", "-static"))
    until(lambda: (tmp_path / "device").exists())
    words = ["--map", f"{tmp_path}/*", "--duration", "0.3", "-o", "trace", str(driver.pid)]
    refused = mmiotap("attach", "--engine", "agent", *words)
    assert refused.status == 1
    assert refused.stderr.count("\n") == 1
    assert "without glibc" in refused.stderr
    assert "--engine ptrace" in refused.stderr
    result = mmiotap("attach", *words)
    assert result.status == 0
    assert "recorded from outside" in result.stderr
    assert open_trace(tmp_path / "trace").info["source"] == "ptrace"
    (tmp_path / "end").touch()
    assert driver.wait().status == 0


def test_what_cannot_be_attached_to(start: Start, tmp_path: Path) -> None:
    ended = start("true")
    while Path(f"/proc/{ended.pid}/stat").read_text().split()[2] != "Z":
        time.sleep(0.01)
    agent = tmp_path
    for pid, why in ((ended.pid, "zombie"), (2**22 + 1, "there is no process"), (os.getpid(), "mmiotap itself")):
        with pytest.raises(MmiotapError, match=why):
            record.check(pid, agent)
