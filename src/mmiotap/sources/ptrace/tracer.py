"""The process that traces: an engine, and nothing of the user's.

Handlers run in the process of whoever placed the probes (remote.py), so that can hang, or be killed, and the traced
program need not die of it: this process notices, and leaves the program as it was. It is a child of the user's process,
and the parent of programs that it starts.
"""

import os
import select
import signal
import socket
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from typing import Any

from mmiotap.kmmio.access import Access, Phase, Verdict
from mmiotap.kmmio.place import Place
from mmiotap.kmmio.probe import Probe
from mmiotap.sources.ptrace import wire
from mmiotap.sources.ptrace.engine import Engine, Finished, Placed
from mmiotap.sources.ptrace.process import Waiting
from mmiotap.sources.ptrace.rows import Rows
from mmiotap.sources.ptrace.wire import Answer, Done, End, Question, Report, Request, Settings
from mmiotap.trace.arena import Arena
from mmiotap.trace.errors import MmiotapError

#: The terminal, or whoever ends a process group, sends them to us, too; we end when we have left the program.
OUTLIVED = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM)
#: More than poll(2) may be asked to wait is as good as for ever.
LONGEST_MS = 1 << 30


def main(control: "Connection[Any, Any]") -> None:
    """Trace as the other end says, until it is over, or the other end is gone."""
    settings: Settings = control.recv()
    for channel in (control.fileno(), settings.questions):
        os.set_inheritable(channel, False)
    for number in OUTLIVED:
        if signal.getsignal(number) != signal.SIG_IGN:  # a handler: what we start then has the default again
            signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, settings.mask)
    Tracer(control, settings).serve()
    os._exit(0)


class Elsewhere:
    """Stands for the handlers of a probe, which the user's process has under this number."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, access: Access) -> None:
        raise AssertionError(f"{access}: a handler of another process was called in the tracer")


class Tracer:
    """Does what the user's process asks for, and asks it about accesses.

    Two threads matter: the one that reads requests, which never waits for anything else once the program is traced,
    and the engine's, which does them. So one that a handler makes is done though its access waits for that handler.
    """

    def __init__(self, control: "Connection[Any, Any]", settings: Settings) -> None:
        self._control = control
        self._sending = threading.Lock()
        self._user = settings.user
        self._arena = Arena.open(settings.arena, writable=True) if settings.arena else None
        self._questions = Questions(socket.socket(fileno=settings.questions), settings.limit)
        self._stops = settings.stops
        self._engine = Engine(
            way=settings.way,
            rules=settings.rules,
            log=Rows(self._arena) if self._arena else None,
            report=lambda text: self._tell(Report(text)),
            enabled=settings.enabled,
            answer=self._answer,
        )
        self._placed: dict[int, Placed] = {}
        self._waiting: Waiting | None = None
        self._traces = False
        self._gave_up: Access | None = None
        self._unanswered = 0

    def serve(self) -> None:
        """Returns when the program was left, or has ended, and nobody wants anything any more."""
        with suppress(EOFError, OSError):
            user = os.pidfd_open(self._user)  # a forked child of it may have the channel, too, so its end says nothing
            while os.getppid() == self._user and self._control in wait_for([self._control, user]):
                self._take(self._control.recv())
        self._questions.nobody_is_there()
        if self._arena:
            self._arena.closed = True  # nobody makes room in it
        if self._traces:
            if not (self._stops and any(placed.hook for placed in list(self._placed.values()))):
                self._engine.leave()
            with suppress(Exception):
                self._engine.wait()

    # Requests

    def _take(self, request: Request) -> None:
        def do() -> None:
            try:
                result, error = getattr(self, f"do_{request.what}")(*request.arguments), None
            except Exception as raised:
                result, error = None, _portable(raised)
            self._tell(Done(request.number, result, error))

        if not self._traces or request.what == "run":
            do()
        elif not (request.in_handler and self._questions.meanwhile(do)):
            try:
                self._engine.ask(do)
            except Finished as finished:
                self._tell(Done(request.number, None, finished))

    def do_attach(self, pid: int) -> None:
        self._engine.attach(pid)
        self._begin()

    def do_prepare(self, program: str, command: list[str]) -> int:
        """Start a program, but for its first instruction."""
        self._waiting = self._engine.prepare(program, command)
        self._begin()
        return self._engine.pid

    def do_run(self) -> None:
        assert self._waiting
        self._waiting.run()

    def do_probe(self, number: int, place: Place, pre: bool, post: bool, hook: bool) -> None:
        there = Elsewhere(number)
        self._placed[number] = self._engine.probe(
            place, pre=there if pre else None, post=there if post else None, hook=hook
        )

    def do_unprobe(self, number: int) -> None:
        self._engine.unprobe(self._placed.pop(number))

    def do_enable(self, enabled: bool) -> None:
        self._engine.enable(enabled)

    def do_leave(self) -> None:
        if self._traces:
            self._engine.leave()
        else:
            self._tell(End())

    def _begin(self) -> None:
        self._traces = True
        threading.Thread(target=self._tell_the_end, name="mmiotap-end", daemon=True).start()

    def _tell_the_end(self) -> None:
        trouble = None
        try:
            self._engine.wait()
        except Exception as error:
            trouble = _portable(error)
        self._tell(End(self._engine.exit_code, self._engine.left_behind, self._unanswered, trouble))

    def _tell(self, message: Done | Report | End) -> None:
        with self._sending, suppress(OSError):
            self._control.send(message)

    # Questions

    def _answer(self, probes: Sequence[Probe], seen: Access) -> None:
        """Have the user's process run the handlers. If they fail, the device answers, or the program ends here."""
        handlers = [probe.pre if seen.phase is Phase.PRE else probe.post for probe in probes]
        numbers = [handler.number for handler in handlers if isinstance(handler, Elsewhere)]
        if not numbers or seen is self._gave_up:
            return
        waits = any(probe.hook for probe in probes)
        try:
            answer = self._questions.ask(numbers, seen, waits)
            fine = answer.fine
        except TooLateError:
            self._gave_up = seen
            self._unanswered += 1
            fine = False
        if fine:
            match Verdict[answer.verdict]:
                case Verdict.ANSWER:
                    seen.answer(answer.value or 0)
                case Verdict.CHANGE:
                    seen.value = answer.value or 0
                case Verdict.SWALLOW:
                    seen.swallow()
        elif self._stops and waits:
            with suppress(ProcessLookupError):
                os.kill(seen.pid, signal.SIGKILL)


class TooLateError(Exception):
    """No answer came in time, or none ever will."""


class Questions:
    """Asks about accesses, in the engine's thread; the user's process has one question at a time."""

    def __init__(self, channel: socket.socket, limit: float) -> None:
        self._channel = channel
        self._limit = limit
        self._owed = False  # the last question was given up, and its answer is still to come
        self._nobody = False
        self._lock = threading.Lock()
        self._asking = False
        self._todo: deque[Callable[[], None]] = deque()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(channel.fileno(), select.POLLIN)
        self._poll.register(self._bell, select.POLLIN)

    def ask(self, numbers: list[int], seen: Access, waits: bool) -> Answer:
        """Raises TooLateError. One who only observes (not ``waits``) may take as long as it likes."""
        end = time.monotonic() + self._limit if waits else None
        with self._lock:
            self._asking = True
        try:
            while self._owed:  # a handler is still busy with an access that is long over
                self._receive(end)
            wire.tell(
                self._channel,
                Question(
                    numbers,
                    (
                        seen.kind, seen.address, seen.offset, seen.width, seen.value, seen.pc, seen.pid, seen.tid,
                        seen.time_ns, seen.map_id, seen.path, seen.flags,
                    ),
                    seen.phase.name,
                    tuple(seen.registers.values()),
                ),
            )  # fmt: skip
            self._owed = True
            answer = None
            while answer is None:
                answer = self._receive(end)
            return answer
        except (EOFError, OSError) as error:
            self._nobody = True
            raise TooLateError from error
        finally:
            with self._lock:
                self._asking = False
            self._do()

    def meanwhile(self, action: Callable[[], None]) -> bool:
        """Do this in the engine's thread while it waits for an answer. False: it does not wait for one."""
        with self._lock:
            if self._asking:
                self._todo.append(action)
                os.eventfd_write(self._bell, 1)
            return self._asking

    def nobody_is_there(self) -> None:
        """To answer any question, now or ever."""
        self._nobody = True
        os.eventfd_write(self._bell, 1)

    def _receive(self, end: float | None) -> Answer | None:
        """The answer that is owed, or None after something else has happened."""
        if self._nobody:
            raise TooLateError
        left = None if end is None else min(max(end - time.monotonic(), 0) * 1000, LONGEST_MS)
        ready = self._poll.poll(left)
        if not ready:
            raise TooLateError
        if any(fd == self._bell for fd, _ in ready):
            os.eventfd_read(self._bell)
            self._do()
            return None
        answer = Answer(*wire.hear(self._channel))
        self._owed = False
        return answer

    def _do(self) -> None:
        while self._todo:
            self._todo.popleft()()


def _portable(error: Exception) -> Exception:
    """As it is, if the other process can have it so."""
    if isinstance(error, MmiotapError) or type(error) in (OSError, FileNotFoundError, PermissionError):
        return error
    return RuntimeError("".join(traceback.format_exception(error)))
