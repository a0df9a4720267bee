"""Programs under probes: what :func:`mmiotap.launch` and :func:`mmiotap.attach` return."""

import contextlib
import os
import signal
import sys
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Self

from mmiotap.analysis.live import LiveNames
from mmiotap.kmmio.place import InMapping, Place, parse
from mmiotap.kmmio.probe import Handler, Probe
from mmiotap.sources import agent, launch
from mmiotap.sources.child import Child
from mmiotap.sources.hooks import Hooks
from mmiotap.sources.observers import Observers, check_observer
from mmiotap.sources.ptrace import modules
from mmiotap.sources.ptrace.engine import Finished
from mmiotap.sources.ptrace.remote import Failure, Remote
from mmiotap.sources.recording import RecordResult
from mmiotap.trace.errors import MmiotapError

if TYPE_CHECKING:
    import pyarrow as pa

Report = Callable[[str], None]


def warn(text: str) -> None:
    """The default way to report: a line on standard error."""
    print(f"mmiotap: {text}", file=sys.stderr)


class Placed:
    """A probe that is in force."""

    def __init__(self, remove: Callable[[], None]) -> None:
        self._remove = remove

    def remove(self) -> None:
        """When this returns, no handler of it runs, and none ever will. (In a handler: but for this one.)"""
        self._remove()


class Target(ABC):
    """A program, or a process, under probes; for a ``with`` statement.

    One that is launched starts at :meth:`start` or :meth:`wait`, so that probes which are there before see its first
    access. Leaving the ``with`` waits for its end; an exception that leaves it kills the program. A process that was
    attached to is left as it was.
    """

    _started = False

    def probe(
        self, place: str | Place, *, pre: Handler | None = None, post: Handler | None = None, hook: bool = True
    ) -> Placed:
        """Have ``pre`` called before each access to a place, and ``post`` after it.

        The program waits for the handlers of a hook, and they may answer. Without ``hook`` there is only ``post``,
        called with every access, some time later. Raises ProbeExists if the place is covered by another hook.
        """
        if not hook:
            check_observer(pre)
        return self._probe(parse(place) if isinstance(place, str) else place, pre, post, hook)

    def watch(self, place: str | Place, handler: "Callable[[pa.Table], None]") -> Placed:
        """Have ``handler`` called with the accesses to a place, in batches, as :meth:`Trace.events` gives events."""
        raise MmiotapError("there are batches only with the agent; from outside: probe(place, post=…, hook=False)")

    def wait(self, seconds: float | None = None) -> int | None:
        """Its exit status, or minus the signal that it died of; None if it still runs after so many seconds."""
        if not self._started:
            self.start()
        return self._wait(seconds)

    def start(self) -> None:
        """Run it. Raises MmiotapError if it cannot be started."""
        self._started = True
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.kill()
        if self._started:
            self._wait(None)

    @property
    @abstractmethod
    def pid(self) -> int:
        """Raises MmiotapError if it has not been started."""

    @abstractmethod
    def kill(self) -> None:
        """End it, if it runs."""

    @abstractmethod
    def _probe(self, place: Place, pre: Handler | None, post: Handler | None, hook: bool) -> Placed: ...

    @abstractmethod
    def _start(self) -> None: ...

    @abstractmethod
    def _wait(self, seconds: float | None) -> int | None: ...


class Inside(Target):
    """With the agent in it."""

    def __init__(
        self, command: Sequence[str], maps: Sequence[str], on_hook_failure: str, limit: float, report: Report
    ) -> None:
        self._command = list(command)
        self._maps = list(maps)
        names = LiveNames(modules.find)
        self._hooks = Hooks(limit=limit, on_failure=on_hook_failure, report=report, name_of=names)
        self._observers = Observers(report, names)
        self._program: Child | None = None
        self._begun = threading.Event()
        self._result: Future[RecordResult] = Future()

    @property
    def pid(self) -> int:
        if self._program is None:
            raise MmiotapError("the program does not run yet: start() or wait() starts it")
        return self._program.pid

    def watch(self, place: str | Place, handler: "Callable[[pa.Table], None]") -> Placed:
        where = parse(place) if isinstance(place, str) else place
        self._select(where)
        key = self._observers.watch([where], handler)
        return Placed(lambda: self._observers.remove(key))

    def kill(self) -> None:
        if self._program is not None:
            self._program.send(signal.SIGKILL)

    def _probe(self, place: Place, pre: Handler | None, post: Handler | None, hook: bool) -> Placed:
        probe = Probe(0, place.length, pre, post, hook)
        self._select(place)
        if hook:
            self._hooks.add(place, probe)
            return Placed(lambda: self._hooks.remove(probe))
        key = self._observers.probe(place, probe)
        return Placed(lambda: self._observers.remove(key))

    def _select(self, place: Place) -> None:
        """Its mappings are to be taken over; those of a program that runs already are what ``maps`` said."""
        if isinstance(place, InMapping) and not place.rule.isdecimal():
            self._maps.append(place.rule)

    def _start(self) -> None:
        threading.Thread(target=self._run, name="mmiotap-target", daemon=True).start()
        self._begun.wait()
        if self._program is None:
            self._result.result()

    def _wait(self, seconds: float | None) -> int | None:
        try:
            result = self._result.result(seconds)
        except TimeoutError:
            return None
        return result.status if result.signal is None else -result.signal

    def _run(self) -> None:
        def started(child: Child) -> None:
            self._program = child
            self._begun.set()

        try:
            with tempfile.TemporaryDirectory(prefix="mmiotap-") as folder:
                result = agent.record(
                    self._command,
                    maps=list(dict.fromkeys(self._maps)) or None,
                    path=Path(folder, "trace"),
                    keep=False,
                    hooks=self._hooks,
                    observers=self._observers,
                    on_start=started,
                )
            self._result.set_result(result)
        except BaseException as error:
            self._result.set_exception(error)
        finally:
            self._begun.set()


class Outside(Target):
    """Traced by ptrace. Here the program waits for handlers that observe, too, and for those as long as they take."""

    def __init__(self, target: int | Sequence[str], on_hook_failure: str, limit: float, report: Report) -> None:
        """A pid, which is attached to at once, or a command."""
        self._engine = Remote(Failure(limit, on_hook_failure), report=report, name_of=LiveNames(modules.find))
        self._command = [] if isinstance(target, int) else list(target)
        if isinstance(target, int):
            self._engine.attach(target)

    @property
    def pid(self) -> int:
        if not self._engine.pid:
            raise MmiotapError("the program does not run yet: start() or wait() starts it")
        return self._engine.pid

    def kill(self) -> None:
        if self._engine.pid and self._engine.exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._engine.pid, signal.SIGKILL)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self._command:
            super().__exit__(kind, *rest)
        self._engine.detach()

    def _probe(self, place: Place, pre: Handler | None, post: Handler | None, hook: bool) -> Placed:
        placed = self._engine.probe(place, pre=pre, post=post, hook=hook)

        def remove() -> None:
            with contextlib.suppress(Finished):
                self._engine.unprobe(placed)

        return Placed(remove)

    def _start(self) -> None:
        if self._command:
            program = launch.find_program(self._command[0])
            try:
                self._engine.launch(program, self._command)
            except OSError as error:
                raise launch.NotStartedError(f"{program} does not start: {error.strerror}", 126) from error

    def _wait(self, seconds: float | None) -> int | None:
        self._engine.wait(None if seconds is None else int(seconds * 1000))
        return self._engine.exit_code
