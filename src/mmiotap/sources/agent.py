"""Record a program through the agent: start it with the agent in it, and seal what its threads write.

The recorder is never in the program's way: the agent writes to shared memory by itself.
"""

import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmiotap.sources import keys, launch
from mmiotap.sources.child import Child, Signals
from mmiotap.sources.recording import DEFAULT_BUFFER, Progress, Recording, RecordResult, default_folder
from mmiotap.trace.arena import PROTOCOLS, SMP_WAYS
from mmiotap.trace.errors import MmiotapError

if TYPE_CHECKING:
    from mmiotap.sources.hooks import Hooks
    from mmiotap.sources.observers import Observers

#: Accesses of a site that trap before it is patched: enough that code which runs once is left as it is.
AUTO_PATCH = 4

#: The header has 32 bits for it.
MAX_PATCH = (1 << 32) - 1


def record(
    command: list[str],
    *,
    maps: list[str] | None = None,
    path: str | os.PathLike[str] | None = None,
    on_full: str = "wait",
    latency: bool = False,
    disabled: bool = False,
    buffer: int = DEFAULT_BUFFER,
    patch: str | int = "auto",
    protocol: str = "breakpoint",
    smp: str = "emulate",
    force: bool = False,
    keep: bool = True,
    hooks: "Hooks | None" = None,
    observers: "Observers | None" = None,
    on_start: Callable[[Child], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> RecordResult:
    """Run a program to its end and record it into a new trace.

    ``buffer`` is in bytes, ``patch`` as :func:`patch_after` reads it; with another ``smp`` than "emulate" no site is
    patched (docs/smp.md). ``hooks`` may get and lose probes while the program runs; they need "emulate". So may
    ``observers``; without ``keep`` they are told of the events, and the trace has none. ``on_start`` gets the program.
    ``on_progress`` is called at most five times a second. Raises MmiotapError if the program cannot be recorded;
    launch.NotStartedError, which is one, if a shell could not start it either.
    """
    if not command:
        raise MmiotapError("what shall be recorded? give a command")
    program = launch.find_program(command[0])
    agent = launch.find_agent()
    launch.check_program(Path(program), agent)
    if hooks and smp != "emulate":
        raise MmiotapError(f"hooks answer accesses that the agent runs itself; with --smp {smp} the processor does")
    recording = Recording(
        Path(path) if path is not None else default_folder(program),
        command,
        settings(maps, on_full, patch, protocol, smp, latency=latency),
        "agent",
        enabled=not disabled,
        buffer=buffer,
        force=force,
        keep=keep,
        observers=observers,
    )
    with Signals() as signals:
        with recording.serving(), hooks.serving(recording.trace.live) if hooks else contextlib.nullcontext():
            env = launch.environment(recording.trace.arena.absolute(), agent)
            try:
                child = Child(launch.start(program, command, env))
            except launch.NotStartedError:
                shutil.rmtree(recording.trace.path, ignore_errors=True)
                raise
            signals.forward_to(child)
            if on_start:
                on_start(child)
            recording.follow(child, on_progress)
        if hooks:
            recording.notes["hooks"] = asdict(hooks.counts)
        if smp == "step":
            recording.notes["recursive"] = recording.arena.recursive
        return recording.finish(child)


def settings(
    maps: list[str] | None, on_full: str, patch: str | int, protocol: str, smp: str, *, latency: bool
) -> dict[str, Any]:
    """What the agent is to do, as trace.json has it. Raises MmiotapError for what it cannot."""
    rules = list(launch.DEVICE_PATHS) if maps is None else maps
    launch.check_rules(rules)
    if protocol not in PROTOCOLS:
        raise MmiotapError(f"there is no protocol {protocol!r}; there are {' and '.join(PROTOCOLS)}")
    if smp not in SMP_WAYS:
        raise MmiotapError(f"there is no way {smp!r}; there are {', '.join(SMP_WAYS)}")
    if smp == "private":
        keys.check()
    wanted = patch_after(patch)
    return {
        "maps": rules,
        "on_full": on_full,
        "latency": latency,
        "patch": wanted if smp == "emulate" else 0,
        "protocol": protocol,
        "smp": smp,
    }


def patch_after(patch: str | int) -> int:
    """How many accesses of a site trap before it is patched, 0 for never: ``auto``, ``off``, or a number."""
    words = {"auto": AUTO_PATCH, "off": 0}
    if isinstance(patch, str) and patch in words:
        return words[patch]
    number = int(patch) if str(patch).isdecimal() else 0
    if not 1 <= number <= MAX_PATCH:
        raise MmiotapError(f"{patch!r} is no number of accesses: auto, off, or 1 to {MAX_PATCH}")
    return number
