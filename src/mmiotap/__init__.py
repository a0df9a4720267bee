"""mmiotap: every access that a driver makes to its device, recorded and readable.

>>> import mmiotap
>>> trace = mmiotap.record(["./driver", "--reset"], maps=["/dev/uio*"])  # doctest: +SKIP
>>> trace.events(["time_ns", "kind", "offset", "value"]).to_pandas()  # doctest: +SKIP

The rest of the package is loaded when it is first used, so that ``import mmiotap`` in a driver costs nothing.
"""

import functools
import os
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from mmiotap.trace.errors import MmiotapError

if TYPE_CHECKING:
    from mmiotap.target import Target
    from mmiotap.trace.reader import Trace

__all__ = ["MmiotapError", "Trace", "attach", "launch", "mark", "open", "record"]


def record(
    command: Sequence[str | os.PathLike[str]],
    *,
    maps: Sequence[str] | None = None,
    path: str | os.PathLike[str] | None = None,
    on_full: Literal["wait", "drop"] = "wait",
    latency: bool = False,
    disabled: bool = False,
    patch: str | int = "auto",
    protocol: Literal["breakpoint", "stop-machine"] = "breakpoint",
    engine: Literal["agent", "ptrace"] | None = None,
    smp: Literal["emulate", "step", "lock", "private"] = "emulate",
    force: bool = False,
) -> "Trace":
    """Run a program, record its accesses, and return the finished trace. The same as ``mmiotap record``.

    ``maps`` are globs over the paths in /proc/PID/maps (default: device paths), ``path`` is the trace folder to make
    (default ``PROGRAM.PID.mmiotap`` here), ``patch`` how many accesses of a code site trap before it is patched
    (``"auto"``: a few, ``"off"``: all), ``smp`` the way of an access (docs/smp.md). ``engine`` is the agent's where it
    can get into the program, else ptrace's, which is told as a warning (docs/attach.md).
    ``Trace.info["exit"]`` has the program's exit status or fatal signal. Raises MmiotapError if the
    program cannot be recorded or its trace could not be written.
    """
    from mmiotap.sources import engines

    result = engines.record(
        [os.fspath(word) for word in command],
        maps=None if maps is None else list(maps),
        path=path,
        on_full=on_full,
        latency=latency,
        disabled=disabled,
        patch=patch,
        protocol=protocol,
        engine=engine,
        report=lambda text: warnings.warn(text, stacklevel=2),
        smp=smp,
        force=force,
    )
    if result.trouble:
        raise MmiotapError(result.trouble)
    return open(result.path)


def launch(
    command: Sequence[str | os.PathLike[str]],
    *,
    maps: Sequence[str] = (),
    engine: Literal["agent", "ptrace"] | None = None,
    on_hook_failure: Literal["device", "stop"] = "device",
    limit: float = 1.0,
    report: Callable[[str], None] | None = None,
) -> "Target":
    """A program that will run with probes on its accesses, for a ``with`` statement; ``wait()`` runs it to its end.

    ``maps`` selects mappings beside those that probes name before it starts. ``engine`` is as for :func:`record`;
    ``report`` is told, and gets a line for each handler that raises (default: it goes to standard error). ``limit`` is
    how many seconds a hook's handler may take, ``on_hook_failure`` what happens if it takes longer or raises, or if we
    are killed: the device answers, or the program is killed. Raises MmiotapError if the program cannot be probed.
    """
    from mmiotap import target
    from mmiotap.sources import engines

    words = [os.fspath(word) for word in command]
    report = report or target.warn
    if engines.choose(words, engine, report) == "agent":
        return target.Inside(words, maps, on_hook_failure, limit, report)
    return target.Outside(words, on_hook_failure, limit, report)


def attach(
    pid: int,
    *,
    on_hook_failure: Literal["device", "stop"] = "device",
    limit: float = 1.0,
    report: Callable[[str], None] | None = None,
) -> "Target":
    """A process that runs already, for a ``with`` statement in which its accesses may be probed, from outside.

    The rest is as for :func:`launch`. Raises MmiotapError if the process cannot be traced.
    """
    from mmiotap import target

    return target.Outside(pid, on_hook_failure, limit, report or target.warn)


def open(path: str | os.PathLike[str]) -> "Trace":
    """The trace in this folder: finished, running, or left by a crash. Raises MmiotapError if it is none."""
    from mmiotap.trace.reader import open_trace

    return open_trace(path)


def mark(text: str) -> None:
    """Add a ``mark`` row to the trace that this process is being recorded into; does nothing in one that is not."""
    agent_mark = _agent_mark()
    if agent_mark is not None:
        agent_mark(text.encode("utf-8", "replace"))


@functools.cache
def _agent_mark() -> Callable[[bytes], None] | None:
    """The function that the preloaded agent exports, or None."""
    import ctypes

    function = getattr(ctypes.CDLL(None), "mmiotap_agent_mark", None)
    if function is not None:
        function.argtypes = [ctypes.c_char_p]
        function.restype = None
    return function


def __getattr__(name: str) -> Any:
    if name == "Trace":
        from mmiotap.trace.reader import Trace

        return Trace
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
