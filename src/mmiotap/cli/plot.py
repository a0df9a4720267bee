"""Draw a trace as a picture, for a document or a slide: PNG or SVG.

Drawn are addresses and time, the rate of accesses over time, and, where it was recorded, how long they took; --what
chooses some of it. Needs matplotlib.

examples:
  mmiotap plot driver.mmiotap -o driver.png
  mmiotap plot driver.mmiotap --what rate --filter 'write' -o writes.svg
"""

import argparse
import sys
from pathlib import Path

from mmiotap.cli import filtering, names, output

FORMATS = ("png", "svg")
PANELS = ("map", "rate", "latency")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trace", metavar="TRACE", help="the trace folder")
    parser.add_argument(
        "--what", choices=PANELS, action="append", default=[], help="only this (may be repeated; default: all there is)"
    )
    output.add_arguments(parser)
    parser.add_argument("--format", choices=FORMATS, help="default: as the name of FILE ends, else png")
    filtering.add_argument(parser)
    names.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from mmiotap.trace.errors import MmiotapError

    ending = Path(args.output).suffix.removeprefix(".").lower()
    if args.output == "-" and sys.stdout.isatty():
        print("mmiotap: a picture is not for terminals: give a file with -o", file=sys.stderr)
        return 2
    if args.format is None and ending and ending not in FORMATS:
        print(f"mmiotap: -o {args.output}: .{ending} is not drawn; {' and '.join(FORMATS)} are", file=sys.stderr)
        return 2
    try:
        from mmiotap.views import plot
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise MmiotapError("plot needs matplotlib: pip install 'mmiotap[plot]'") from error
    from mmiotap.analysis.picture import picture
    from mmiotap.trace.reader import open_trace

    trace = filtering.narrowed(args, open_trace(args.trace))
    decoder = names.decoder(args, trace)
    found = picture(trace)
    panels = [panel for panel in args.what or PANELS if plot.has(found, panel)]
    if missing := [panel for panel in args.what if panel not in panels]:
        raise MmiotapError(f"{args.trace}: {plot.WHY_NOT[missing[0]]}")
    if not panels:
        raise MmiotapError(f"{args.trace}: {plot.WHY_NOT['map']}")
    with output.opened(args) as out:
        plot.write(found, trace, decoder, list(dict.fromkeys(panels)), args.format or ending or FORMATS[0], out)
    return 0
