"""The ways ``step``, ``lock`` and ``emulate`` on two processors, on a program that counts its own accesses.

``private`` needs protection keys and is tested in a guest.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mmiotap as api
from conftest import Compile, Run
from mmiotap.trace import layout

RACE = Path(__file__).parents[2] / "benchmarks" / "race.c"
THREADS = 2
PLACE = 64

pytestmark = [pytest.mark.timeout(300), pytest.mark.parametrize("patching", ["auto"], indirect=True)]

Rows = dict[int, list[tuple[Any, ...]]]


@pytest.fixture
def race(compile_c: Compile, tmp_path: Path) -> Path:
    (tmp_path / "device").write_bytes(bytes(4096))
    return compile_c(RACE.read_text(), "race")


def record(mmiotap: Run, folder: Path, race: Path, way: str, touches: int) -> tuple[int, api.Trace]:
    """The program's own count of its accesses, and the trace. Every load found what it should."""
    device = folder / "device"
    words = ("record", "-o", "t", "--smp", way, "--map", device, "--", race, device, THREADS, touches)
    result = mmiotap(*map(str, words), limit=200)
    assert result.status == 0, result.stderr
    made, wrong, _ = map(int, result.stdout.split())
    assert (made, wrong) == (THREADS * touches, 0)
    trace = api.open(folder / "t")
    assert trace.lost == 0
    return made, trace


def accesses(trace: api.Trace) -> Rows:
    """Of each thread, in its order. A thread's place on the page is its number."""
    rows: Rows = defaultdict(list)
    for row in trace.events(["kind", "offset", "width", "value", "tid"]).to_pylist():
        if row["kind"] != "map":
            assert row["offset"] % PLACE == 0
            rows[row["offset"] // PLACE].append((row["kind"], row["width"], row["value"]))
    return rows


def expected(thread: int, touches: int) -> Iterator[tuple[str, int, int]]:
    return ((("write", "read")[i % 2], 4, thread << 24 | i // 2) for i in range(touches))


@pytest.mark.parametrize(("way", "touches"), [("emulate", 50_000), ("lock", 2_000)])
def test_misses_none(mmiotap: Run, tmp_path: Path, race: Path, way: str, touches: int) -> None:
    _, trace = record(mmiotap, tmp_path, race, way, touches)
    got = accesses(trace)
    assert {thread: got[thread] == [*expected(thread, touches)] for thread in got} == dict.fromkeys(
        range(THREADS), True
    )


def test_step_misses_some_or_none_and_says_how_many(mmiotap: Run, tmp_path: Path, race: Path) -> None:
    """The trace does not know what it misses; the program's own count tells. What is there is true and in order."""
    touches = 20_000
    made, trace = record(mmiotap, tmp_path, race, "step", touches)
    got = accesses(trace)
    assert set(got) <= set(range(THREADS))
    for thread, rows in got.items():
        rest = expected(thread, touches)
        assert all(row in rest for row in rows), f"thread {thread}: no subsequence of what it did"
    missed = made - sum(map(len, got.values()))
    print(f"step: {missed} of {made} missed, {trace.info['recursive']} recursive hits")
    assert 0 <= missed < made
    shown = mmiotap("info", "t").stdout
    assert re.search(rf"^recursive: +{trace.info['recursive']}$", shown, re.M)


RECURSIVE = """
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
static volatile uint32_t *device;
static uint32_t *late; /* a page that comes when the other thread says so */
static void *move(void *unused)
{
    __asm__ volatile("movsl" : : "S"(device + 1), "D"(late) : "memory");
    return unused;
}
int main(void)
{
    device = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, open("device", O_RDWR), 0);
    device[1] = 42;
    late = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int server = syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_range page = {(uintptr_t)late, 4096};
    struct uffdio_register wanted = {.range = page, .mode = UFFDIO_REGISTER_MODE_MISSING};
    struct uffdio_zeropage zeros = {.range = page};
    struct uffd_msg message;
    if (server < 0 || ioctl(server, UFFDIO_API, &api) || ioctl(server, UFFDIO_REGISTER, &wanted))
        return 2;
    pthread_t thread;
    pthread_create(&thread, 0, move, 0);
    if (read(server, &message, sizeof message) != sizeof message)
        return 3;
    /* The thread is in the middle of its instruction, and the device's page is open. This closes it, as the end of
       another thread's step would. */
    mprotect((void *)device, 4096, PROT_READ | PROT_WRITE);
    ioctl(server, UFFDIO_ZEROPAGE, &zeros);
    pthread_join(thread, 0);
    return *late != 42;
}
"""


@pytest.mark.parametrize(("way", "hits"), [("step", 1), ("emulate", None)])
def test_a_recursive_hit_is_harmless(
    mmiotap: Run, tmp_path: Path, compile_c: Compile, way: str, hits: int | None
) -> None:
    (tmp_path / "device").write_bytes(bytes(4096))
    program = compile_c(RECURSIVE)
    result = mmiotap("record", "-o", "t", "--smp", way, "--map", "**/device", "--", program)
    assert result.status == 0, result.stderr
    trace = api.open(tmp_path / "t")
    assert trace.info.get("recursive") == hits
    table = trace.events(["kind", "offset", "value"]).to_pylist()
    assert [tuple(row.values()) for row in table if row["kind"] != "map"] == [("write", 4, 42), ("read", 4, 42)]


DIVISION = """
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
static sigjmp_buf back;
static void on_error(int number)
{
    siglongjmp(back, number);
}
int main(void)
{
    volatile uint32_t *device = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, open("device", O_RDWR), 0);
    uint32_t low = 1, high = 0;
    signal(SIGFPE, on_error);
    if (sigsetjmp(back, 1) == 0)
        __asm__ volatile("divl (%2)" : "+a"(low), "+d"(high) : "r"(device) : "memory");
    device[1] = 5;
    return device[1] != 5;
}
"""


@pytest.mark.parametrize("way", ["step", "lock"])
def test_a_division_by_zero_reads_first(mmiotap: Run, tmp_path: Path, compile_c: Compile, way: str) -> None:
    """The step ends with the program's own fault. The device was read, and the page is closed again."""
    (tmp_path / "device").write_bytes(bytes(4096))
    program = compile_c(DIVISION)
    result = mmiotap("record", "-o", "t", "--smp", way, "--map", "**/device", "--", program)
    assert result.status == 0, result.stderr
    table = api.open(tmp_path / "t").events(["kind", "offset", "value", "flags"]).to_pylist()
    rows = [tuple(row.values()) for row in table if row["kind"] != "map"]
    untold = layout.VALUE_UNKNOWN | layout.REASON_STEPPED << layout.REASON_SHIFT
    stepped = layout.STEPPED
    assert rows == [("read", 0, 0, stepped | untold), ("write", 4, 5, stepped), ("read", 4, 5, stepped)]


PRIVATE_MAPPING = """
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
int main(void)
{
    int file = open("device", O_RDWR);
    volatile uint32_t *own = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    volatile uint32_t *device = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    device[1] = 7;
    own[2] = device[1] + own[1]; /* a private mapping shows what is shared until it is written */
    __asm__ volatile("movsl" : : "S"(own + 2), "D"(device + 3) : "memory");
    mprotect((void *)device, 4096, PROT_READ);
    uint32_t last = device[3];
    return munmap((void *)device, 4096) || last != 14;
}
"""


@pytest.mark.parametrize("way", ["step", "lock", "emulate"])
def test_two_kinds_of_mapping_and_an_access_to_both(mmiotap: Run, tmp_path: Path, compile_c: Compile, way: str) -> None:
    """A private mapping has one copy of its pages: it is emulated in every way. Between the two, one instruction."""
    (tmp_path / "device").write_bytes(bytes(4096))
    program = compile_c(PRIVATE_MAPPING)
    result = mmiotap("record", "-o", "t", "--smp", way, "--map", "**/device", "--", program)
    assert result.status == 0, result.stderr
    table = api.open(tmp_path / "t").events(["kind", "map_id", "offset", "value"]).to_pylist()
    rows = [tuple(row.values()) for row in table if row["kind"] in ("read", "write", "unknown")]
    assert rows == [
        ("write", 2, 4, 7),
        ("read", 2, 4, 7),
        ("read", 1, 4, 7),
        ("write", 1, 8, 14),
        ("read", 1, 8, 14),
        ("write", 2, 12, 14),
        ("read", 2, 12, 14),
    ]
