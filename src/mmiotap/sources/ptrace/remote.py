"""An engine in a process of its own, and the handlers of its probes in this one.

What happens to this process then is no harm to the program that is traced: :mod:`tracer` says what becomes of it. The
face is that of :class:`engine.Engine`.
"""

import itertools
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mmiotap.kmmio.access import Access, Phase
from mmiotap.kmmio.handlers import run
from mmiotap.kmmio.place import Place
from mmiotap.kmmio.probe import Handler, Probe
from mmiotap.sources.hook_channel import check_failure
from mmiotap.sources.ptrace import process, wire
from mmiotap.sources.ptrace.engine import Finished, Placed, check_way
from mmiotap.sources.ptrace.tracer import OUTLIVED
from mmiotap.sources.ptrace.wire import REGISTERS, Answer, Done, End, Question, Report, Request, Settings
from mmiotap.trace.errors import MmiotapError

#: The other process begins with this. It finds modules where we do.
_PROGRAM = """\
import sys
from multiprocessing.connection import Connection
control = Connection(int(sys.argv[1]))
sys.path[:] = control.recv()
from mmiotap.sources.ptrace.tracer import main
main(control)
"""


@dataclass(frozen=True)
class Failure:
    """What becomes of a program whose handlers fail: they raise, take longer than ``limit`` seconds, or are gone."""

    limit: float
    on_failure: str  #: "device" or "stop"

    def __post_init__(self) -> None:
        check_failure(self.limit, self.on_failure)


class Remote:
    """Traces a process from another one. The arguments are those of Engine; ``arena`` is where a recording's rows go.

    Handlers run in one thread. ``report`` is called by that one and by others.
    """

    def __init__(
        self,
        failure: Failure,
        *,
        way: str = "emulate",
        rules: Sequence[str] = (),
        arena: Path | None = None,
        report: Callable[[str], None],
        name_of: Callable[[int, int], str] | None = None,
        enabled: bool = True,
    ) -> None:
        check_way(way)
        self.pid = 0
        self.name_of = name_of
        self.report = report
        self._failure = failure
        self._way, self._rules, self._arena, self._enabled = way, list(rules), arena, enabled
        self._lock = threading.Lock()  # of requests, and of the end
        self._requests: dict[int, Future[Any]] = {}
        self._number = 0
        self._probes: dict[int, Probe] = {}
        self._placed: dict[Placed, int] = {}
        self._probe_numbers = itertools.count()
        self._running = threading.RLock()  # held while handlers run
        self._handlers: threading.Thread | None = None
        self._control: Connection[Any, Any] | None = None
        self._tracer = 0
        self._end: End | None = None
        self._over = threading.Event()

    @property
    def exit_code(self) -> int | None:
        """Once the process has ended: its status, or minus the signal it died of."""
        return self._end.exit_code if self._end else None

    @property
    def left_behind(self) -> list[int]:
        """When it is over: processes that were traced, and run on."""
        return self._end.left_behind if self._end else []

    @property
    def unanswered(self) -> int:
        """When it is over: accesses that went on without an answer."""
        return self._end.unanswered if self._end else 0

    def attach(self, pid: int) -> None:
        """Trace a running process from now on. Raises MmiotapError if it cannot be traced."""
        process.check(pid)
        try:
            self._do("attach", pid)
        except BaseException:
            self.detach()
            raise
        self.pid = pid

    def launch(self, program: str, command: list[str]) -> None:
        """Start a program and trace it from its first instruction on. Raises OSError if it cannot be started."""
        self.pid = self._do("prepare", program, command)
        self._do("run")

    def probe(
        self, place: Place, *, pre: Handler | None = None, post: Handler | None = None, hook: bool = True
    ) -> Placed:
        """Have handlers run for each access to a place: where it is now, and wherever it is mapped later.

        The program waits for them; those of a ``hook`` may answer. Raises ProbeExists, or MmiotapError if there is
        nothing at an address. A program may be probed before it is launched.
        """
        placed, number = Placed(place, pre, post, hook), next(self._probe_numbers)
        self._probes[number] = Probe(0, place.length, pre, post, hook)
        try:
            self._do("probe", number, place, pre is not None, post is not None, hook)
        except BaseException:
            del self._probes[number]
            raise
        self._placed[placed] = number
        return placed

    def unprobe(self, placed: Placed) -> None:
        """Returns when no handler of it runs, or ever will. (In a handler: but for this one.)"""
        number = self._placed.pop(placed)
        self._do("unprobe", number)
        with self._running:
            del self._probes[number]

    def enable(self, enabled: bool) -> None:
        """Arm, or disarm, whatever is probed and recorded."""
        self._do("enable", enabled)

    def wait(self, milliseconds: int | None = None) -> bool:
        """Is it over, now or within this time: has the process ended, or were we told to detach?"""
        over = self._over.wait(None if milliseconds is None else milliseconds / 1000)
        if self._end and self._end.trouble:
            raise self._end.trouble
        return over

    def leave(self) -> None:
        """Begin to detach; :meth:`wait` tells when that is done."""
        with suppress(Finished):
            if self._control is not None:
                self._send("leave")

    def detach(self) -> None:
        """Leave the process as it would be without us. Nothing happens if it is over."""
        self.leave()
        if self._control is not None and threading.current_thread() is not self._handlers:
            self._over.wait()

    # Requests

    def _do(self, what: str, *arguments: Any) -> Any:
        return self._send(what, *arguments).result()

    def _send(self, what: str, *arguments: Any) -> "Future[Any]":
        with self._lock:
            if self._over.is_set():
                raise Finished("the process is not traced any more")
            control = self._control or self._start()
            self._number += 1
            future = self._requests[self._number] = Future()
            in_handler = threading.current_thread() is self._handlers
            with suppress(BrokenPipeError):  # then the end is near, and it is that of all requests
                control.send(Request(self._number, in_handler, what, arguments))
        return future

    def _start(self) -> "Connection[Any, Any]":
        """Start the tracer's process."""
        control, theirs = Pipe()
        questions, asking = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        with theirs, asking:
            descriptors = [theirs.fileno(), asking.fileno()]
            self._tracer = os.posix_spawn(
                sys.executable,
                [sys.executable, "-P", "-c", _PROGRAM, str(descriptors[0])],
                os.environ,
                # From a number to the same one: it is open in the new program, which closes it to all that it starts.
                file_actions=[(os.POSIX_SPAWN_DUP2, number, number) for number in descriptors],
                setsigmask={*blocked, *OUTLIVED},  # until it has handlers for them
            )
        self._control = control
        control.send(sys.path)
        control.send(
            Settings(
                questions=descriptors[1],
                user=os.getpid(),
                mask=[int(number) for number in blocked],
                way=self._way,
                rules=self._rules,
                arena=self._arena.resolve() if self._arena else None,
                enabled=self._enabled,
                limit=self._failure.limit,
                stops=self._failure.on_failure == "stop",
            )
        )
        self._handlers = threading.Thread(
            target=self._answer_all, args=(questions,), name="mmiotap-handlers", daemon=True
        )
        self._handlers.start()
        threading.Thread(target=self._listen, args=(control,), name="mmiotap-remote", daemon=True).start()
        return control

    def _listen(self, control: "Connection[Any, Any]") -> None:
        """Take what the tracer says, until it is over."""
        try:
            while self._end is None:
                match control.recv():
                    case Done(number, result, error):
                        future = self._requests.pop(number)
                        if error is None:
                            future.set_result(result)
                        else:
                            future.set_exception(error)
                    case Report(text):
                        self.report(text)
                    case End() as end:
                        self._end = end
        except (EOFError, OSError):
            if self.pid:
                self._end = End(trouble=_killed(self.pid))
        finally:
            self._close(control)

    def _close(self, control: "Connection[Any, Any]") -> None:
        """It is over: nobody will be asked for anything any more."""
        with self._lock:
            self._over.set()
            control.close()
            for future in self._requests.values():
                future.set_exception(Finished("the process is not traced any more"))
            self._requests.clear()
        with suppress(ChildProcessError):
            os.waitpid(self._tracer, 0)

    # Questions

    def _answer_all(self, questions: socket.socket) -> None:
        with suppress(EOFError, OSError), questions:
            while True:
                wire.tell(questions, self._answer(Question(*wire.hear(questions))))

    def _answer(self, question: Question) -> Answer:
        access = Access(
            *question.access,
            phase=Phase[question.phase],
            registers=lambda: dict(zip(REGISTERS, question.registers, strict=False)),
            name_of=self.name_of,
        )
        with self._running:
            probes = [self._probes[number] for number in question.probes if number in self._probes]
            try:
                fine = run(probes, access, self.report)
            except BaseException as error:  # a handler that ends its thread must not end this one
                self.report(f"a handler's {error!r} ends nothing here")
                fine = False
        return Answer(fine, access.verdict.name, access.value)


def _killed(pid: int) -> MmiotapError:
    return MmiotapError(
        f"the process that traced {pid} was killed: where {pid} has armed pages, it dies at its next access to one"
    )
