"""Hooks on real programs: what handlers see and answer, and what becomes of the program if they cannot."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import TIME_LIMIT, Compile
from mmiotap.kmmio.access import Access
from mmiotap.kmmio.place import AtAddress, InMapping, Place, parse
from mmiotap.kmmio.probe import Probe, ProbeExists
from mmiotap.sources import agent
from mmiotap.sources.hooks import HookCounts, Hooks
from mmiotap.sources.recording import RecordResult
from mmiotap.trace import layout
from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.reader import open_trace

#: Seconds that no handler takes, however busy the machine is.
AMPLE = 30.0

#: Does what it is told on a pipe, and answers on another.
DRIVER = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static unsigned long do_one(char command, char *at, unsigned long value)
{
    switch (command) {
    case 'b': return *(volatile uint8_t *)at;
    case 'r': return *(volatile uint32_t *)at;
    case 'q': return *(volatile uint64_t *)at;
    case 'w': *(volatile uint32_t *)at = value; return value;
    case 'm': __asm__ volatile("addl %1, %0" : "+m"(*(uint32_t *)at) : "r"((uint32_t)value)); return 0;
    case 'x': return __atomic_exchange_n((uint32_t *)at, value, __ATOMIC_SEQ_CST);
    case 'a': return __atomic_fetch_add((uint32_t *)at, value, __ATOMIC_SEQ_CST);
    case 'o': __atomic_fetch_or((uint32_t *)at, value, __ATOMIC_SEQ_CST); return 0;
    case 't': __asm__ volatile("fxsave64 %0" : "=m"(*(char (*)[512])at)); return 0;
    case 'l': {
        union { long double wide; unsigned long low; } loaded;
        __asm__ volatile("fldt %1; fstpt %0" : "=m"(loaded.wide) : "m"(*(long double *)at));
        return loaded.low;
    }
    case 'p': return (unsigned long)at;
    case 'i': return getpid();
    }
    return 0;
}

int main(int argc, char **argv)
{
    alarm(120);
    int fd = open(argv[1], O_RDWR);
    char *base = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    FILE *commands = fopen(argv[2], "r"), *answers = fopen(argv[3], "w");
    setvbuf(answers, 0, _IOLBF, 0);
    char command, in_child;
    unsigned long offset, value;
    while (fscanf(commands, " %c%c %lu %lu", &command, &in_child, &offset, &value) == 4) {
        pid_t child = in_child == 'c' ? fork() : 0;
        if (child) {
            waitpid(child, 0, 0);
            continue;
        }
        fprintf(answers, "%lu\n", do_one(command, base + offset, value));
        if (in_child == 'c')
            _exit(0);
    }
    return 0;
}
"""


class Driver:
    """The device's file, and a DRIVER on it that is recorded with hooks."""

    def __init__(self, compile_c: Compile, folder: Path, patching: str) -> None:
        self.program = compile_c(DRIVER)
        self.registers, self.trace = folder / "registers", folder / "t"
        self.registers.write_bytes(bytes(range(1, 256)) * 32 + bytes(32))
        self._before = self.registers.read_bytes()
        self._pipes = folder / "commands", folder / "answers"
        self._patch = patching
        for pipe in self._pipes:
            os.mkfifo(pipe)

    def tell(self, command: str, offset: int = 0, value: int = 0, *, child: bool = False) -> int:
        """One command's answer, for a script that :meth:`run` runs."""
        self._commands.write(f"{command}{'c' if child else '.'} {offset} {value}\n")
        return int(self._answers.readline())

    def run(self, hooks: Hooks, script: Callable[[], object], **options: object) -> RecordResult:
        """Record it while a script in another thread tells it what to do."""
        failures: list[BaseException] = []

        def work() -> None:
            try:
                with self._pipes[0].open("w", buffering=1) as self._commands, self._pipes[1].open() as self._answers:
                    script()
            except BaseException as error:
                failures.append(error)

        worker = threading.Thread(target=work)
        worker.start()
        command = [str(self.program), str(self.registers), *map(str, self._pipes)]
        result = agent.record(
            command,
            maps=[str(self.registers)],
            path=self.trace,
            hooks=hooks,
            patch=int(self._patch) if self._patch.isdecimal() else self._patch,
            **options,  # type: ignore[arg-type]
        )
        worker.join(TIME_LIMIT)
        if failures:
            raise failures[0]
        assert result.status == 0
        return result

    def on(self, offset: int, length: int) -> Place:
        return InMapping(str(self.registers), offset, length)

    @property
    def untouched(self) -> bool:
        return self.registers.read_bytes() == self._before

    def device(self, offset: int, width: int = 4) -> int:
        """What the file has there."""
        return int.from_bytes(self.registers.read_bytes()[offset : offset + width], "little")

    def rows(self) -> list[tuple[str, int, int, bool]]:
        """Kind, offset, value and whether a handler had a hand in it."""
        table = open_trace(self.trace).events(["kind", "offset", "value", "flags"])
        rows = zip(*(table.column(name).to_pylist() for name in table.column_names), strict=True)
        return [
            (kind, offset, value, bool(flags & layout.HOOKED))
            for kind, offset, value, flags in rows
            if kind in ("read", "write", "unknown")
        ]


@pytest.fixture
def driver(compile_c: Compile, tmp_path: Path, patching: str) -> Driver:
    return Driver(compile_c, tmp_path, patching)


class Seen:
    """Handlers that note every access and do one thing more."""

    def __init__(self, do: Callable[[Access], None] = lambda access: None) -> None:
        self.lines: list[tuple[str, str, int, int | None]] = []
        self._do = do

    def pre(self, access: Access) -> None:
        self.lines.append(("pre", access.kind, access.offset, access.value))
        self._do(access)

    def post(self, access: Access) -> None:
        self.lines.append(("post", access.kind, access.offset, access.value))

    def probe(self) -> Probe:
        return Probe(0, 1, self.pre, self.post)


def hooked(place: Place, probe: Probe, **options: float) -> Hooks:
    hooks = Hooks(limit=options.get("limit", AMPLE))
    hooks.add(place, probe)
    return hooks


def test_an_answered_device_is_not_touched(driver: Driver) -> None:
    registers = {0: 7}

    def device(access: Access) -> None:
        if access.kind == "read":
            access.answer(registers.get(access.offset, 0))
        else:
            assert access.value is not None
            registers[access.offset] = access.value
            access.swallow()

    def script() -> None:
        for number in range(1, 20):
            assert driver.tell("w", 8, number) == number
            assert driver.tell("r", 8) == number
            assert driver.tell("r", 0) == 7
            driver.tell("m", 8, 100)
            assert driver.tell("a", 8, 5) == number + 100
            assert driver.tell("x", 8, 3) == number + 105
            driver.tell("o", 8, 8)
            assert driver.tell("r", 8) == 11

    seen = Seen(device)
    hooks = hooked(driver.on(0, 64), seen.probe())
    driver.run(hooks, script)
    assert driver.untouched
    assert all(is_hooked for *_, is_hooked in driver.rows())
    assert hooks.counts.unanswered == hooks.counts.failed == 0
    assert hooks.counts.asked == 19 * 8
    assert [line for line in seen.lines if line[2] == 8][:8] == [
        ("pre", "write", 8, 1),
        ("post", "write", 8, 1),
        ("pre", "read", 8, None),
        ("post", "read", 8, 1),
        ("pre", "read", 8, None),
        ("post", "read", 8, 1),
        ("pre", "write", 8, 101),
        ("post", "write", 8, 101),
    ]


def test_an_observed_device_is_as_ever(driver: Driver) -> None:
    seen = Seen()

    def script() -> None:
        for _ in range(3):
            assert driver.tell("r", 4) == driver.device(4)
            driver.tell("w", 8, 0x11)
            assert driver.tell("a", 8, 0x22) == 0x11
            driver.tell("o", 8, 0x100)

    driver.run(hooked(driver.on(0, 64), seen.probe()), script)
    assert driver.device(8) == 0x133
    assert not any(is_hooked for *_, is_hooked in driver.rows())
    assert seen.lines[:12] == [
        ("pre", "read", 4, None),
        ("post", "read", 4, driver.device(4)),
        ("pre", "write", 8, 0x11),
        ("post", "write", 8, 0x11),
        ("pre", "read", 8, None),
        ("pre", "write", 8, None),  # locked: what it will write is not known before
        ("post", "read", 8, 0x11),
        ("post", "write", 8, 0x33),
        ("pre", "read", 8, None),
        ("pre", "write", 8, None),
        ("post", "read", 8, None),  # the instruction does not tell
        ("post", "write", 8, None),
    ]


def test_values_are_changed(driver: Driver) -> None:
    def pre(access: Access) -> None:
        if access.kind == "write" and access.value is not None:
            access.value ^= 0xFF

    def post(access: Access) -> None:
        if access.kind == "read" and access.value is not None:
            access.value += 1

    def script() -> None:
        for _ in range(3):
            assert driver.tell("r", 4) == driver.device(4) + 1
            driver.tell("w", 8, 0x10)
            assert driver.device(8) == 0xEF
            assert driver.tell("r", 8) == 0xF0
            assert driver.tell("a", 8, 1) == 0xF0
            assert driver.device(8) == 0xF0

    hooks = hooked(driver.on(0, 64), Probe(0, 64, pre, post))
    driver.run(hooks, script)
    assert hooks.counts.failed == 0
    assert driver.rows()[:5] == [
        ("read", 4, driver.device(4) + 1, True),
        ("write", 8, 0xEF, True),
        ("read", 8, 0xF0, True),
        ("read", 8, 0xF0, True),
        ("write", 8, 0xF0, False),
    ]


def test_an_access_is_told_whole(driver: Driver) -> None:
    found: list[Access] = []

    def pre(access: Access) -> None:
        found.append(access)
        if access.kind == "read":
            access.answer(1)

    addresses: list[int] = []
    hooks = hooked(driver.on(16, 4), Probe(0, 4, pre))

    def script() -> None:
        addresses.extend((driver.tell("p", 16), driver.tell("i")))
        assert driver.tell("q", 12) == 1

    driver.run(hooks, script)
    (access,) = found
    # Kept beyond its time, it still tells the same.
    assert (access.address, access.pid, access.tid) == (addresses[0] - 4, addresses[1], addresses[1])
    assert (access.offset, access.width, access.path) == (12, 8, str(driver.registers))
    assert set(access.registers) == {
        *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "rip", "rflags"),
        *(f"r{n}" for n in range(8, 16)),
    }
    assert access.registers["rip"] == access.pc
    assert addresses[0] - 4 in access.registers.values()
    rows = open_trace(driver.trace).events(["kind", "time_ns"]).to_pylist()
    assert [row["time_ns"] for row in rows if row["kind"] == "read"] == [access.time_ns]


def test_neighbours_pass_and_an_access_to_two_probes_has_both(driver: Driver) -> None:
    first, second = Seen(), Seen()
    hooks = hooked(driver.on(4, 4), first.probe())
    hooks.add(driver.on(8, 4), second.probe())

    def script() -> None:
        for offset in (0, 3, 4, 8, 12, 4096):
            assert driver.tell("r", offset) == driver.device(offset)
        assert driver.tell("q", 4) == driver.device(4, 8)
        assert driver.tell("b", 7) == driver.device(7, 1)

    driver.run(hooks, script)
    assert [line[2] for line in first.lines[::2]] == [3, 4, 4, 7]
    assert [line[2] for line in second.lines[::2]] == [8, 4]
    assert len(driver.rows()) == 8


def test_places(driver: Driver) -> None:
    """By a glob, a short name, a map's id, and an address that is known once the program runs."""
    probes = [Seen() for _ in range(4)]
    hooks = hooked(parse(f"{driver.registers.parent}/reg*:0+4"), probes[0].probe())
    hooks.add(parse("registers:4+4"), probes[1].probe())
    hooks.add(parse("1:8+4"), probes[2].probe())
    with pytest.raises(ProbeExists, match="0x4\\+0x4"):
        hooks.add(parse("registers:7+1"), Probe(0, 1))
    with pytest.raises(MmiotapError, match="at most"):
        hooks.add(InMapping("x" * 1000, 0, 4), Probe(0, 1))

    def script() -> None:
        hooks.add(AtAddress(driver.tell("p", 12), 4), probes[3].probe())
        for offset in (0, 4, 8, 12, 16):
            driver.tell("r", offset)

    driver.run(hooks, script)
    assert [[line[2] for line in seen.lines] for seen in probes] == [[0, 0], [4, 4], [8, 8], [12, 12]]


def test_probes_come_and_go_while_the_program_runs(driver: Driver) -> None:
    hooks = Hooks(limit=AMPLE)
    seen: list[int] = []

    def answer(value: int) -> Probe:
        def pre(access: Access) -> None:
            seen.append(value)
            access.answer(value)

        return Probe(0, 4, pre)

    def script() -> None:
        real = driver.device(4)
        for number in range(20):
            for _ in range(3):  # so that it is patched, if it may be
                assert driver.tell("r", 4) == real
            probe = answer(number)
            hooks.add(driver.on(4, 4), probe)
            for child in (False, True, False):
                assert driver.tell("r", 4, child=child) == number
            hooks.remove(probe)
            assert driver.tell("r", 4) == real
            assert driver.tell("r", 4, child=True) == real

    driver.run(hooks, script)
    assert seen == [number for number in range(20) for _ in range(3)]
    assert hooks.counts.unanswered == 0


def test_a_probe_is_removed_when_its_handler_has_returned(driver: Driver) -> None:
    under_way, may_return, returned = threading.Event(), threading.Event(), []

    def pre(access: Access) -> None:
        under_way.set()
        assert may_return.wait(AMPLE)
        returned.append(access)

    probe = Probe(0, 4, pre)
    hooks = hooked(driver.on(4, 4), probe)

    def script() -> None:
        def remove() -> None:
            assert under_way.wait(AMPLE)
            threading.Timer(0.2, may_return.set).start()
            hooks.remove(probe)
            assert len(returned) == 1

        remover = threading.Thread(target=remove)
        remover.start()
        driver.tell("r", 4)
        remover.join(AMPLE)
        driver.tell("r", 4)

    driver.run(hooks, script)
    assert len(returned) == 1


def test_a_handler_may_remove_its_own_probe(driver: Driver) -> None:
    seen = Seen(lambda access: hooks.remove(probe))
    probe = seen.probe()
    hooks = hooked(driver.on(4, 4), probe)

    def script() -> None:
        for _ in range(3):
            assert driver.tell("r", 4) == driver.device(4)

    driver.run(hooks, script)
    assert [line[0] for line in seen.lines] == ["pre"]
    assert hooks.counts.unanswered == hooks.counts.failed == 0


def test_what_is_stepped_is_observed(driver: Driver) -> None:
    def answer(access: Access) -> None:
        access.answer(1)

    reports: list[str] = []
    hooks = Hooks(limit=AMPLE, report=reports.append)
    seen = Seen(answer)
    hooks.add(driver.on(0, 64), seen.probe())
    driver.run(hooks, lambda: [driver.tell("t", 16) for _ in range(3)])
    assert seen.lines == [("pre", "unknown", 16, None), ("post", "unknown", 16, None)] * 3
    assert len(reports) == 3
    assert "cannot be answered" in reports[0]


def test_an_operand_of_ten_bytes_is_answered(driver: Driver) -> None:
    hooks = Hooks(limit=AMPLE)
    seen = Seen(lambda access: access.answer(0x4000_C90F_DAA2_2168_C235))
    hooks.add(driver.on(0, 64), seen.probe())
    low: list[int] = []
    driver.run(hooks, lambda: low.append(driver.tell("l", 32)))
    assert low == [0xC90F_DAA2_2168_C235]
    assert seen.lines[0][:3] == ("pre", "read", 32)
    assert driver.untouched


def test_a_handler_that_raises_is_reported_and_the_device_answers(driver: Driver) -> None:
    def pre(access: Access) -> None:
        if access.offset == 8:
            sys.exit("handlers do not end the recorder")
        access.answer(5)
        raise RuntimeError("no such register")

    reports: list[str] = []
    hooks = Hooks(limit=AMPLE, report=reports.append)
    hooks.add(driver.on(0, 64), Probe(0, 64, pre))

    def script() -> None:
        assert driver.tell("r", 4) == driver.device(4)
        assert driver.tell("r", 8) == driver.device(8)

    driver.run(hooks, script)
    assert hooks.counts.failed == 2
    assert "no such register" in reports[0]
    assert f"{driver.registers}:0x4" in reports[0]
    assert "do not end" in reports[1]
    assert open_trace(driver.trace).info["hooks"]["failed"] == 2


def test_a_locked_write_cannot_be_answered_alone(driver: Driver) -> None:
    def pre(access: Access) -> None:
        if access.kind == "write":
            access.swallow()

    reports: list[str] = []
    hooks = Hooks(limit=AMPLE, report=reports.append)
    hooks.add(driver.on(0, 64), Probe(0, 64, pre))
    driver.run(hooks, lambda: driver.tell("x", 4, 0x55))
    assert driver.device(4) == 0x55
    assert "answer its read" in reports[0]


def test_too_slow_a_handler(driver: Driver, tmp_path: Path) -> None:
    """The device answers; and what the handler says when it is too late reaches nobody."""
    gone_on = threading.Event()

    def pre(access: Access) -> None:
        if access.offset == 4:
            assert gone_on.wait(AMPLE)
        access.answer(0xBAD if access.offset == 4 else 0x600D)

    hooks = hooked(driver.on(0, 64), Probe(0, 64, pre), limit=0.5)

    def script() -> None:
        assert driver.tell("r", 4) == driver.device(4)
        gone_on.set()
        end = time.monotonic() + TIME_LIMIT
        while (value := driver.tell("r", 8)) != 0x600D and time.monotonic() < end:
            assert value == driver.device(8)
        assert value == 0x600D

    driver.run(hooks, script)
    assert hooks.counts.too_slow >= 1
    assert driver.rows()[0] == ("read", 4, driver.device(4), False)


def test_disabled_nobody_is_asked(driver: Driver) -> None:
    seen = Seen()
    driver.run(hooked(driver.on(0, 64), seen.probe()), lambda: driver.tell("r", 4), disabled=True)
    assert seen.lines == []


def test_other_ways_have_no_hooks(driver: Driver) -> None:
    with pytest.raises(MmiotapError, match="--smp step"):
        agent.record(["true"], hooks=Hooks(), smp="step", path=driver.trace)
    with pytest.raises(MmiotapError, match="'hope'"):
        Hooks(on_failure="hope")


THREADS = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile uint32_t *base;
static volatile int signals, wrong;
static int rounds;

/* The device answers a read of register N with 1000 * N, and the next ones with 1 more each. */
static void *work(void *which)
{
    uintptr_t number = (uintptr_t)which;
    for (int i = 0; i < rounds; i++)
        if (base[number] != 1000 * number + i)
            wrong++;
    return 0;
}

static void on_signal(int signal)
{
    if (base[63] != 63000u + signals)
        wrong++;
    signals++;
}

int main(int argc, char **argv)
{
    alarm(120);
    base = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, open(argv[1], O_RDWR), 0);
    rounds = atoi(argv[2]);
    signal(SIGALRM, on_signal);
    struct itimerval timer = {{0, 2000}, {0, 2000}};
    sigset_t alarms;
    sigemptyset(&alarms);
    sigaddset(&alarms, SIGALRM);
    pthread_sigmask(SIG_BLOCK, &alarms, 0);
    pthread_t threads[4];
    for (uintptr_t i = 0; i < 4; i++)
        pthread_create(&threads[i], 0, work, (void *)(i + 1));
    pid_t child = fork();
    if (child == 0) {
        work((void *)(uintptr_t)5);
        _exit(wrong);
    }
    pthread_sigmask(SIG_UNBLOCK, &alarms, 0);
    if (argc > 3)
        setitimer(ITIMER_REAL, &timer, 0);
    work((void *)(uintptr_t)6);
    pthread_sigmask(SIG_BLOCK, &alarms, 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], 0);
    int status;
    waitpid(child, &status, 0);
    printf("%d signals\n", signals);
    return wrong || status || (argc > 3 && !signals);
}
"""


@pytest.mark.parametrize("timer", [[], ["timer"]], ids=["threads", "signals"])
def test_threads_signals_and_a_fork(compile_c: Compile, tmp_path: Path, patching: str, timer: list[str]) -> None:
    rounds = 500
    registers = tmp_path / "registers"
    registers.write_bytes(bytes(4096))
    reads = [0] * 64
    threads = set()

    def pre(access: Access) -> None:
        number = access.offset // 4
        threads.add((access.pid, access.tid))
        access.answer(1000 * number + reads[number])
        reads[number] += 1

    hooks = hooked(InMapping(str(registers), 0, 256), Probe(0, 256, pre))
    command = [str(compile_c(THREADS)), str(registers), str(rounds), *timer]
    patch = int(patching) if patching.isdecimal() else patching
    result = agent.record(command, maps=[str(registers)], path=tmp_path / "t", hooks=hooks, patch=patch)
    assert result.status == 0
    assert reads[1:7] == [rounds] * 6
    assert len({pid for pid, _ in threads}) == 2
    assert len(threads) >= 5
    assert hooks.counts == HookCounts(sum(reads), 0, 0, 0, 0, 0)


def test_more_threads_than_slots(compile_c: Compile, tmp_path: Path, patching: str) -> None:
    registers = tmp_path / "registers"
    registers.write_bytes(bytes(4096))
    source = (
        THREADS.replace("threads[4]", "threads[150]").replace("i < 4", "i < 150").replace("1000 * number + i", "number")
    )
    source = source.replace("(i + 1)", "(i % 8 + 50)")
    hooks = hooked(InMapping(str(registers), 0, 256), Probe(0, 256, lambda access: access.answer(access.offset // 4)))
    command = [str(compile_c(source)), str(registers), "20"]
    patch = int(patching) if patching.isdecimal() else patching
    assert agent.record(command, maps=[str(registers)], path=tmp_path / "t", hooks=hooks, patch=patch).status == 0
    assert hooks.counts == HookCounts(152 * 20, 0, 0, 0, 0, 0)


#: Reads a register again and again, and writes what it got into a file, which is complete when it has its name.
SURVIVOR = r"""
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    alarm(120);
    volatile uint32_t *base = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, open(argv[1], O_RDWR), 0);
    FILE *out = fopen("values.part", "w");
    for (int i = 0; i < 200; i++)
        fprintf(out, "%u\n", base[1]);
    fclose(out);
    return rename("values.part", "values");
}
"""

#: Records it with a handler that answers 20 times and then ends this process, in the middle of an access.
SHORT_LIVED = """
import os, signal, sys
from mmiotap.kmmio.place import InMapping
from mmiotap.kmmio.probe import Probe
from mmiotap.sources import agent, hooks

patch, on_failure, *command = sys.argv[1:]
asked = 0

def pre(access):
    global asked
    asked += 1
    if asked > 20:
        os.kill(os.getpid(), signal.SIGKILL)
    access.answer(asked)

hooked = hooks.Hooks(limit=60, on_failure=on_failure)
hooked.add(InMapping(command[1], 0, 64), Probe(0, 64, pre))
agent.record(command, maps=[command[1]], path="t", hooks=hooked, patch="off" if patch == "off" else int(patch))
"""


def short_lived(compile_c: Compile, folder: Path, patching: str, on_failure: str) -> None:
    registers = folder / "registers"
    registers.write_bytes((0x2A).to_bytes(4, "little") * 1024)
    words = [sys.executable, "-c", SHORT_LIVED, patching, on_failure, compile_c(SURVIVOR), registers]
    result = subprocess.run(list(map(str, words)), cwd=folder, timeout=TIME_LIMIT, check=False, capture_output=True)
    assert result.returncode == -signal.SIGKILL


def test_the_server_is_killed_and_the_program_goes_on(compile_c: Compile, tmp_path: Path, patching: str) -> None:
    short_lived(compile_c, tmp_path, patching, "device")
    end = time.monotonic() + TIME_LIMIT
    while not (tmp_path / "values").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert (tmp_path / "values").read_text().split() == [*map(str, range(1, 21)), *["42"] * 180]


def test_or_it_is_stopped(compile_c: Compile, tmp_path: Path, patching: str) -> None:
    short_lived(compile_c, tmp_path, patching, "stop")
    end = time.monotonic() + TIME_LIMIT
    while (alive := maps(tmp_path / "registers")) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive
    assert not (tmp_path / "values").exists()


def maps(file: Path) -> bool:
    """Is there a process that has mapped it?"""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if str(file) in (folder / "maps").read_text(errors="surrogateescape"):
                return True
        except OSError:
            continue
    return False


def test_a_program_that_is_killed_leaves_no_slot_behind(
    compile_c: Compile, tmp_path: Path, patching: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    registers = tmp_path / "registers"
    registers.write_bytes(bytes(4096))

    def pre(access: Access) -> None:
        os.kill(access.pid, signal.SIGKILL)
        access.answer(1)

    hooks = hooked(InMapping(str(registers), 0, 64), Probe(0, 64, pre))
    patch = int(patching) if patching.isdecimal() else patching
    command = [str(compile_c(SURVIVOR)), str(registers)]
    result = agent.record(command, maps=[str(registers)], path=tmp_path / "t", hooks=hooks, patch=patch)
    assert result.signal == signal.SIGKILL
    assert hooks.counts.asked == 1


EXECUTING = r"""
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    alarm(120);
    volatile uint32_t *base = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, open(argv[1], O_RDWR), 0);
    int left = atoi(argv[2]);
    if (base[1] != (uint32_t)left)
        return 1;
    char text[16] = {(char)('0' + left - 1)};
    return left ? execl(argv[0], argv[0], argv[1], text, (char *)0) : 0;
}
"""


def test_a_program_executes_itself(compile_c: Compile, tmp_path: Path, patching: str) -> None:
    registers = tmp_path / "registers"
    registers.write_bytes(bytes(4096))
    left = list(range(10))
    hooks = hooked(InMapping(str(registers), 4, 4), Probe(0, 4, lambda access: access.answer(left.pop())))
    patch = int(patching) if patching.isdecimal() else patching
    command = [str(compile_c(EXECUTING)), str(registers), "9"]
    result = agent.record(command, maps=[str(registers)], path=tmp_path / "t", hooks=hooks, patch=patch)
    assert (result.status, left) == (0, [])
