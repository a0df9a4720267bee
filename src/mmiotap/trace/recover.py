"""What a crash left of a recording, made into a trace like any other."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mmiotap.trace import store
from mmiotap.trace.arena import Arena, writers
from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.sealer import Sealer
from mmiotap.trace.writer import TraceWriter


@dataclass(frozen=True)
class Recovered:
    """A trace that is whole now."""

    events: int
    lost: int


def recover(path: Path, complete: Callable[[TraceWriter], None] | None = None) -> Recovered | None:
    """Seal what is left in the arena of a crashed recording, and remove the arena. None: there is nothing to do.

    ``complete`` adds what recorders without an arena have left.
    May be killed and called again at any time. Raises MmiotapError while the recorder or a recorded process still
    runs, or if the arena is damaged.
    """
    folder = store.TraceDir(path)
    store.read_info(path)
    with _alone(path):
        info, state = store.current(path)
        alive = store.recorder_alive(info)
        if state == "recording":
            raise MmiotapError(f"{path} is being recorded by process {info['recorder_pid']}; wait for its end")
        found = None
        if state == "incomplete":
            _refuse_while_written(folder)
            found = _seal(folder, complete)
        if not alive:  # one that lives removes its arena itself
            shutil.rmtree(folder.live, ignore_errors=True)
        return found


def _seal(folder: store.TraceDir, complete: Callable[[TraceWriter], None] | None) -> Recovered:
    if not folder.arena.exists():
        writer = TraceWriter(folder.path, "recovered")
        if complete:
            complete(writer)
        writer.finish(finished=None)
        return Recovered(writer.events, writer.lost)
    sealer = Sealer(folder.path, Arena.open(folder.arena, writable=True), "recovered")
    sealer.finish(finished=None)
    return Recovered(*sealer.counts())


def _refuse_while_written(folder: store.TraceDir) -> None:
    if pids := writers(folder.arena):
        names = ", ".join(str(pid) for pid in sorted(pids))
        raise MmiotapError(
            f"{folder.path} is still written by the recorded program (process {names}); wait for its end"
        )


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Two that recover the same trace would seal the same rows twice."""
    with store.writing(path):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise MmiotapError(f"{path} is being recovered by another process") from error
        yield
    finally:
        os.close(fd)
