"""Recordings without a traced program: real arenas, with rows that tests write to them."""

import os
from pathlib import Path
from typing import Any

from mmiotap.trace import layout, store
from mmiotap.trace.arena import Arena, ArenaWriter


def new_recording(
    folder: Path, *, segments: int = 4, on_full: str = "wait", recorder: int | None = None, **info: Any
) -> Arena:
    """A trace that begins, and its arena. ``recorder``: its pid if it is not this process."""
    pid = os.getpid() if recorder is None else recorder
    start = store.process_start(pid) or 1
    trace = store.create(folder, force=False)
    here = {"recorder_pid": pid, "recorder_start": start, "start_mono_ns": 0, "not_selected": []}
    store.write_info(folder, {"format": 1, "state": "recording", "command": ["driver"], **here, **info})
    return Arena.create(
        trace.arena,
        segments=segments,
        rules=["/dev/uio*"],
        on_full=on_full,
        latency=False,
        enabled=True,
        recorder_pid=pid,
        recorder_start=start,
    )


def abandon(folder: Path) -> None:
    """From now on the trace looks as if its recorder had died."""
    store.write_info(folder, store.read_info(folder) | {"recorder_start": 1})


class Producer(ArenaWriter):
    """A traced thread: takes free segments, as the agent does, but of its own share: Python has no compare-and-swap."""

    def __init__(self, arena: Arena, share: range, *, pid: int, tid: int) -> None:
        super().__init__(arena, pid=pid, tid=tid)
        self._share = share

    def take_segment(self) -> int | None:
        states = self.arena.states()
        free = next((segment for segment in self._share if states[segment] == layout.FREE), None)
        if free is not None:
            self.arena.take(free, self.pid)
        return free
