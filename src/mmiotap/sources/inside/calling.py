"""Calling a function of a process in one of its threads that has stopped.

As a system call is made there (ptrace/space.py), with a stack of its own; all registers come back as they were.
"""

import os
import time
from contextlib import suppress
from typing import Protocol

from mmiotap.sources.inside.places import ALL_BUT_AGENTS
from mmiotap.sources.ptrace import calls
from mmiotap.sources.ptrace.calls import Gone
from mmiotap.sources.ptrace.thread import Thread

#: Seconds that a call may take: loading the agent takes some milliseconds.
PATIENCE = 20.0
_LOOK_AGAIN = 0.0002

_NO_CALL = (1 << 64) - 1
_GETPID = 39
#: TF and DF (SDM volume 1, 3.4.3); the psABI wants the second to be clear.
_FLAGS = 0x100 | 0x400
_AFTER_SYSCALL = 2
#: The low byte of a stop's status, bits/waitstatus.h.
_STOPPED = 0x7F


class CallFailed(Exception):  # noqa: N818  (of what is called, that is)
    """The function did not return."""


class Stack(Protocol):
    """Where a call finds its stack, and what to return to."""

    @property
    def top(self) -> int: ...

    @property
    def syscall_at(self) -> int: ...

    def put(self, address: int, data: bytes) -> None: ...


class HeldThread(Thread):
    """A thread of a process that may be a child of ours: its end is not taken from whoever waits for it."""

    def wait(self) -> int:
        """The next stop's status. Raises Gone if there is none any more."""
        status = self._next(0)
        assert status is not None
        return status

    def wait_until(self, end: float) -> int | None:
        """The next stop's status; None if there is none before this time (of the monotonic clock)."""
        while (status := self._next(os.WNOHANG)) is None and time.monotonic() < end:
            time.sleep(_LOOK_AGAIN)
        return status

    def bury(self) -> None:
        """It has ended. Nobody else waits for it, but for a process's first one, which goes when its tracer has."""
        if self.tid != self.pid:
            with suppress(ChildProcessError):
                os.waitpid(self.tid, calls.WALL | os.WNOHANG)

    def _next(self, options: int) -> int | None:
        try:
            found = os.waitid(os.P_PID, self.tid, os.WSTOPPED | calls.WALL | options)
        except ChildProcessError:
            self.bury()
            raise Gone(self.tid) from None
        return None if found is None else found.si_status << 8 | _STOPPED


def call(thread: HeldThread, stack: Stack, function: int, *arguments: int) -> int:
    """The function's result, unsigned. Raises CallFailed, Gone.

    It returns to a system call instruction, where the thread stops before it makes the call: that needs no signal,
    which the program might have blocked. All signals but those of faults wait.
    """
    before, vectors, mask = thread.registers(), thread.vectors(), calls.signal_mask(thread.tid)
    values = before.copy()
    values.rip, values.orig_rax, values.rax = function, _NO_CALL, 0
    values.rsp = stack.top // 16 * 16 - 8
    values.eflags &= ~_FLAGS
    for name, value in zip(("rdi", "rsi", "rdx", "rcx", "r8", "r9"), arguments, strict=False):
        setattr(values, name, value & _NO_CALL)
    stack.put(values.rsp, stack.syscall_at.to_bytes(8, "little"))
    calls.set_signal_mask(thread.tid, ALL_BUT_AGENTS)
    thread.set_registers(values)
    try:
        return _run(thread, stack.syscall_at + _AFTER_SYSCALL, values.rsp + 8)
    finally:
        # In a stop in which the kernel still sees to a system call that was interrupted: it starts again.
        _come_to_rest(thread)
        thread.set_registers(before)
        thread.set_vectors(vectors)
        calls.set_signal_mask(thread.tid, mask)


def _run(thread: HeldThread, back_at: int, back_with: int) -> int:
    end = time.monotonic() + PATIENCE
    while True:
        calls.go_on(thread.tid)
        status = thread.wait_until(end)
        if status is None:
            calls.interrupt(thread.tid)
            thread.wait()
            raise CallFailed("it does not come back; the thread may hold a lock that it waits for")
        number, event = calls.stopping_signal(status), calls.stopping_event(status)
        if number == calls.AT_CALL:
            now = thread.registers()
            if now.rip == back_at and now.rsp == back_with:
                result = int(now.orig_rax)
                now.orig_rax = _GETPID
                thread.set_registers(now)
                return result
        elif not event:
            raise CallFailed(f"it failed with signal {number} at {calls.registers(thread.tid).rip:#x}")


def _come_to_rest(thread: HeldThread) -> None:
    """Out of a system call, or of code that never comes back, into a stop of its own."""
    calls.interrupt(thread.tid)
    while True:
        calls.run(thread.tid)
        status = thread.wait()
        if calls.stopping_event(status) == calls.EVENT_STOP:
            return
