"""Complete a trace whose recorder was killed.

What the program wrote before the crash is all in the trace already, and every command reads it; this makes it compact,
and complete for other tools. It can be interrupted and repeated.
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trace", metavar="TRACE", help="the trace folder")


def run(args: argparse.Namespace) -> int:
    from mmiotap.sources.kernel import spool
    from mmiotap.trace.recover import recover

    found = recover(Path(args.trace), spool.complete)
    if found is None:
        print(f"{args.trace}: nothing to do, the trace is complete")
    else:
        print(f"{args.trace}: recovered, {found.events} events, lost: {found.lost}")
    return 0
