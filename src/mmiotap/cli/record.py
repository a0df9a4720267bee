"""Run a program and record every access it makes to the devices it maps.

The program keeps its terminal, its exit status and its signals. Rules (--map) are globs over the paths that
/proc/PID/maps shows: * is any run of characters without /, ** any run, ? one character that is not /; everything
else is literal. Without --map: device paths (/dev/mem, /dev/uio*, /dev/vfio/*, /sys/**/resource*, …).
"""

import argparse
import sys

from mmiotap.cli.recording import ProgressLine, add_options, die_of, say, summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, smp=("emulate", "step", "lock", "private"))
    parser.add_argument("--disabled", action="store_true", help="start switched off, until 'mmiotap enable'")
    parser.add_argument("program", metavar="COMMAND", nargs=argparse.REMAINDER, help="the program and its arguments")


def run(args: argparse.Namespace) -> int:
    from mmiotap.sources import engines, launch, recording

    command = args.program[1:] if args.program[:1] == ["--"] else args.program
    if not command:
        print("mmiotap: what shall be recorded? mmiotap record [OPTIONS] COMMAND…", file=sys.stderr)
        return 2
    if args.smp != "emulate" and args.patch not in ("auto", "off"):
        print(f"mmiotap: --smp {args.smp} steps every access; --patch {args.patch} has no effect", file=sys.stderr)
    progress = ProgressLine()
    try:
        result = engines.record(
            command,
            engine=args.engine,
            report=say,
            maps=args.map,
            path=args.output,
            on_full=args.on_full,
            latency=args.latency,
            disabled=args.disabled,
            buffer=args.buffer or recording.DEFAULT_BUFFER,
            patch=args.patch,
            protocol=args.protocol,
            smp=args.smp,
            force=args.force,
            on_progress=progress.show if progress.wanted and not args.quiet else None,
        )
    except launch.NotStartedError as error:
        print(f"mmiotap: {error}", file=sys.stderr)
        return error.status
    finally:
        progress.clear()
    if result.trouble:
        say(result.trouble)
    if not args.quiet:
        again = ["mmiotap", "record", "--map", "PATH", "--", *command]
        print(summary(result, again), file=sys.stderr)
    if result.signal is not None:
        die_of(result.signal)
    return result.status or 0
