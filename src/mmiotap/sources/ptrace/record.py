"""Record with the engine from outside: a program that it starts, or a process that runs already."""

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmiotap.sources import launch
from mmiotap.sources.child import Signals
from mmiotap.sources.ptrace import maps as proc
from mmiotap.sources.ptrace import process
from mmiotap.sources.ptrace.engine import Engine, Finished, check_way
from mmiotap.sources.ptrace.remote import Failure, Remote
from mmiotap.sources.ptrace.rows import Rows
from mmiotap.sources.recording import DEFAULT_BUFFER, Progress, Recording, RecordResult, default_folder

if TYPE_CHECKING:
    from mmiotap.sources.observers import Observers

#: Takes a line for the user, about what is not as usual.
Report = Callable[[str], None]
#: Traces, here or from a process of its own.
Traces = Engine | Remote
OnEngine = Callable[[Traces], None]


def say(text: str) -> None:
    """On standard error, as the command line says things."""
    print(f"mmiotap: {text}", file=sys.stderr)


def record(
    command: list[str],
    *,
    maps: list[str] | None = None,
    path: str | os.PathLike[str] | None = None,
    way: str = "emulate",
    on_full: str = "wait",
    disabled: bool = False,
    buffer: int = DEFAULT_BUFFER,
    force: bool = False,
    keep: bool = True,
    observers: "Observers | None" = None,
    apart: Failure | None = None,
    on_engine: OnEngine | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    report: Report = say,
) -> RecordResult:
    """Run a program to its end and record it: as sources.agent.record, for whatever the agent cannot get into.

    ``on_engine`` gets the engine before the program's first instruction, and may place probes. With ``apart`` the
    engine has a process of its own, and this says what becomes of the program if handlers fail, or we are killed.
    """
    program = launch.find_program(command[0])
    folder = Path(path) if path is not None else default_folder(program)
    recorder = _Recorder(
        command,
        folder,
        maps,
        way,
        on_full,
        report,
        enabled=not disabled,
        buffer=buffer,
        force=force,
        keep=keep,
        observers=observers,
        apart=apart,
    )
    with Signals() as signals:
        with recorder.recording.serving():
            try:
                if on_engine:
                    on_engine(recorder.engine)
                recorder.engine.launch(program, command)
            except OSError as error:
                recorder.give_up()
                raise launch.NotStartedError(f"{program} does not start: {error.strerror}", 126) from error
            signals.forward_to(recorder)
            recorder.recording.follow(recorder, on_progress)
        return recorder.finish()


def attach(
    pid: int,
    *,
    until: threading.Event,
    seconds: float | None = None,
    maps: list[str] | None = None,
    path: str | os.PathLike[str] | None = None,
    way: str = "emulate",
    on_full: str = "wait",
    buffer: int = DEFAULT_BUFFER,
    force: bool = False,
    keep: bool = True,
    observers: "Observers | None" = None,
    apart: Failure | None = None,
    on_engine: OnEngine | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    report: Report = say,
) -> RecordResult:
    """Record a process that runs, until it ends, ``until`` is set, or the time is over; then leave it as it was.

    ``on_engine`` gets the engine when the process is traced, and may place probes. ``apart`` is as for :func:`record`.
    Raises MmiotapError if the process cannot be traced, or what ``on_engine`` raises.
    """
    process.check(pid)
    name = Path(proc.executable(pid)).name
    folder = Path(path) if path is not None else default_folder(name)
    recorder = _Recorder(
        [name],
        folder,
        maps,
        way,
        on_full,
        report,
        enabled=True,
        buffer=buffer,
        force=force,
        keep=keep,
        observers=observers,
        apart=apart,
    )
    with recorder.recording.serving():
        try:
            recorder.engine.attach(pid)
            if on_engine:
                on_engine(recorder.engine)
        except BaseException:
            recorder.give_up()
            raise
        recorder.leave_when(until, seconds)
        recorder.recording.follow(recorder, on_progress)
    return recorder.finish()


class _Recorder:
    """An engine and the recording that it writes to. To the recording it is the program that is traced."""

    def __init__(
        self,
        command: list[str],
        folder: Path,
        maps: list[str] | None,
        way: str,
        on_full: str,
        report: Report,
        *,
        enabled: bool,
        buffer: int,
        force: bool,
        keep: bool,
        observers: "Observers | None",
        apart: Failure | None,
    ) -> None:
        rules = list(launch.DEVICE_PATHS) if maps is None else maps
        launch.check_rules(rules)
        check_way(way)
        settings = {"maps": rules, "on_full": on_full, "latency": False, "smp": way}
        self._folder = folder
        self.recording = Recording(
            folder,
            command,
            settings,
            "ptrace",
            enabled=enabled,
            buffer=buffer,
            force=force,
            keep=keep,
            observers=observers,
        )
        if apart is None:
            log = Rows(self.recording.arena)
            self.engine: Traces = Engine(way=way, rules=rules, log=log, report=report, enabled=enabled)
        else:
            arena = self.recording.trace.arena
            self.engine = Remote(apart, way=way, rules=rules, arena=arena, report=report, enabled=enabled)
        self.recording.on_switch = self._switch
        self._until = threading.Event()
        self._end: float | None = None

    @property
    def pid(self) -> int:
        return self.engine.pid

    @property
    def exit_code(self) -> int | None:
        return self.engine.exit_code

    def leave_when(self, until: threading.Event, seconds: float | None) -> None:
        self._until = until
        self._end = None if seconds is None else time.monotonic() + seconds

    def wait(self, milliseconds: int) -> bool:
        """Goes on to be called while the process is being left, for the tracer may need room for its last rows."""
        if self._until.is_set() or (self._end is not None and time.monotonic() >= self._end):
            self.engine.leave()
        return self.engine.wait(milliseconds)

    def send(self, number: int) -> None:
        """A signal for the program."""
        if self.exit_code is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def give_up(self) -> None:
        """Nothing was recorded, and nothing will be."""
        self.engine.detach()
        shutil.rmtree(self._folder, ignore_errors=True)

    def finish(self) -> RecordResult:
        self.engine.detach()
        return replace(self.recording.finish(self), still_running=self.engine.left_behind)

    def _switch(self) -> None:
        with suppress(Finished):
            self.engine.enable(self.recording.arena.enabled)
