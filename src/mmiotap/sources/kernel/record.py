"""Record what drivers in the kernel do: set the tracer, read while a command runs, drain, put everything back."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mmiotap.sources import launch
from mmiotap.sources.child import Child, Signals
from mmiotap.sources.kernel import checks, inventory, memory
from mmiotap.sources.kernel.before import Before
from mmiotap.sources.kernel.tracefs import Tracefs
from mmiotap.sources.kernel.watchdog import Watchdog
from mmiotap.sources.recording import Progress, RecordResult, default_folder, start_info
from mmiotap.trace import store
from mmiotap.trace.errors import MmiotapError

if TYPE_CHECKING:
    from mmiotap.sources.kernel.pipes import Pipe
    from mmiotap.sources.kernel.trace import KernelTrace

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_BUSY_MS, _IDLE_MS = 5, 50
_PROGRESS_SECONDS = 0.2


def record(
    command: list[str],
    *,
    path: str | os.PathLike[str] | None = None,
    buffer: int | None = None,
    trace_pc: bool = False,
    force: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    report: Callable[[str], None],
    running: "Callable[[], AbstractContextManager[Running]] | None" = None,
) -> RecordResult:
    """Trace the kernel while ``command`` runs; without one, until SIGINT, SIGTERM or SIGHUP.

    ``buffer`` is bytes for each CPU's buffer in the kernel, by default a share of the memory that is free. ``running``
    starts the command in another way than ours.
    Raises MmiotapError if the kernel cannot be traced, or not everything could be put back as it was.
    """
    tracefs = checks.check()
    if trace_pc:
        checks.check_trace_pc()
    program = launch.find_program(command[0]) if command else None
    folder = Path(path) if path is not None else default_folder("kernel")
    store.check_name(folder, force)
    devices = inventory.devices()
    if loaded := [one.driver for one in devices if one.driver and one.has_memory]:
        names = ", ".join(dict.fromkeys(loaded))
        report(f"loaded already, and seen only after modprobe -r DRIVER; modprobe DRIVER: {names}")

    watchdog = Watchdog(Before.now(tracefs), tracefs)
    try:
        _set_tracer(tracefs, buffer)
        # Not before the fork: numpy and pyarrow have threads.
        from mmiotap.sources.kernel.pipes import Pages, Text
        from mmiotap.sources.kernel.trace import KernelTrace

        pipe: Pipe
        try:
            pipe = Pages(tracefs, devices)
        except (MmiotapError, OSError) as error:
            report(f"trace_pipe_raw cannot be had ({error}): read as text, so without nanoseconds, CPUs and tasks")
            pipe = Text(tracefs, devices)

        settings = {"buffer": buffer, "trace_pc": trace_pc}
        info = start_info(command, settings, "kernel", time.monotonic_ns())
        with closing(pipe):
            trace = KernelTrace(tracefs, pipe, folder, info, devices, force=force)
            with trace.controlled(), running() if running else _running(program, command) as program_runs:
                started = time.monotonic()
                _follow(trace, program_runs, on_progress)
                return trace.finish(program_runs.exit_code, time.monotonic() - started)
    except launch.NotStartedError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        watchdog.restore()


def _set_tracer(tracefs: Tracefs, buffer: int | None) -> None:
    """How it ends is the watchdog's."""
    try:
        tracefs.write("tracing_on", "0")
        tracefs.write("trace_clock", "mono")  # the same that user space has: CLOCK_MONOTONIC
        tracefs.write("options/overwrite", "1")  # what is lost is the oldest, and the kernel says where
        tracefs.write("current_tracer", checks.TRACER)
        memory.size(tracefs, buffer)
        tracefs.write("tracing_on", "1")
    except OSError as error:
        raise MmiotapError(checks.refusal(error)) from error


class Running(Protocol):
    """What a recording lasts as long as."""

    @property
    def exit_code(self) -> int | None: ...

    def wait(self, milliseconds: int, /) -> bool: ...


class _Asked:
    """Lasts until a signal asks for the end."""

    exit_code = None

    def __init__(self) -> None:
        self.over = threading.Event()

    def wait(self, milliseconds: int, /) -> bool:
        return self.over.wait(milliseconds / 1000)


@contextmanager
def _running(program: str | None, command: list[str]) -> Iterator[Running]:
    if program is None:
        asked = _Asked()
        previous = {number: signal.signal(number, lambda *_: asked.over.set()) for number in _ENDING}
        try:
            yield asked
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        return
    with Signals() as signals:
        child = Child(launch.start(program, command, dict(os.environ)))
        signals.forward_to(child)
        yield child


def _follow(trace: "KernelTrace", running: Running, on_progress: Callable[[Progress], None] | None) -> None:
    started = shown = time.monotonic()
    pause = _BUSY_MS
    while not running.wait(pause):
        pause = _BUSY_MS if trace.read() else _IDLE_MS
        if on_progress and time.monotonic() - shown >= _PROGRESS_SECONDS:
            shown = time.monotonic()
            on_progress(Progress(trace.events, trace.lost, shown - started))
    # First no more events, then all that there are: what is unread when the tracer goes is gone.
    trace.drain()
