"""Record a process that runs already, until it ends, the time is over, or you press Ctrl-C; then leave it as it was.

The agent is loaded into it, as 'mmiotap record' does at its start; where that cannot be (static programs, other C
libraries), the process is traced from outside, by ptrace, which is slower. Rules (--map) are those of 'mmiotap record'.
Needs the right to trace the process: be root, or its owner on a system that allows that.
"""

import argparse
import signal
import sys
import threading

from mmiotap.cli.record import ProgressLine, patch, say, size, summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="TRACE", help="trace folder to make (default: PROGRAM.PID.mmiotap)")
    parser.add_argument(
        "-m", "--map", metavar="GLOB", action="append", help="record mappings of such paths; repeatable"
    )
    parser.add_argument("--duration", metavar="SECONDS", type=float, help="leave the process after so long")
    parser.add_argument(
        "--on-full",
        choices=("wait", "drop"),
        default="wait",
        help="when sealing falls behind: the program waits (default), or events are dropped and counted",
    )
    parser.add_argument("--latency", action="store_true", help="measure how long each access takes")
    parser.add_argument(
        "--buffer", metavar="SIZE", type=size, help="memory for unsealed events, e.g. 16M (default: 64M)"
    )
    parser.add_argument(
        "--patch",
        metavar="auto|off|N",
        type=patch,
        default="auto",
        help="accesses of a site that trap before it is patched (default: auto, a few); off: all trap",
    )
    parser.add_argument(
        "--protocol",
        choices=("breakpoint", "stop-machine"),
        default="breakpoint",
        help="how code is changed while it runs (default: breakpoint)",
    )
    parser.add_argument(
        "--engine",
        choices=("agent", "ptrace"),
        help="from inside or from outside, see docs/attach.md (default: the agent, where it can get in)",
    )
    parser.add_argument(
        "--smp",
        choices=("emulate", "step", "lock"),
        default="emulate",
        help="what other threads do while one makes an access, see docs/smp.md (default: emulate)",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress, no summary; trouble is still reported")
    parser.add_argument("-f", "--force", action="store_true", help="replace an existing trace")
    parser.add_argument("pid", metavar="PID", type=int, help="the process; those that it forks are recorded, too")


def run(args: argparse.Namespace) -> int:
    from mmiotap.sources import engines, recording

    until = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: until.set())
    progress = ProgressLine()
    try:
        result = engines.attach(
            args.pid,
            engine=args.engine,
            report=say,
            until=until,
            seconds=args.duration,
            maps=args.map,
            path=args.output,
            on_full=args.on_full,
            latency=args.latency,
            buffer=args.buffer or recording.DEFAULT_BUFFER,
            patch=args.patch,
            protocol=args.protocol,
            smp=args.smp,
            force=args.force,
            on_progress=progress.show if progress.wanted and not args.quiet else None,
        )
    finally:
        progress.clear()
    if result.trouble:
        say(result.trouble)
    if not args.quiet:
        again = ["mmiotap", "attach", "--map", "PATH", str(args.pid)]
        print(summary(result, again), file=sys.stderr)
    return 0
