"""Record what drivers in the kernel do with their devices, by the kernel's own mmiotrace.

Load the driver while this runs: what is mapped already is not seen. With a COMMAND it runs meanwhile; without one, the
recording ends with Ctrl-C. Everything in the kernel is put back as it was, however it ends. Needs root and a kernel
with CONFIG_MMIOTRACE (x86).

examples:
  mmiotap kernel -o e1000.mmiotap -- modprobe e1000
  mmiotap kernel --agent -o both.mmiotap -- ./driver    the program's own accesses, too
"""

import argparse
import sys
from functools import partial
from typing import TYPE_CHECKING

from mmiotap.cli import process
from mmiotap.cli.recording import ProgressLine, die_of, say, size

if TYPE_CHECKING:
    from mmiotap.sources.recording import RecordResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="TRACE", help="trace folder to make (default: kernel.PID.mmiotap)")
    parser.add_argument(
        "--buffer",
        metavar="SIZE",
        type=size,
        help="the kernel's buffer of each CPU, e.g. 64M (default: 1/32 of what is free)",
    )
    parser.add_argument(
        "--trace-pc", action="store_true", help="refuse a kernel that was not booted to record instruction addresses"
    )
    parser.add_argument(
        "--agent", action="store_true", help="record what COMMAND does by the agent, into the same trace"
    )
    parser.add_argument(
        "-m", "--map", metavar="GLOB", action="append", help="with --agent: record mappings of such paths; repeatable"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress, no summary; trouble is still reported")
    parser.add_argument("-f", "--force", action="store_true", help="replace an existing trace")
    parser.add_argument("program", metavar="COMMAND", nargs=argparse.REMAINDER, help="runs while the kernel is traced")


def run(args: argparse.Namespace) -> int:
    from mmiotap.sources import launch
    from mmiotap.sources.kernel import beside
    from mmiotap.sources.kernel.record import record

    command = args.program[1:] if args.program[:1] == ["--"] else args.program
    if args.agent and not command:
        say("which program? mmiotap kernel --agent [OPTIONS] -- COMMAND…")
        return 2
    if args.map and not args.agent:
        say(
            "--map is for what the agent records: say --agent, too; the kernel's mmiotrace records all that drivers map"
        )
        return 2
    if args.agent:
        process.without_pandas()  # two traces are made one
    progress = ProgressLine()
    try:
        result = (partial(beside.record, maps=args.map) if args.agent else record)(
            command,
            path=args.output,
            buffer=args.buffer,
            trace_pc=args.trace_pc,
            force=args.force,
            on_progress=progress.show if progress.wanted and not args.quiet else None,
            report=(lambda _: None) if args.quiet else say,
        )
    except launch.NotStartedError as error:
        say(str(error))
        return error.status
    finally:
        progress.clear()
    if result.trouble:
        say(result.trouble)
    if not args.quiet:
        print(_summary(result), file=sys.stderr)
    if result.signal is not None:
        die_of(result.signal)
    return 1 if result.trouble else result.status or 0


def _summary(result: "RecordResult") -> str:
    import shlex

    counts = f"{result.events} events, mappings: {result.mappings}, tasks: {result.threads}, lost: {result.lost}"
    lines = [f"mmiotap: {counts}, {result.seconds:.2f} s"]
    if result.mappings:
        lines.append(f"mmiotap: next: mmiotap show {shlex.quote(str(result.path))}")
    else:
        lines.append("mmiotap: no driver mapped anything: load it while this runs: mmiotap kernel -- modprobe DRIVER")
    return "\n".join(lines)
