"""Compare two traces, laid side by side like two versions of a source file.

Says "equal", or shows the first places where they differ: `-` is in A only, `+` in B only. Compared are kind, width,
offset and value of the accesses, in their order; not times, threads and code, nor how often a polling loop reads.
Mappings need not have the same ids: they are paired as accesses that agree meet.

The exit status is 0 if the traces are equal, 1 if they differ.

examples:
  mmiotap diff e1000.mmiotap qemu.mmiotap --map-a resource0 --map-b 'e1000-mmio'
  mmiotap diff before.mmiotap after.mmiotap --ignore 'reg =~ "[TR]DBA.*"' -y
"""

import argparse
import itertools
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from mmiotap.cli import filtering, json_option, names, process

if TYPE_CHECKING:
    from mmiotap.analysis.diff import Hunk

#: Places whose names are found together.
MOST_AT_ONCE = 64


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
    parser.add_argument(
        "--ignore",
        metavar="FIELD,…|FILTER",
        action="append",
        default=[],
        help="width, offset, value: not compared; or a filter: of these accesses the value is not (may be repeated)",
    )
    parser.add_argument("--polls", action="store_true", help="compare every read of a polling loop, not only the last")
    parser.add_argument(
        "--physical", action="store_true", help="compare addresses on the bus, not offsets in mappings or BARs"
    )
    parser.add_argument("--limit", metavar="N", type=int, help="the first N places, 0 for all (default: 5)")
    parser.add_argument("--context", metavar="N", type=int, default=3, help="accesses around each (default: 3)")
    parser.add_argument("-y", "--side-by-side", action="store_true", help="A to the left, B to the right")
    parser.add_argument("--format", choices=["text", "json"], default="text", help="default: text")
    json_option.add_argument(parser, "json")
    names.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    process.without_pandas()
    process.keep_memory()
    from mmiotap.analysis.diff import FIELDS, Diff, ignoring
    from mmiotap.analysis.folding import without_polls
    from mmiotap.trace.errors import MmiotapError
    from mmiotap.trace.reader import open_trace
    from mmiotap.views.diff import DiffLines, differences, write_json
    from mmiotap.views.lines import COLUMNS
    from mmiotap.views.words import accept_all_text

    accept_all_text()
    limit = 5 if args.limit is None else args.limit
    if limit < 0 or args.context < 0:
        print("mmiotap: --limit and --context: a number of accesses cannot be negative", file=sys.stderr)
        return 2
    words = {text: [word.strip() for word in text.split(",") if word.strip()] for text in args.ignore}
    fields = [word for text in args.ignore if set(words[text]) <= set(FIELDS) for word in words[text]]
    rules = [text for text in args.ignore if not set(words[text]) <= set(FIELDS)]
    a, b = (filtering.narrowed(args, open_trace(path)) for path in (args.a, args.b))
    decoder_a, decoder_b = (names.decoder(args, trace) for trace in (a, b))
    diff = Diff(
        a,
        b,
        COLUMNS,
        maps_a=args.map_a,
        maps_b=args.map_b,
        ignore=fields,
        blind=(ignoring(rules, a, lambda: decoder_a), ignoring(rules, b, lambda: decoder_b)) if rules else None,
        physical=args.physical,
        context=args.context,
        simplify=None if args.polls else without_polls,
    )
    hunks = diff.hunks()
    lines = DiffLines(a, b, decoder_a, decoder_b, beside=args.side_by_side)
    found = []
    shown = 0
    for some in _groups(itertools.islice(hunks, limit or None)):
        if args.format == "json":
            found += differences(some, decoder_a, decoder_b)
        else:
            if not shown:
                lines.write_header()
            lines.write(some)
        shown += len(some)
    more = bool(limit) and next(hunks, None) is not None
    if more and args.format == "text":
        print(f"there is more: first {shown} places shown (--limit 0: all)")
    for name, trace in ((args.a, a), (args.b, b)):
        if trace.lost:
            print(f"mmiotap: {name} has lost {trace.lost} events", file=sys.stderr)
    if not shown and not diff.agreeing:
        raise MmiotapError("neither trace has an access there: nothing was compared")
    if args.format == "json":
        counts = {"agreeing": diff.agreeing, "unknown": diff.unknown, "lost": [a.lost, b.lost]}
        write_json({"equal": not shown} | counts | {"differences": found, "more": more})
    elif not shown:
        if diff.unknown:
            print(f"mmiotap: of {diff.unknown} accesses a value is not known, and was not compared", file=sys.stderr)
        print(f"equal: {diff.agreeing} accesses")
    return 1 if shown else 0


def _groups(hunks: "Iterable[Hunk]") -> "Iterator[list[Hunk]]":
    """More and more at a time: the first is seen at once, and where there are many they are quick."""
    left, size = iter(hunks), 1
    while some := list(itertools.islice(left, size)):
        yield some
        size = min(2 * size, MOST_AT_ONCE)
