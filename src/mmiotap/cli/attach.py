"""Record a process that runs already, from outside, until it ends or you press Ctrl-C.

Nothing is loaded into it, so it may be static, setuid, or written in Go; it is stopped at each access, by ptrace, and
left as it was. Rules (--map) are those of 'mmiotap record'. Needs the right to trace the process: be root, or its
owner on a system that allows that.
"""

import argparse
import signal
import sys
import threading

from mmiotap.cli.record import ProgressLine, say, size, summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="TRACE", help="trace folder to make (default: PROGRAM.PID.mmiotap)")
    parser.add_argument(
        "-m", "--map", metavar="GLOB", action="append", help="record mappings of such paths; repeatable"
    )
    parser.add_argument("--duration", metavar="SECONDS", type=float, help="leave the process after so long")
    parser.add_argument(
        "--engine", choices=("ptrace",), default="ptrace", help="the agent cannot get into a process that runs"
    )
    parser.add_argument(
        "--smp",
        choices=("emulate", "step", "lock"),
        default="emulate",
        help="what other threads do while one makes an access, see docs/smp.md (default: emulate)",
    )
    parser.add_argument(
        "--buffer", metavar="SIZE", type=size, help="memory for unsealed events, e.g. 16M (default: 64M)"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress, no summary; trouble is still reported")
    parser.add_argument("-f", "--force", action="store_true", help="replace an existing trace")
    parser.add_argument("pid", metavar="PID", type=int, help="the process; those that it forks are recorded, too")


def run(args: argparse.Namespace) -> int:
    from mmiotap.sources import recording
    from mmiotap.sources.ptrace import record

    until = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: until.set())
    progress = ProgressLine()
    try:
        result = record.attach(
            args.pid,
            until=until,
            seconds=args.duration,
            maps=args.map,
            path=args.output,
            way=args.smp,
            buffer=args.buffer or recording.DEFAULT_BUFFER,
            force=args.force,
            on_progress=progress.show if progress.wanted and not args.quiet else None,
            report=say,
        )
    finally:
        progress.clear()
    if result.trouble:
        say(result.trouble)
    if not args.quiet:
        again = ["mmiotap", "attach", "--map", "PATH", str(args.pid)]
        print(summary(result, again), file=sys.stderr)
    return 0
