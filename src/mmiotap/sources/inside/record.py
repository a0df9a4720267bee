"""Record a process that runs already through the agent, which is brought into it, and afterwards out of its way."""

import math
import os
import select
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mmiotap.sources import control, launch
from mmiotap.sources.agent import settings
from mmiotap.sources.inside import loading, symbols
from mmiotap.sources.launch import NoAgentError
from mmiotap.sources.ptrace import maps as proc
from mmiotap.sources.ptrace import process
from mmiotap.sources.ptrace.calls import Gone
from mmiotap.sources.recording import DEFAULT_BUFFER, Progress, Recording, RecordResult, default_folder
from mmiotap.trace import store
from mmiotap.trace.errors import MmiotapError


def check(pid: int, agent: Path) -> None:
    """Raises MmiotapError if the process cannot be recorded; it is a NoAgentError if that is so from inside only."""
    process.check(pid)
    refuse_second(pid)
    try:
        objects = symbols.objects(proc.read(pid))
    except PermissionError as error:
        raise process.refused(pid, error) from error
    if not any(Path(path).name.startswith("libc.so.6") or Path(path).name.startswith("libc-2") for path in objects):
        what = "runs a program without glibc (static, or with another C library)"
        raise NoAgentError(f"process {pid} {what}, so no agent can be loaded into it", "use --engine ptrace")


def refuse_second(pid: int) -> None:
    """Raises MmiotapError if the process is part of a recording whose recorder still runs."""
    try:
        folder = control.find_recording(str(pid))
        _, state = store.current(folder)
    except MmiotapError:
        return
    if state == "recording":
        raise MmiotapError(f"process {pid} is being recorded already, into {folder}: end that recording first")


def attach(
    pid: int,
    *,
    until: threading.Event,
    seconds: float | None = None,
    maps: list[str] | None = None,
    path: str | os.PathLike[str] | None = None,
    on_full: str = "wait",
    latency: bool = False,
    buffer: int = DEFAULT_BUFFER,
    patch: str | int = "auto",
    protocol: str = "breakpoint",
    smp: str = "emulate",
    force: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    report: Callable[[str], None],
) -> RecordResult:
    """Record a process that runs, until it ends, ``until`` is set, or the time is over; then leave it as it was.

    The time begins when the agent has joined. Raises MmiotapError if it cannot be recorded.
    """
    agent = launch.find_agent()
    check(pid, agent)
    wanted = settings(maps, on_full, patch, protocol, smp, latency=latency)
    name = Path(proc.executable(pid)).name
    folder = Path(path) if path is not None else default_folder(name)
    attached = _Attached(pid, agent, until, seconds)
    recording = Recording(folder, [name], wanted, "agent", enabled=True, buffer=buffer, force=force)
    with recording.serving():
        try:
            attached.join(recording.trace.arena)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        recording.follow(attached, on_progress)
    # Closed, it is left by threads that wait for room.
    try:
        attached.leave()
    except MmiotapError as error:
        report(f"{error}; it runs on, unrecorded, with the agent in it")
    return recording.finish(attached)


class _Attached:
    """The process, as a recording sees it."""

    exit_code = None  #: only its parent is told

    def __init__(self, pid: int, agent: Path, until: threading.Event, seconds: float | None) -> None:
        self.pid = pid
        self._agent = agent
        self._until = until
        self._seconds = math.inf if seconds is None else seconds
        self._end = math.inf
        try:
            self._pidfd = os.pidfd_open(pid)
        except OSError as error:
            raise MmiotapError(f"there is no process {pid}") from error
        self._poll = select.poll()
        self._poll.register(self._pidfd, select.POLLIN)

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):
            os.close(self._pidfd)

    def join(self, arena: Path) -> None:
        try:
            loading.load(self.pid, self._agent)
            if _has_arena(self.pid):
                loading.leave(self.pid, self._agent)  # a recording whose recorder is gone
            loading.join(self.pid, self._agent, arena)
        except Gone as error:
            raise MmiotapError(f"process {self.pid} has just ended") from error
        self._end = time.monotonic() + self._seconds

    def leave(self) -> None:
        """Nothing is left to do if it has ended, or runs another program by now."""
        with suppress(Gone):
            if not self._has_ended(0) and _has_arena(self.pid):
                loading.leave(self.pid, self._agent)

    def wait(self, milliseconds: int) -> bool:
        left = self._end - time.monotonic()
        return self._until.is_set() or left <= 0 or self._has_ended(math.ceil(min(milliseconds, left * 1000)))

    def _has_ended(self, milliseconds: int) -> bool:
        return bool(self._poll.poll(milliseconds))


def _has_arena(pid: int) -> bool:
    try:
        lines = proc.read(pid)
    except OSError:
        return False
    return any("/live/arena" in line.path and line.shared for line in lines)
