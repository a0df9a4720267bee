"""What a crash left of a recording, made into a trace like any other."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mmiotap.trace import store
from mmiotap.trace.arena import Arena, writers
from mmiotap.trace.errors import DiskError, MmiotapError
from mmiotap.trace.sealer import Sealer
from mmiotap.trace.writer import TraceWriter


@dataclass(frozen=True)
class Recovered:
    """A trace that is whole now."""

    events: int
    lost: int


def recover(path: Path) -> Recovered | None:
    """Seal what is left in the arena of a crashed recording, and remove the arena. None: there is nothing to do.

    May be killed and called again at any time. Raises MmiotapError while the recorder or a recorded process still
    runs, or if the arena is damaged.
    """
    folder = store.TraceDir(path)
    store.read_info(path)
    with _alone(path):
        info, state = store.current(path)
        if store.recorder_alive(info):
            raise MmiotapError(
                f"{path} is written by process {info['recorder_pid']}, which still runs; wait for its end"
            )
        if state == "incomplete":
            _refuse_while_written(folder)
            found = _seal(folder)
        else:
            found = None
        shutil.rmtree(folder.live, ignore_errors=True)
        return found


def _seal(folder: store.TraceDir) -> Recovered:
    if not folder.arena.exists():
        writer = TraceWriter(folder.path, "recovered")
        writer.finish()
        return Recovered(writer.events, writer.lost)
    try:
        arena = Arena.open(folder.arena, writable=True)
    except DiskError:
        raise
    except MmiotapError as error:
        raise MmiotapError(f"{error}; remove {folder.live} to keep what is sealed, and recover again") from error
    sealer = Sealer(folder.path, arena, "recovered")
    sealer.finish()
    return Recovered(*sealer.counts())


def _refuse_while_written(folder: store.TraceDir) -> None:
    pids = sorted(writers(folder.arena))
    if pids:
        names = f"process {pids[0]}" if len(pids) == 1 else f"processes {', '.join(map(str, pids))}"
        raise MmiotapError(
            f"{folder.path}: {names} still run{'s' if len(pids) == 1 else ''} and writes to it; end it first"
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
