"""Say what happened in a trace: loops, read-modify-writes, transfers, delays, and the life of each register.

Unlike stats, which counts, this looks at what follows what.

examples:
  mmiotap summary driver.mmiotap
  mmiotap summary driver.mmiotap --only polls,modifies --filter 'reg =~ "MDIC|EECD"'
"""

import argparse
import sys

from mmiotap.cli import filtering, json_option, names

#: Parts of it, in the order in which they are shown.
PARTS = (
    "phases", "polls", "modifies", "pairs", "transfers", "delays", "gaps", "life", "latency", "callers", "unwritten",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trace", metavar="TRACE", help="the trace folder")
    parser.add_argument("--only", metavar="PART,…", help=f"some of {', '.join(PARTS)}")
    parser.add_argument(
        "--memory",
        metavar="ID|GLOB",
        action="append",
        default=[],
        help="this mapping is memory, of which bytes should be written before they are read (may be repeated)",
    )
    parser.add_argument(
        "--limit", metavar="N", type=int, help="rows of each table, 0 for all (default: 10; all with --format json)"
    )
    parser.add_argument("--format", choices=["text", "json"], default="text", help="default: text")
    json_option.add_argument(parser, "json")
    filtering.add_argument(parser)
    names.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    only = [word.strip() for word in args.only.split(",")] if args.only is not None else list(PARTS)
    if unknown := [word for word in only if word not in PARTS]:
        print(f"mmiotap: --only: there is no {unknown[0]!r}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    if args.limit is not None and args.limit < 0:
        print("mmiotap: --limit: a number of rows cannot be negative", file=sys.stderr)
        return 2
    from mmiotap.analysis.clock import start_ns
    from mmiotap.analysis.select import map_ids
    from mmiotap.analysis.summary import summary
    from mmiotap.trace.reader import open_trace
    from mmiotap.views.summary import write_json, write_text
    from mmiotap.views.words import accept_all_text

    accept_all_text()
    whole = open_trace(args.trace)
    trace = filtering.narrowed(args, whole)
    memory = map_ids(args.memory, trace.mappings, "--memory") if args.memory else []
    found = summary(trace, names.decoder(args, trace), memory)
    if args.format == "json":
        write_json(found, only, start_ns(whole), args.limit or 0)
        return 0
    write_text(found, only, trace.mappings, start_ns(whole), 10 if args.limit is None else args.limit)
    for note in found.notes:
        print(f"mmiotap: {note}", file=sys.stderr)
    return 0
