"""Mappings and handlers that are made by raw system calls, past libc's functions for them."""

from pathlib import Path

import pytest

from conftest import MMIOTAP, Compile, Run
from mmiotap.trace.reader import open_trace

RAW = Path(__file__).parents[1] / "data" / "raw_calls.c"
#: liburing maps and unmaps its rings itself, by instructions inlined where it does. Without its header.
LIBURING = r"""
#include <stdint.h>
#include <stdio.h>
int io_uring_queue_init(unsigned, void *, unsigned);
void io_uring_queue_exit(void *);
int io_uring_submit(void *);
int main(void)
{
    static uint64_t ring[128];
    for (int i = 0; i < 20; i++) {
        printf("%d ", io_uring_queue_init(8, ring, 0));
        printf("%d\n", io_uring_submit(ring));
        io_uring_queue_exit(ring);
    }
    return 0;
}
"""

PAGE = 4096

#: How the program makes a system call.
FORMS = {"function": "syscall(n, a, b, c, d, e, f)", "instruction": "inlined(n, a, b, c, d, e, f)"}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_they_are_seen(form: str, run: Run, mmiotap: Run, compile_c: Compile, tmp_path: Path) -> None:
    raw = compile_c(RAW.read_text(), "raw", f"-DSYSCALL(n,a,b,c,d,e,f)={form}", "-Wno-unused-variable")
    device = tmp_path / "device"

    def fill() -> None:
        device.write_bytes(b"\x11" * 3 * PAGE)

    fill()
    plain = run(raw, device)
    assert plain.status == 0, plain.stderr
    fill()
    traced = mmiotap("record", "--map", "**/device", "-o", "trace", "--", raw, device)
    assert (traced.status, traced.stdout) == (0, plain.stdout), traced.stderr
    trace = open_trace(tmp_path / "trace")
    assert trace.lost == 0
    made = [(one.file_offset, one.length, one.prot) for one in trace.mappings]
    assert made == [(PAGE, 2 * PAGE, "rw"), (PAGE, PAGE, "r")]
    events = trace.events().to_pylist()
    written = [(event["offset"] // 4, event["value"]) for event in events if event["kind"] == "write"]
    start, offsets = 0x11111111, [at for at, _ in written]
    # The loop; the faults, whose handler touches the device; the alarm, with all signals blocked before; the child.
    assert written[:4] == [(1, start), (2, start + 1), (3, start + 2), (4, start + 3)]
    assert offsets[40:] == [20, 4, 20, 4, 20, 4, 5, 21, 6, 7]
    assert len({event["pid"] for event in events}) == 2


def test_the_rings_of_liburing(run: Run, mmiotap: Run, compile_c: Compile, tmp_path: Path) -> None:
    program = compile_c(LIBURING, "rings", "-l:liburing.so.2")
    plain = run(program)
    assert plain.stdout == "0 0\n" * 20, plain.stderr
    traced = mmiotap("record", "--map", "anon_inode:*", "-o", "trace", "--", program)
    assert (traced.status, traced.stdout) == (0, plain.stdout), traced.stderr
    trace = open_trace(tmp_path / "trace")
    kinds = [event["kind"] for event in trace.events().to_pylist()]
    # The queues, and the entries.
    assert {mapping.path for mapping in trace.mappings} == {"anon_inode:[io_uring]"}
    assert kinds.count("map") == kinds.count("unmap") == len(trace.mappings) == 40
    assert kinds.count("write") == 160
    assert kinds.count("read") > 100


BLOCKING = r"""
#include <signal.h>
#include <stddef.h>
#include <unistd.h>
int main(int count, char **argument)
{
    (void)count;
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    execv(argument[1], argument + 1);
    return 1;
}
"""


def test_with_all_signals_blocked_by_who_started_it(run: Run, compile_c: Compile, tmp_path: Path) -> None:
    """A mask is inherited: neither a fault in a region nor a breakpoint is fatal for that."""
    blocking = compile_c(BLOCKING, "blocking")
    program = compile_c(LIBURING, "rings", "-l:liburing.so.2")
    traced = run(blocking, *MMIOTAP, "record", "--map", "anon_inode:*", "-o", "trace", "--", program)
    assert (traced.status, traced.stdout) == (0, "0 0\n" * 20), traced.stderr
    assert len(open_trace(tmp_path / "trace").mappings) == 40


#: One thread makes system calls of its own, each by a breakpoint of ours, meets breakpoints of its own and divides by
#: zero; the other has it stopped again and again, for accesses that are stepped (a load of gs). DEVICE.
STOPPED = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>

enum { CALLS = 50000 };
static volatile int over, traps, errors;

static void trapped(int signal)
{
    (void)signal;
    traps++;
}

static void failed(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    errors += info->si_code == FPE_INTDIV;
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += 2;  /* div %ecx */
}

static void *call(void *argument)
{
    uint64_t mask = 1;
    long wrong = 0;
    (void)argument;
    for (int i = 0; i < CALLS; i++) {
        long result;
        register long size __asm__("r10") = 8;
        __asm__ volatile("mov %1, %%eax\n syscall"
                         : "=&a"(result)
                         : "i"(SYS_rt_sigprocmask), "D"(0L), "S"(0L), "d"(&mask), "r"(size) : "rcx", "r11", "memory");
        wrong += result != 0 || mask != 0;
        __asm__ volatile("int3");
        wrong += traps != 2 * i + 1;
        raise(SIGTRAP);
        wrong += traps != 2 * i + 2;
        __asm__ volatile("div %%ecx" : : "a"(1), "d"(0), "c"(0));
        wrong += errors != i + 1;
    }
    over = 1;
    return (void *)wrong;
}

int main(int count, char **argument)
{
    (void)count;
    const uint16_t *device = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, open(argument[1], O_RDWR), 0);
    pthread_t thread;
    void *wrong;
    signal(SIGTRAP, trapped);
    sigaction(SIGFPE, &(struct sigaction){.sa_sigaction = failed, .sa_flags = SA_SIGINFO}, 0);
    pthread_create(&thread, 0, call, 0);
    while (!over)
        __asm__ volatile("movw %0, %%gs" : : "m"(*device));
    pthread_join(thread, &wrong);
    printf("wrong: %ld\n", (long)wrong);
    return 0;
}
"""


def test_a_breakpoint_that_is_met_while_threads_are_stopped(mmiotap: Run, compile_c: Compile, tmp_path: Path) -> None:
    """The kernel would drop the breakpoint's signal if one of that number was pending."""
    program = compile_c(STOPPED, "stopped", "-pthread")
    device = tmp_path / "device"
    device.write_bytes(bytes(PAGE))
    traced = mmiotap("record", "--map", "**/device", "-o", "trace", "--", program, device)
    assert (traced.status, traced.stdout) == (0, "wrong: 0\n"), traced.stderr
