"""The program that runs meanwhile is recorded, too: by the agent, with the kernel, into one trace."""

import os
import shutil
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmiotap.sources import agent, launch
from mmiotap.sources.child import Signals
from mmiotap.sources.kernel import record as kernel
from mmiotap.sources.recording import RecordResult, default_folder
from mmiotap.trace import store
from mmiotap.trace.errors import MmiotapError

#: What the two traces are called until they are one, and in its column ``source``.
_KERNEL, _AGENT = "kernel.mmiotap", "agent.mmiotap"


def record(
    command: list[str],
    *,
    maps: list[str] | None,
    path: str | os.PathLike[str] | None = None,
    force: bool = False,
    **options: Any,
) -> RecordResult:
    """Trace the kernel while ``command`` runs, and record that by the agent; ``maps`` are its rules.

    The other options are those of kernel.record. Each trace is made by itself, in a folder beside; when both are there,
    they are merged. Raises MmiotapError if one cannot be made, or if both are there and cannot be merged.
    """
    launch.check_program(Path(launch.find_program(command[0])), launch.find_agent())
    launch.check_rules(list(launch.DEVICE_PATHS) if maps is None else maps)
    folder = Path(path) if path is not None else default_folder("kernel")
    store.check_name(folder, force)
    parts = folder.with_name(f"{folder.name}.parts")
    with store.writing(parts):
        if os.path.lexists(parts):
            raise MmiotapError(f"{parts} exists: what a recording left that was ended; recover it, or remove it")
        parts.mkdir(mode=0o700)
    program = _Program(command, maps, parts / _AGENT)
    try:
        result = kernel.record(command, path=parts / _KERNEL, running=program.running, **options)
    finally:
        with suppress(OSError):  # there is something in it
            parts.rmdir()
    return merge(folder, parts, result, program.result, force)


class _Program:
    """A program that is recorded in a thread of its own; as long as that takes, the kernel is."""

    def __init__(self, command: list[str], maps: list[str] | None, path: Path) -> None:
        self._options: dict[str, Any] = {"command": command, "maps": maps, "path": path}
        self._recording: futures.Future[RecordResult] = futures.Future()

    @contextmanager
    def running(self) -> Iterator["_Program"]:
        """Signals are ours, as Python has handlers in the main thread only."""
        with Signals() as signals, futures.ThreadPoolExecutor(1) as pool:
            self._recording = pool.submit(agent.record, **self._options, on_start=signals.forward_to)
            yield self

    @property
    def result(self) -> RecordResult:
        return self._recording.result()

    @property
    def exit_code(self) -> int | None:
        return self.result.status if self.result.signal is None else -self.result.signal

    def wait(self, milliseconds: int) -> bool:
        return bool(futures.wait([self._recording], milliseconds / 1000).done)


def merge(folder: Path, parts: Path, kernel: RecordResult, program: RecordResult, force: bool) -> RecordResult:
    """One trace of the two in ``parts``. They stay as they are if one of them is not whole, or there is no room."""
    from mmiotap.trace.combine import combine
    from mmiotap.trace.reader import open_trace

    both = [parts / _KERNEL, parts / _AGENT]
    result = replace(
        program,
        path=folder,
        mappings=kernel.mappings + program.mappings,
        threads=kernel.threads + program.threads,
        events=kernel.events + program.events,
        lost=kernel.lost + program.lost,
        seconds=kernel.seconds,
    )
    later = f"then: mmiotap merge {both[0]} {both[1]} -o {folder}"
    if kernel.trouble or program.trouble:
        trouble = "; ".join(text for text in (kernel.trouble, program.trouble) if text)
        return replace(result, path=both[0], trouble=f"{trouble}; {later}")
    try:
        combined = combine([open_trace(one) for one in both], folder, {}, force=force, one_machine=True)
    except MmiotapError as error:
        return replace(result, path=both[0], trouble=f"{error}; {later}")
    shutil.rmtree(parts)
    return replace(result, events=combined.events, lost=combined.lost)
