"""Patched sites in the life of a program: libraries that come and go, forks, handlers that jump out."""

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from conftest import Compile, Run
from mmiotap.trace import layout
from mmiotap.trace.reader import Trace, open_trace

MAPPED = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile uint32_t *map(const char *path)
{
    return mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, open(path, O_RDWR), 0);
}
"""

LIBRARY = r"""
#include <stdint.h>
void poke(volatile uint32_t *device, uint32_t value) { device[BASE] = value; }
uint32_t peek(volatile uint32_t *device) { return device[BASE] + 1; }
"""

LIBRARIES = (
    MAPPED
    + r"""
int main(int argc, char **argv)
{
    volatile uint32_t *device = map(argv[1]);
    uint32_t value = 0;
    for (int round = 0; round < 30; round++) {
        void *library = dlopen(argv[2 + round % 3 / 2], RTLD_NOW);
        void (*poke)(volatile uint32_t *, uint32_t) = dlsym(library, "poke");
        uint32_t (*peek)(volatile uint32_t *) = dlsym(library, "peek");
        for (int i = 0; i < 20; i++) {
            poke(device, ++value);
            if (peek(device) != value + 1)
                return 1;
        }
        dlclose(library);
    }
    return 0;
}
"""
)

FORKS = (
    MAPPED
    + r"""
static __attribute__((noinline)) void poke(volatile uint32_t *device, uint32_t value) { *device = value; }

int main(int argc, char **argv)
{
    volatile uint32_t *device = map(argv[1]);
    for (int i = 1; i <= 50; i++)
        poke(device, i);
    pid_t child = fork();
    for (int i = 1; i <= 3000; i++)
        poke(device + (child ? 1 : 2), i);
    int status = 0;
    if (child)
        waitpid(child, &status, 0);
    return status;
}
"""
)

JUMPS = (
    MAPPED
    + r"""
static sigjmp_buf back;
static volatile uint32_t *device, next = 1, handled;

static void jump(int signal)
{
    (void)signal;
    device[8]++;
    if (++handled % 2)
        siglongjmp(back, 1);
}

int main(int argc, char **argv)
{
    device = map(argv[1]);
    signal(SIGALRM, jump);
    struct itimerval often = {{0, 700}, {0, 700}};
    setitimer(ITIMER_REAL, &often, 0);
    sigsetjmp(back, 1);
    while (handled < 300) {
        device[0] = next;
        if (device[0] != next)
            return 1;
        next++;
    }
    often = (struct itimerval){{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &often, 0);
    printf("%u %u\n", next, device[8]);
    return 0;
}
"""
)

QUESTIONS = (
    MAPPED
    + r"""
static volatile int came, code;
static void simple(int signal) { came = signal; }
static void full(int signal, siginfo_t *info, void *context) { came = signal; code = info->si_code; (void)context; }

int main(int argc, char **argv)
{
    struct sigaction fault = {.sa_handler = simple, .sa_flags = SA_RESTART}, before, now;
    sigaction(SIGSEGV, &fault, 0);
    sigaction(SIGSEGV, 0, &before);
    volatile uint32_t *device = map(argv[1]);
    sigaction(SIGSEGV, &fault, &now);
    if (now.sa_handler != simple || now.sa_flags != before.sa_flags)
        return 7;
    sigaction(SIGSEGV, 0, &now);
    if (now.sa_handler != simple || now.sa_flags != before.sa_flags)
        return 8;
    for (int i = 0; i < 20; i++)
        *device = i;
    if (signal(SIGUSR1, simple) != SIG_DFL || signal(SIGUSR1, SIG_IGN) != simple || signal(SIGUSR1, simple) != SIG_IGN)
        return 1;
    struct sigaction once = {.sa_sigaction = full, .sa_flags = SA_SIGINFO | SA_RESETHAND}, found;
    sigaction(SIGUSR2, &once, 0);
    sigaction(SIGUSR2, 0, &found);
    if (found.sa_sigaction != full || (found.sa_flags & ~0x04000000) != (int)(SA_SIGINFO | SA_RESETHAND))
        return 2;
    raise(SIGUSR1);
    if (came != SIGUSR1)
        return 3;
    raise(SIGUSR2);
    sigaction(SIGUSR2, 0, &found);
    if (came != SIGUSR2 || code != SI_TKILL || found.sa_handler != SIG_DFL)
        return 4;
    sigaction(SIGUSR1, 0, &found);
    if (found.sa_handler != simple || found.sa_flags & SA_SIGINFO)
        return 5;
    raise(SIGUSR2);
    return 6;
}
"""
)


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "device"
    path.write_bytes(bytes(4096))
    return path


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return tmp_path / "t"


def accesses(trace: Trace) -> list[dict[str, Any]]:
    assert trace.lost == 0
    table = trace.events(["kind", "offset", "value", "pid", "flags"])
    return [row for row in table.to_pylist() if row["kind"] in ("read", "write")]


def went_through_a_thunk(rows: list[dict[str, Any]]) -> int:
    return sum(bool(row["flags"] & layout.PATCHED) for row in rows)


def test_libraries_come_and_go(
    compile_c: Compile, mmiotap: Run, device: Path, trace: Path, tmp_path: Path, patching: str
) -> None:
    """The same library, twice in a row, and another one, most likely at the same address."""
    program = compile_c(LIBRARIES, "libraries")
    for number in (0, 16):
        compile_c(LIBRARY, f"lib{number}.so", "-shared", "-fPIC", f"-DBASE={number}")
    libraries = [tmp_path / "lib0.so", tmp_path / "lib16.so"]
    result = mmiotap("record", "-q", "-o", "t", "--map", device, "--", program, device, *libraries)
    assert (result.status, result.stderr) == (0, "")
    rows = accesses(open_trace(trace))
    wanted = [(kind, 64 * (value // 20 % 3 // 2), value + 1) for value in range(600) for kind in ("write", "read")]
    assert [(row["kind"], row["offset"], row["value"]) for row in rows] == wanted
    assert (went_through_a_thunk(rows) > len(rows) // 2) == (patching != "off")


def test_a_fork_keeps_its_patches(compile_c: Compile, mmiotap: Run, device: Path, trace: Path, patching: str) -> None:
    result = mmiotap("record", "-q", "-o", "t", "--map", device, "--", compile_c(FORKS, "forks"), device)
    assert (result.status, result.stderr) == (0, "")
    rows = accesses(open_trace(trace))
    by_offset = {offset: [row for row in rows if row["offset"] == offset] for offset in (0, 4, 8)}
    assert [row["value"] for row in by_offset[0]] == list(range(1, 51))
    for offset in (4, 8):
        assert [row["value"] for row in by_offset[offset]] == list(range(1, 3001))
        assert (went_through_a_thunk(by_offset[offset]) > 2900) == (patching != "off")
    assert {row["pid"] for row in by_offset[4]} != {row["pid"] for row in by_offset[8]}
    assert Counter(row["pid"] for row in by_offset[8]).most_common(1)[0][1] == 3000


def test_handlers_that_jump_out(compile_c: Compile, mmiotap: Run, device: Path, trace: Path, patching: str) -> None:
    """A handler runs before an access or after it, never in its middle: what was stored is recorded, in order."""
    result = mmiotap("record", "-q", "-o", "t", "--map", device, "--", compile_c(JUMPS, "jumps"), device)
    assert (result.status, result.stderr) == (0, "")
    following, counted = map(int, result.stdout.split())
    rows = accesses(open_trace(trace))
    stored = [row["value"] for row in rows if row["offset"] == 0 and row["kind"] == "write"]
    # An access is made again if the jump came before it was counted.
    assert all(second - first in (0, 1) for first, second in itertools.pairwise(stored))
    assert stored[0] == 1
    assert following - stored[-1] in (0, 1)
    assert [row["value"] for row in rows if row["offset"] == 32 and row["kind"] == "write"] == list(
        range(1, counted + 1)
    )
    assert (went_through_a_thunk(rows) > len(rows) // 2) == (patching != "off")


def test_a_program_that_asks_finds_its_own_handlers(compile_c: Compile, mmiotap: Run, device: Path) -> None:
    program = compile_c(QUESTIONS, "questions")
    result = mmiotap("record", "-q", "-o", "t", "--map", device, "--", program, device)
    # SIGUSR2, whose handler was for once only.
    assert (result.status, result.stderr) == (-12, "")
