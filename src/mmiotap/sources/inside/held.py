"""All threads of a process stand still, held by ptrace, and where they may."""

import functools
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ParamSpec, TypeVar

from mmiotap.sources.inside.calling import HeldThread
from mmiotap.sources.inside.places import AGENTS_SIGNALS, is_taken_over
from mmiotap.sources.ptrace import calls, maps, process
from mmiotap.sources.ptrace.calls import Gone
from mmiotap.sources.ptrace.thread import FAULTS
from mmiotap.trace.errors import MmiotapError

#: Seconds that we wait for a thread to stop before we look whether it can; and for all to stand where they may, of
#: which one may have a thousand steps to make on a machine that has much else to do.
_STOPPING = 2.0
PATIENCE = 60.0
#: How long a thread goes on that stands where it may not: so many stops, and seconds for each.
_STOPS, _MOMENT = 40, 0.005
#: More instructions than a thunk has, with what it calls for a new segment.
_STEPS = 1000
#: More instructions than libc's functions have up to their system call, of those that the agent stands in front of.
_STEPS_IN_LIBC = 200
_PUSHF, _POPF = b"\x9c", b"\x9d"
#: In the flags (AMD64 manual, volume 1, 3.1.4, and volume 2, 3.1.6): each instruction traps.
_TRAP_FLAG = 0x100
_SYSCALL = b"\x0f\x05"
_SCHED_YIELD = 24
#: Every so many times the others go on, too.
_TURNS = 20


Test = Callable[[HeldThread], bool]
P = ParamSpec("P")
R = TypeVar("R")


def apart(work: Callable[P, R]) -> Callable[P, R]:
    """The same, done by a thread of its own, which has ended when it is done. Nothing interrupts it in the middle."""

    @functools.wraps(work)
    def work_apart(*arguments: P.args, **named: P.kwargs) -> R:
        result: Future[R] = Future()

        def run() -> None:
            try:
                result.set_result(work(*arguments, **named))
            except BaseException as error:
                result.set_exception(error)

        interrupt = None
        worker = threading.Thread(target=run)
        worker.start()
        # Until the kernel's thread is gone, which is a little later than Python's.
        while worker.is_alive() or Path(f"/proc/self/task/{worker.native_id}").exists():
            try:
                worker.join()
                time.sleep(0)
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt
        return result.result()

    return work_apart


class Unreachable(MmiotapError):  # noqa: N818
    """The threads did not come to where they may stand."""


class Held:
    """Threads of a process, seized; those that can stand still. Leaving the context lets all go.

    Everything here is called by one Python thread, for the kernel lets nobody else; and that one ends soon
    (:func:`apart`).
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.threads: dict[int, HeldThread] = {}

    def __enter__(self) -> "Held":
        return self

    def __exit__(self, *_: object) -> None:
        """One that cannot stop now, for it sleeps uninterruptibly, is let go of by the kernel when our thread ends."""
        for thread in self.threads.values():
            try:
                if not thread.stopped:
                    calls.interrupt(thread.tid)
                    _stop(thread)
                thread.detach()
            except Gone:
                thread.bury()
            except OSError:
                pass
        self.threads.clear()

    def hold_one(self, tid: int) -> HeldThread | None:
        """Stop this thread. None: it has ended, or cannot stop now."""
        try:
            thread = self.threads.get(tid) or self._seize(tid)
            return thread if thread.stopped or _stop(thread) else None
        except Gone:
            self.threads.pop(tid, None)
            return None

    def let_one_go(self, thread: HeldThread) -> None:
        """It runs on, and is not ours any more."""
        del self.threads[thread.tid]
        with suppress(Gone):
            thread.detach()

    def hold_all(self) -> None:
        """Stop all threads, those included that others start meanwhile."""
        while True:
            for thread in list(self.threads.values()):
                if not thread.stopped:
                    with suppress(Gone):
                        calls.interrupt(thread.tid)
                    self._stop_or_drop(thread)
            new = [tid for tid in self.tids() if tid not in self.threads]
            for tid in new:
                with suppress(Gone):
                    self._stop_or_drop(self._seize(tid))
            if not new:
                break

    def until(self, is_clear: Test, is_in_libc: Test, what: str) -> HeldThread:
        """Stop all threads so that each is clear; those that are not go on a little. Returns one that can make calls.

        The others stand meanwhile, for all are hardly ever clear by chance; now and then they go on, too, for one may
        wait for another. None is on its way into a system call that the agent stands in front of, as far as that is
        libc's. Raises Unreachable, Gone.
        """
        end = time.monotonic() + PATIENCE
        settled: set[int] = set()
        for turn in itertools.count(1):
            self.hold_all()
            threads = [thread for thread in self.still() if not is_clear(thread)]
            unsettled = [thread for thread in self.still() if thread.tid not in settled]
            if not threads and not unsettled:
                lender = next((thread for thread in self.still() if thread.usable and thread.signal is None), None)
                if lender is not None:
                    return lender
                threads = self.still()
            if time.monotonic() >= end:
                break
            if threads and turn % _TURNS == 0:
                self.go_on()
                settled.clear()
            settled.difference_update(thread.tid for thread in threads)
            for thread in threads:
                with suppress(Gone):
                    self._advance(thread, is_clear)
            for thread in [] if threads else unsettled:
                settled.add(thread.tid)
                with suppress(Gone):
                    self._settle(thread, is_in_libc)
        raise Unreachable(f"process {self.pid}: {what}")

    def go_on(self) -> None:
        """Let all run for a moment."""
        for thread in self.still():
            with suppress(Gone):
                thread.run()
        time.sleep(_MOMENT)

    def _advance(self, thread: HeldThread, is_clear: Test) -> None:
        """Let one go on to where it is clear, in a few stops.

        One that faults all the time is clear as it comes out of its handler, by a system call, and nowhere else; one
        that runs through a thunk all the time, for an instruction now and then.
        """
        for _ in range(_STOPS):
            thread.go_on()
            status = thread.wait_until(time.monotonic() + _MOMENT)
            if status is None:
                calls.interrupt(thread.tid)
                if not _stop(thread):
                    return
                break
            thread.stop(status)
            if is_clear(thread) or thread.registers().orig_rax == _SCHED_YIELD:
                return  # the second: it waits for another one's lock
        if thread.usable and thread.signal is None and not has_fault(thread):
            with _memory(thread) as memory:
                self._step(thread, memory, is_clear, _STEPS)

    def _settle(self, thread: HeldThread, is_in_libc: Test) -> None:
        """If it is about to make a system call that the agent stands in front of, let it come back from that: the agent
        would not know of it."""
        if thread.usable and thread.signal is None and is_in_libc(thread):
            with _memory(thread) as memory:
                self._step(thread, memory, lambda thread: not is_in_libc(thread), _STEPS_IN_LIBC)
                makes_call = _next_code(thread, memory) == _SYSCALL
            if makes_call and is_taken_over(thread.registers().rax):
                self._advance(thread, lambda thread: thread.usable)

    def _step(self, thread: HeldThread, memory: int, is_clear: Test, most: int) -> None:
        """The same by single instructions, so many at most."""
        with unblocked(thread):
            for _ in range(most):
                if is_clear(thread) or not self._step_once(thread, memory):
                    return

    def _step_once(self, thread: HeldThread, memory: int) -> bool:
        """False: it has done something else, or could not.

        Not over a system call: the trap flag that a handler's return gives a thread would be taken for ours, and lost.
        """
        code = _next_code(thread, memory)
        if code == _SYSCALL:
            return False
        if code[:1] == _POPF:
            _pop_flags(thread, memory)
            return True
        before = thread.registers()
        pushes_flags = code[:1] == _PUSHF and not before.eflags & _TRAP_FLAG
        calls.single_step(thread.tid)
        # As long as it takes: a step's trap that came later would be taken for a signal of the program's.
        while (status := thread.wait_until(time.monotonic() + PATIENCE)) is not None and calls.stopping_event(status):
            calls.single_step(thread.tid)  # it was told to stop before; the trap is still to come
        if status is None:
            thread.stopped = False
            calls.interrupt(thread.tid)
            return False
        is_trap = calls.stopping_signal(status) == signal.SIGTRAP
        if not is_trap or calls.signal_info(thread.tid).code not in (calls.TRAP_TRACE, calls.TRAP_BRKPT):
            thread.stop(status)
            return False
        if pushes_flags and thread.registers().rip != before.rip:  # a step out of a system call runs no instruction
            _clear_pushed_trap_flag(thread, memory)
        return True

    def still(self) -> list[HeldThread]:
        return [thread for thread in self.threads.values() if thread.stopped]

    def tids(self) -> list[int]:
        """Of its threads that have not ended, as far as we know of those that are ours. Raises Gone: there are none."""
        try:
            tids = [tid for tid in maps.threads(self.pid) if tid in self.threads or not _has_ended(tid)]
        except (FileNotFoundError, ProcessLookupError):
            tids = []
        if not tids:
            raise Gone(self.pid)
        return tids

    def _seize(self, tid: int) -> HeldThread:
        try:
            calls.seize(tid, follow=False)
        except OSError as error:
            if _has_ended(tid):
                raise Gone(tid) from None
            raise process.refused(self.pid, error) from error
        thread = self.threads[tid] = HeldThread(tid, self.pid)
        calls.interrupt(tid)
        return thread

    def _stop_or_drop(self, thread: HeldThread) -> None:
        try:
            if not _stop(thread) and not _is_deep(thread):
                raise Unreachable(f"process {self.pid}: its thread {thread.tid} does not stop")
        except Gone:
            self.threads.pop(thread.tid, None)


def _stop(thread: HeldThread) -> bool:
    """It was told to stop. False: it does not. One that can must get a processor first, however long that takes."""
    end = time.monotonic() + PATIENCE
    while (status := thread.wait_until(time.monotonic() + _STOPPING)) is None:
        if _is_deep(thread) or time.monotonic() >= end:
            return False
    thread.stop(status)
    return True


@contextmanager
def unblocked(thread: HeldThread) -> Iterator[None]:
    """Inside, a thread that has stopped can be stepped. A trap that the thread has blocked would be let through by the
    kernel for good, and the program's handler be gone (kernel/signal.c, force_sig_info_to_task).
    """
    mask = calls.signal_mask(thread.tid)
    if not mask & AGENTS_SIGNALS:
        yield
        return
    calls.set_signal_mask(thread.tid, mask & ~AGENTS_SIGNALS)
    try:
        yield
    finally:
        with suppress(Gone):
            calls.set_signal_mask(thread.tid, mask)


@contextmanager
def _memory(thread: HeldThread) -> Iterator[int]:
    """Its memory, as a descriptor: good until it makes a system call, which may be exec. Raises Gone."""
    try:
        memory = os.open(f"/proc/{thread.tid}/mem", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        raise Gone(thread.tid) from None
    try:
        yield memory
    finally:
        os.close(memory)


def _next_code(thread: HeldThread, memory: int) -> bytes:
    """The two bytes that it runs next; none if it is to fault for want of them."""
    try:
        return os.pread(memory, len(_SYSCALL), int(thread.registers().rip))
    except OSError:
        return b""


def _clear_pushed_trap_flag(thread: HeldThread, memory: int) -> None:
    """Of the flags that a step has just pushed: taken back when nobody steps it any more, ours would make a trap that
    the thread dies of."""
    at = int(thread.registers().rsp)
    flags = int.from_bytes(os.pread(memory, 8, at), "little")
    os.pwrite(memory, (flags & ~_TRAP_FLAG).to_bytes(8, "little"), at)


def _pop_flags(thread: HeldThread, memory: int) -> None:
    """What popfq does. After a step of that the kernel believes that the trap flag, which it sets for all steps, is the
    thread's own (arch/x86/kernel/step.c, is_setting_trap_flag): it would stay, and kill."""
    values = thread.registers()
    values.eflags = int.from_bytes(os.pread(memory, 8, values.rsp), "little")
    values.rsp += 8
    values.rip += len(_POPF)
    thread.set_registers(values)


def _is_deep(thread: HeldThread) -> bool:
    """Does it sleep uninterruptibly in the kernel? Then it makes no access before it has come out, and stopped."""
    return maps.status(thread.tid)["State"].startswith("D")


def _has_ended(tid: int) -> bool:
    try:
        return maps.status(tid)["State"][0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def forget_fault(thread: HeldThread) -> None:
    """A fault that the thread has stopped with, and was not told of, comes again: its instruction was not done."""
    if thread.signal is not None and thread.signal.number in FAULTS and thread.signal.code > 0:
        thread.signal = None


def has_fault(thread: HeldThread) -> bool:
    """Is a signal of the agent's under way to a thread: one that it has stopped with, or that is to come?"""
    if thread.signal is not None and AGENTS_SIGNALS >> thread.signal.number - 1 & 1:
        return True
    status = maps.status(thread.tid)
    return any(int(status[name], 16) & AGENTS_SIGNALS for name in ("SigPnd", "ShdPnd"))
