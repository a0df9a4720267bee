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
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mmiotap.trace.errors import MmiotapError

if TYPE_CHECKING:
    from mmiotap.kmmio.place import Place
    from mmiotap.kmmio.script import Script
    from mmiotap.sources.observers import Observers
    from mmiotap.sources.recording import RecordResult


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
    return _probe_command(args, places, script)


def _probe_command(args: argparse.Namespace, places: "list[Place]", script: "Script | None") -> int:
    from mmiotap.analysis.live import LiveNames
    from mmiotap.cli.record import die_of
    from mmiotap.kmmio.probe import Probe
    from mmiotap.sources import agent, launch
    from mmiotap.sources.hooks import Hooks
    from mmiotap.sources.observers import Observers

    name_of = LiveNames()
    hooks = None
    observers = Observers(say, name_of)
    if script is None:
        _print_accesses(observers, places)
    elif args.observe:
        for place in places:
            observers.probe(place, Probe(0, place.length, post=script.post, hook=False))
    else:
        hooks = Hooks(limit=args.limit, on_failure=args.on_hook_failure, report=say, name_of=name_of)
        for place in places:
            hooks.add(place, Probe(0, place.length, script.pre, script.post))
    try:
        with _trace_folder(args.output) as folder:
            result = agent.record(
                args.target,
                maps=rules(places, args.map),
                path=folder,
                force=args.force,
                keep=args.output is not None,
                hooks=hooks,
                observers=observers,
            )
    except launch.NotStartedError as error:
        say(str(error))
        return error.status
    if hooks and hooks.counts.unanswered:
        say(f"{hooks.counts.unanswered} accesses went on without an answer: nobody gave one in time")
    _sum_up(result, args)
    if result.signal is not None:
        die_of(result.signal)
    return result.status or 0


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


def _print_accesses(observers: "Observers", places: "list[Place]") -> None:
    from mmiotap.views.live import LiveLines

    lines = LiveLines(time.monotonic_ns())
    observers.watch(
        places,
        lambda events: lines.write(events, list(observers.mappings.values()), observers.modules, observers.processes),
    )


@contextlib.contextmanager
def _trace_folder(wanted: str | None) -> Iterator[Path]:
    """Where the trace is made; if nobody wants it, it is gone afterwards."""
    if wanted is not None:
        yield Path(wanted)
    else:
        with tempfile.TemporaryDirectory(prefix="mmiotap-probe-") as folder:
            yield Path(folder) / "trace"


def _sum_up(result: "RecordResult", args: argparse.Namespace) -> None:
    if result.trouble:
        say(result.trouble)
    if result.lost:
        say(f"{result.lost} accesses were not seen: the buffer was full")
    if not result.mappings:
        mapped = ", ".join(result.not_selected[:8]) or "nothing that could be probed"
        say(f"none of these places was there: the program mapped {mapped}")
    elif args.output is not None:
        say(f"next: mmiotap show {shlex.quote(args.output)}")
