"""The program that is recorded, as a child of the recorder, and the signals that the recorder takes in its place."""

import contextlib
import os
import select
import signal
import threading
from types import FrameType
from typing import Any, Protocol

FORWARDED = (signal.SIGTERM, signal.SIGHUP)
#: The terminal sends these to the program too; the recorder outlives them to finish the trace.
OUTLIVED = (signal.SIGINT, signal.SIGQUIT)


class Target(Protocol):
    """Who gets signals."""

    def send(self, number: int, /) -> None: ...


class Child:
    """A process that we have started and that nobody else waits for."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.exit_code: int | None = None  #: once it has ended: its status, or minus the signal that it died of
        self._pidfd = os.pidfd_open(pid)
        self._poll = select.poll()
        self._poll.register(self._pidfd, select.POLLIN)

    def wait(self, milliseconds: int) -> bool:
        """Has it ended, now or within this time?"""
        if self.exit_code is None and self._poll.poll(milliseconds):
            _, status = os.waitpid(self.pid, 0)
            self.exit_code = os.waitstatus_to_exitcode(status)
            os.close(self._pidfd)
        return self.exit_code is not None

    def send(self, number: int) -> None:
        """Send it a signal; nothing happens if it has ended."""
        if self.exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)


class Signals:
    """While this context is entered, signals that ask us to end go to the child; ours is to finish the trace.

    Uses handlers, not SIG_IGN: a program that is started has the default for what we handle, and keeps what we ignore.
    Does nothing outside the main thread, where Python allows no handlers.
    """

    def __init__(self) -> None:
        self._child: Target | None = None
        self._early: list[int] = []
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            for number in (*FORWARDED, *OUTLIVED):
                if signal.getsignal(number) != signal.SIG_IGN:
                    handler = self._forward if number in FORWARDED else self._outlive
                    self._previous[number] = signal.signal(number, handler)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def forward_to(self, child: Target) -> None:
        """From now on the child gets them; so it does those that came before."""
        self._child = child
        for number in self._early:
            child.send(number)

    def _forward(self, number: int, _: FrameType | None) -> None:
        if self._child is None:
            self._early.append(number)
        else:
            self._child.send(number)

    def _outlive(self, _: int, __: FrameType | None) -> None:
        pass
