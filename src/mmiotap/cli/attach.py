"""Record a process that runs already, until it ends, the time is over, or you press Ctrl-C; then leave it as it was.

The agent is loaded into it, as 'mmiotap record' does at its start; where that cannot be (static programs, other C
libraries), the process is traced from outside, by ptrace, which is slower. Rules (--map) are those of 'mmiotap record'.
Needs the right to trace the process: be root, or its owner on a system that allows that.
"""

import argparse
import signal
import sys
import threading

from mmiotap.cli.recording import ProgressLine, add_options, say, summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, smp=("emulate", "step", "lock"))
    parser.add_argument("--duration", metavar="SECONDS", type=float, help="leave the process after so long")
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
