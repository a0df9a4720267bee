"""Compare two traces, access for access.

Says "equal", or shows the first places where they differ: `-` is in A only, `+` in B only. Compared are kind, width,
offset and value of the accesses, in their order; not times, threads and code. Mappings need not have the same ids:
they are paired as accesses that agree meet.

The exit status is 0 if the traces are equal, 1 if they differ.

examples:
  mmiotap diff e1000.mmiotap qemu.mmiotap --map-a resource0 --map-b 'e1000-mmio'
  mmiotap diff before.mmiotap after.mmiotap --ignore value
"""

import argparse
import sys

from mmiotap.cli import filtering


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help="a trace folder")
    parser.add_argument("b", metavar="B", help="the other one")
    for side in "ab":
        parser.add_argument(
            f"--map-{side}",
            metavar="ID|GLOB",
            action="append",
            default=[],
            help=f"of {side.upper()} only these mappings: id, path, last part of the path, device (may be repeated)",
        )
    filtering.add_argument(parser)
    parser.add_argument("--ignore", metavar="FIELD,…", default="", help="width, offset, value: not compared")
    parser.add_argument(
        "--physical", action="store_true", help="compare addresses on the bus, not offsets in mappings or BARs"
    )
    parser.add_argument("--limit", metavar="N", type=int, default=5, help="the first N places, 0 for all (default: 5)")
    parser.add_argument("--context", metavar="N", type=int, default=3, help="accesses around each (default: 3)")


def run(args: argparse.Namespace) -> int:
    from mmiotap.analysis.diff import FIELDS, Diff
    from mmiotap.analysis.select import FilterError
    from mmiotap.trace.errors import MmiotapError
    from mmiotap.trace.reader import open_trace
    from mmiotap.views.diff import DiffLines
    from mmiotap.views.lines import COLUMNS
    from mmiotap.views.words import accept_all_text

    accept_all_text()
    ignore = [word.strip() for word in args.ignore.split(",") if word.strip()]
    if unknown := [word for word in ignore if word not in FIELDS]:
        print(f"mmiotap: --ignore: {unknown[0]!r} is not compared; {', '.join(FIELDS)} are", file=sys.stderr)
        return 2
    if args.limit < 0 or args.context < 0:
        print("mmiotap: --limit and --context: a number of accesses cannot be negative", file=sys.stderr)
        return 2
    a, b = (filtering.narrowed(args, open_trace(path)) for path in (args.a, args.b))
    try:
        diff = Diff(
            a,
            b,
            COLUMNS,
            maps_a=args.map_a,
            maps_b=args.map_b,
            ignore=ignore,
            physical=args.physical,
            context=args.context,
        )
    except FilterError as error:
        print(f"mmiotap: {error}", file=sys.stderr)
        return 2
    lines = DiffLines(a, b)
    shown = 0
    for hunk in diff.hunks():
        if args.limit and shown == args.limit:
            print(f"there is more: first {shown} places shown (--limit 0: all)")
            break
        if not shown:
            lines.write_header()
        lines.write(hunk)
        shown += 1
    for name, trace in ((args.a, a), (args.b, b)):
        if trace.lost:
            print(f"mmiotap: {name} has lost {trace.lost} events", file=sys.stderr)
    if shown:
        return 1
    if not diff.agreeing:
        raise MmiotapError("neither trace has an access there: nothing was compared")
    if diff.unknown:
        print(f"mmiotap: of {diff.unknown} accesses a value is not known, and was not compared", file=sys.stderr)
    print(f"equal: {diff.agreeing} accesses")
    return 0
