"""Make a trace of a mmiotrace log.

Reads the text that the kernel's trace_pipe gives, plain or compressed with gzip, bzip2, xz or zstd.

examples:
  mmiotap import mydump.txt -o nouveau.mmiotap
  xz -dc e1000.log.xz | mmiotap import - -o e1000.mmiotap
"""

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log", metavar="LOG", help="the log; - is standard input")
    parser.add_argument(
        "-o", "--output", metavar="TRACE", help="the trace folder to make (default: LOG's name.mmiotap)"
    )
    parser.add_argument("-f", "--force", action="store_true", help="replace an existing trace")


def run(args: argparse.Namespace) -> int:
    from mmiotap.formats.mmiotrace import import_log
    from mmiotap.trace.errors import MmiotapError

    standard_input = args.log == "-"
    if standard_input and args.output is None:
        print("mmiotap: a log from standard input has no name: give the trace one with -o", file=sys.stderr)
        return 2
    name = "standard input" if standard_input else args.log
    path = Path(args.output) if args.output else Path(f"{Path(args.log).name.split('.')[0]}.mmiotap")
    try:
        if standard_input:
            found = import_log(sys.stdin.buffer, name, path, force=args.force)
        else:
            with Path(args.log).open("rb") as raw:
                found = import_log(raw, name, path, force=args.force)
    except IsADirectoryError as error:
        raise MmiotapError(f"{name} is a folder; give the log itself") from error
    print(f"mmiotap: {found.events} events, lost: {found.lost}", file=sys.stderr)
    print(f"mmiotap: next: mmiotap show {path}", file=sys.stderr)
    if found.cut is not None:
        print(
            f"mmiotap: {name}, line {found.lines}: the last line is cut short ({found.cut!r}); "
            f"all before it is in {path}",
            file=sys.stderr,
        )
        return 1
    return 0
