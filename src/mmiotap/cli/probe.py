"""Watch, or answer, a program's accesses to a place of its device, while it runs.

A place is MAP:OFFSET+LENGTH, where MAP is a glob over paths as in 'record --map' or a mapping's number, or
ADDRESS+LENGTH. Without a script each access is printed. A script defines pre(access), called before an access, or
post(access), called after it, or both; the program waits for them, and they may answer (docs/probe.md). A script that
is saved anew is in force from the next access on.

examples:
  mmiotap probe --at '/dev/uio0:0x10+4' -- ./driver --reset
  mmiotap probe --at '**/resource0:0+0x1000' --script device.py -- ./driver
  mmiotap probe --at 0x7f3c00001000+64 4711
"""

import argparse
import contextlib
import shlex
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmiotap.trace.errors import MmiotapError

if TYPE_CHECKING:
    from mmiotap.kmmio.place import Place
    from mmiotap.kmmio.script import Script
    from mmiotap.sources.hooks import Hooks
    from mmiotap.sources.observers import Observers
    from mmiotap.sources.ptrace.record import Traces
    from mmiotap.sources.ptrace.remote import Failure
    from mmiotap.sources.recording import RecordResult

#: At most this many mapped paths are named when none was probed.
PATHS_NAMED = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--at", metavar="PLACE", action="append", default=[], help="where; repeatable")
    parser.add_argument("--script", metavar="FILE", type=Path, help="Python file with pre(access) and post(access)")
    parser.add_argument(
        "--observe", action="store_true", help="the program does not wait for the script, whose post only looks"
    )
    parser.add_argument("--engine", choices=("agent", "ptrace"), help="default: the agent, if it can go in")
    parser.add_argument(
        "--on-hook-failure",
        choices=("device", "stop"),
        default="device",
        help="when the script fails or is too slow: the device answers (default), or the program is killed",
    )
    parser.add_argument("--limit", metavar="SECONDS", type=float, default=1.0, help="what too slow is (default: 1)")
    parser.add_argument("-m", "--map", metavar="GLOB", action="append", help="mappings to look for the places in")
    parser.add_argument("-o", "--output", metavar="TRACE", help="record what happens into this trace, too")
    parser.add_argument("-f", "--force", action="store_true", help="replace an existing trace")
    parser.add_argument("target", metavar="PID | -- COMMAND", nargs="*", help="a process, or a program to run")


def run(args: argparse.Namespace) -> int:
    from mmiotap.kmmio import place
    from mmiotap.kmmio.script import Script
    from mmiotap.views.words import accept_all_text

    if not args.at or not args.target:
        print("mmiotap: what shall be probed, and where? mmiotap probe --at PLACE PID | -- COMMAND", file=sys.stderr)
        return 2
    if args.observe and not args.script:
        raise MmiotapError("--observe says how a script is called: give one with --script FILE, or leave it out")
    accept_all_text()
    places = [place.parse(text) for text in args.at]
    script = None
    if args.script:
        sys.path.insert(0, str(args.script.resolve().parent))
        script = Script(args.script, say)
    if args.observe and script and script.defines("pre"):
        raise MmiotapError(f"{args.script} has a pre, which cannot be called when an access is over: drop --observe")
    if len(args.target) == 1 and args.target[0].isdecimal():
        return _probe_process(args, int(args.target[0]), places, script)
    return _probe_command(args, places, script)


def _probe_command(args: argparse.Namespace, places: "list[Place]", script: "Script | None") -> int:
    from mmiotap.cli.recording import die_of
    from mmiotap.sources import agent, engines, launch
    from mmiotap.sources.ptrace import record as ptrace

    probes = _Probes(args, places, script)
    try:
        chosen = engines.choose(args.target, args.engine, say)
        with _trace_folder(args.output) as folder:
            common: dict[str, Any] = {"path": folder, "force": args.force, "keep": args.output is not None}
            if chosen == "agent":
                hooks, observers = probes.for_agent()
                result = agent.record(
                    args.target, maps=rules(places, args.map), hooks=hooks, observers=observers, **common
                )
            else:
                result = ptrace.record(
                    args.target,
                    maps=[],
                    observers=probes.observers,
                    apart=probes.failure,
                    on_engine=probes.place,
                    report=say,
                    **common,
                )
    except launch.NotStartedError as error:
        say(str(error))
        return error.status
    probes.sum_up(result)
    if result.signal is not None:
        die_of(result.signal)
    return result.status or 0


def _probe_process(args: argparse.Namespace, pid: int, places: "list[Place]", script: "Script | None") -> int:
    from mmiotap.sources.ptrace import record as ptrace

    if args.engine == "agent":
        raise MmiotapError(
            "the agent cannot get into a process that runs: leave --engine out, or start the program here"
        )
    until = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: until.set())
    probes = _Probes(args, places, script)
    with _trace_folder(args.output) as folder:
        result = ptrace.attach(
            pid,
            until=until,
            maps=[],
            path=folder,
            force=args.force,
            keep=args.output is not None,
            observers=probes.observers,
            apart=probes.failure,
            on_engine=probes.place,
            report=say,
        )
    probes.sum_up(result)
    return 0


class _Probes:
    """What is to happen at the places, by whichever engine."""

    def __init__(self, args: argparse.Namespace, places: "list[Place]", script: "Script | None") -> None:
        from mmiotap.analysis.live import LiveNames
        from mmiotap.kmmio.probe import Probe
        from mmiotap.sources.observers import Observers
        from mmiotap.sources.ptrace import modules
        from mmiotap.views.live import LiveLines

        self._args = args
        self._places = places
        self._script = script
        self._hooks: Hooks | None = None
        self._engine: Traces | None = None
        self._hooked = script is not None and not args.observe
        self._name_of = LiveNames(modules.find)
        self.observers = observers = Observers(say, self._name_of)
        if script is None:
            lines = LiveLines(time.monotonic_ns())
            observers.watch(
                places,
                lambda events: lines.write(
                    events, list(observers.mappings.values()), observers.modules, observers.processes
                ),
            )
        elif args.observe:
            for place in places:
                observers.probe(place, Probe(0, place.length, post=script.post, hook=False))

    def for_agent(self) -> "tuple[Hooks | None, Observers]":
        from mmiotap.kmmio.probe import Probe
        from mmiotap.sources.hooks import Hooks

        if self._hooked and self._script:
            self._hooks = Hooks(
                limit=self._args.limit, on_failure=self._args.on_hook_failure, report=say, name_of=self._name_of
            )
            for place in self._places:
                self._hooks.add(place, Probe(0, place.length, self._script.pre, self._script.post))
        return self._hooks, self.observers

    @property
    def failure(self) -> "Failure":
        from mmiotap.sources.ptrace.remote import Failure

        return Failure(self._args.limit, self._args.on_hook_failure)

    def place(self, engine: "Traces") -> None:
        """For the engine from outside, in which the places are all that is recorded."""
        engine.name_of = self._name_of
        self._engine = engine
        for place in self._places:
            if self._hooked and self._script:
                engine.probe(place, pre=self._script.pre, post=self._script.post)
            else:
                engine.probe(place, hook=False)

    @property
    def _unanswered(self) -> int:
        if self._hooks:
            return self._hooks.counts.unanswered
        return self._engine.unanswered if self._engine else 0

    def sum_up(self, result: "RecordResult") -> None:
        """What a user has to know when it is over."""
        if result.trouble:
            say(result.trouble)
        if result.lost:
            say(f"{result.lost} accesses were not seen: the buffer was full")
        if unanswered := self._unanswered:
            say(f"{unanswered} accesses went on without an answer: none came in time")
        if not result.mappings:
            mapped = ", ".join(result.not_selected[:PATHS_NAMED]) or "nothing that could be probed"
            say(f"none of these places was there: the program mapped {mapped}")
        elif self._args.output is not None:
            say(f"next: mmiotap show {shlex.quote(self._args.output)}")


def rules(places: "list[Place]", maps: list[str] | None) -> list[str]:
    """Which mappings are taken over: those of the places, and those in which there may be some."""
    from mmiotap.kmmio.place import InMapping
    from mmiotap.sources.launch import DEVICE_PATHS

    named = [place.rule for place in places if isinstance(place, InMapping) and not place.rule.isdecimal()]
    others = maps or (list(DEVICE_PATHS) if len(named) < len(places) else [])
    return list(dict.fromkeys([*named, *others]))


def say(text: str) -> None:
    """A line on standard error; standard output is the program's, and the script's."""
    print(f"mmiotap: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _trace_folder(wanted: str | None) -> Iterator[Path]:
    """Where the trace is made; if nobody wants it, it is gone afterwards."""
    if wanted is not None:
        yield Path(wanted)
    else:
        with tempfile.TemporaryDirectory(prefix="mmiotap-probe-") as folder:
            yield Path(folder) / "trace"
