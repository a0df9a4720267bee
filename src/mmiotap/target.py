"""Programs under probes: what :func:`mmiotap.launch` and :func:`mmiotap.attach` return."""

import contextlib
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mmiotap.analysis.live import LiveNames
from mmiotap.kmmio.place import InMapping, Place, parse
from mmiotap.kmmio.probe import Handler, Probe
from mmiotap.sources import agent, launch
from mmiotap.sources.child import Child
from mmiotap.sources.hooks import Hooks
from mmiotap.sources.observers import Observers, check_observer
from mmiotap.sources.ptrace import modules
from mmiotap.sources.ptrace.engine import Engine, Finished
from mmiotap.sources.ptrace.engine import Placed as EnginePlaced
from mmiotap.sources.recording import RecordResult
from mmiotap.trace.errors import MmiotapError

if TYPE_CHECKING:
    import pyarrow as pa


def warn(text: str) -> None:
    """The default way to report: a line on standard error."""
    print(f"mmiotap: {text}", file=sys.stderr)


class Placed(Protocol):
    """A probe that is in force."""

    def remove(self) -> None:
        """When this returns, no handler of it runs, and none ever will. (In a handler: but for this one.)"""


class Attached:
    """A process that runs, probed from outside. Leaving the ``with`` leaves it as it was."""

    def __init__(self, pid: int, report: Callable[[str], None]) -> None:
        self.pid = pid
        self._engine = Engine(report=report, name_of=LiveNames(modules.find))
        self._engine.attach(pid)

    def probe(
        self, place: str | Place, *, pre: Handler | None = None, post: Handler | None = None, hook: bool = True
    ) -> Placed:
        """Have ``pre`` called before each access to a place, and ``post`` after it.

        The program waits for both. Handlers of a hook may answer; without ``hook`` there is only ``post``.
        """
        where = parse(place) if isinstance(place, str) else place
        if not hook:
            check_observer(pre)
        return _Outside(self._engine, self._engine.probe(where, pre=pre, post=post, hook=hook))

    def wait(self, seconds: float | None = None) -> int | None:
        """Its exit status, or minus the signal that it died of; None if it still runs after so many seconds."""
        self._engine.wait(None if seconds is None else int(seconds * 1000))
        return self._engine.exit_code

    def __enter__(self) -> "Attached":
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.detach()


class Launched:
    """A program that is about to run, or runs, with the agent in it. To be used in a ``with`` statement.

    It starts at :meth:`start` or :meth:`wait`, so that probes which are there before see its first access. Leaving the
    ``with`` waits for its end; an exception that leaves it kills the program.
    """

    def __init__(
        self,
        command: Sequence[str],
        maps: Sequence[str],
        on_hook_failure: str,
        limit: float,
        report: Callable[[str], None],
    ) -> None:
        self._command = list(command)
        self._maps = list(maps)
        names = LiveNames(modules.find)
        self._hooks = Hooks(limit=limit, on_failure=on_hook_failure, report=report, name_of=names)
        self._observers = Observers(report, names)
        self._program: Child | None = None
        self._begun = threading.Event()
        self._result: Future[RecordResult] = Future()
        if not command:
            raise MmiotapError("what shall be launched? give a command")
        program = launch.find_program(self._command[0])
        launch.check_program(Path(program), launch.find_agent())

    @property
    def pid(self) -> int:
        """Raises MmiotapError if it has not been started."""
        if self._program is None:
            raise MmiotapError("the program does not run yet: start() or wait() starts it")
        return self._program.pid

    def probe(
        self, place: str | Place, *, pre: Handler | None = None, post: Handler | None = None, hook: bool = True
    ) -> Placed:
        """Have ``pre`` called before each access to a place, and ``post`` after it.

        The program waits for the handlers of a hook, and they may answer. Without ``hook`` there is only ``post``: it
        is called with every access, some time later. After the start only mappings are found that ``maps`` selects,
        or an earlier probe.
        """
        where = self._find(place)
        probe = Probe(0, where.length, pre, post, hook)
        if not hook:
            return _Watching(self._observers, self._observers.probe(where, probe))
        self._hooks.add(where, probe)
        return _Hook(self._hooks, probe)

    def watch(self, place: str | Place, handler: "Callable[[pa.Table], None]") -> Placed:
        """Have ``handler`` called with the accesses to a place, in batches, as :meth:`Trace.events` gives events."""
        return _Watching(self._observers, self._observers.watch([self._find(place)], handler))

    def start(self) -> None:
        """Run it. Raises MmiotapError if it cannot be started."""
        threading.Thread(target=self._run, name="mmiotap-target", daemon=True).start()
        self._begun.wait()
        if self._program is None:
            self._result.result()

    def wait(self, seconds: float | None = None) -> int | None:
        """Its exit status, or minus the signal that it died of; None if it still runs after so many seconds."""
        if not self._begun.is_set():
            self.start()
        try:
            result = self._result.result(seconds)
        except TimeoutError:
            return None
        return result.status if result.signal is None else -result.signal

    def kill(self) -> None:
        """End it, if it runs."""
        if self._program is not None:
            self._program.send(signal.SIGKILL)

    def __enter__(self) -> "Launched":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.kill()
        if self._begun.is_set():
            self.wait()

    def _find(self, place: str | Place) -> Place:
        where = parse(place) if isinstance(place, str) else place
        if isinstance(where, InMapping) and not where.rule.isdecimal() and self._program is None:
            self._maps.append(where.rule)
        return where

    def _run(self) -> None:
        def started(child: Child) -> None:
            self._program = child
            self._begun.set()

        try:
            with tempfile.TemporaryDirectory(prefix="mmiotap-") as folder:
                result = agent.record(
                    self._command,
                    maps=self._maps or None,
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


class _Outside:
    def __init__(self, engine: Engine, placed: EnginePlaced) -> None:
        self._engine, self._placed = engine, placed

    def remove(self) -> None:
        with contextlib.suppress(Finished):
            self._engine.unprobe(self._placed)


class _Hook:
    def __init__(self, hooks: Hooks, probe: Probe) -> None:
        self._hooks, self._probe = hooks, probe

    def remove(self) -> None:
        self._hooks.remove(self._probe)


class _Watching:
    def __init__(self, observers: Observers, key: object) -> None:
        self._observers, self._key = observers, key

    def remove(self) -> None:
        self._observers.remove(self._key)
