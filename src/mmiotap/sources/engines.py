"""Which engine records a program: the agent, which is in it, or ptrace, which stays outside."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmiotap.sources import agent, launch
from mmiotap.sources.recording import RecordResult
from mmiotap.trace.errors import MmiotapError

ENGINES = ("agent", "ptrace")

_NO_LATENCY = "only the agent can measure the latency of an access: --engine ptrace is too far away for it"


def choose(command: list[str], engine: str | None, report: Callable[[str], None]) -> str:
    """The engine for a program: the one that is asked for, else the agent, or ptrace where the agent cannot go.

    That is told to ``report``. Raises MmiotapError if neither can.
    """
    if engine is not None:
        if engine not in ENGINES:
            raise MmiotapError(f"there is no engine {engine!r}; there are {' and '.join(ENGINES)}")
        return engine
    if not command:
        raise MmiotapError("what shall be recorded? give a command")
    try:
        launch.check_program(Path(launch.find_program(command[0])), launch.find_agent())
    except launch.NoAgentError as error:
        report(f"{error.reason}: recorded from outside (--engine ptrace)")
        return "ptrace"
    return "agent"


def record(
    command: list[str],
    *,
    engine: str | None,
    report: Callable[[str], None],
    latency: bool = False,
    patch: str | int = "auto",
    protocol: str = "breakpoint",
    smp: str = "emulate",
    **options: Any,
) -> RecordResult:
    """Record with the engine that :func:`choose` names. The options are those of sources.agent.record."""
    if choose(command, engine, report) == "agent":
        return agent.record(command, latency=latency, patch=patch, protocol=protocol, smp=smp, **options)
    from mmiotap.sources.ptrace import record as ptrace

    if latency:
        raise MmiotapError(_NO_LATENCY)
    return ptrace.record(command, way=smp, report=report, **options)


def attach(
    pid: int,
    *,
    engine: str | None,
    report: Callable[[str], None],
    until: threading.Event,
    latency: bool = False,
    patch: str | int = "auto",
    protocol: str = "breakpoint",
    smp: str = "emulate",
    **options: Any,
) -> RecordResult:
    """Record a process that runs: through the agent, or from outside if that is asked for or the agent cannot get in.

    The options are those of sources.inside.record.attach.
    """
    from mmiotap.sources.inside import record as inside

    if engine != "ptrace":
        try:
            return inside.attach(
                pid,
                until=until,
                latency=latency,
                patch=patch,
                protocol=protocol,
                smp=smp,
                report=report,
                **options,
            )
        except launch.NoAgentError as error:
            if engine is not None:
                raise
            report(f"{error.reason}: recorded from outside (--engine ptrace)")
    from mmiotap.sources.ptrace import record as ptrace

    if latency:
        raise MmiotapError(_NO_LATENCY)
    inside.refuse_second(pid)
    return ptrace.attach(pid, until=until, way=smp, report=report, **options)
