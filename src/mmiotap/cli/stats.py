"""Count the accesses of a trace by mapping, register, code and thread.

Tables are sorted by number of accesses. Rates are accesses a second, over the time from the first event to the last.
Reads with their times (min, mean, max) need a trace recorded with --latency.
"""

import argparse
import sys

from mmiotap.cli import filtering, json_option, names, process


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trace", metavar="TRACE", help="the trace folder")
    parser.add_argument(
        "--limit", metavar="N", type=int, help="rows of each table, 0 for all (default: 20; all with --format json)"
    )
    parser.add_argument("--format", choices=["text", "json"], default="text", help="default: text")
    json_option.add_argument(parser, "json")
    filtering.add_argument(parser)
    names.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if args.limit is not None and args.limit < 0:
        print("mmiotap: --limit: a number of rows cannot be negative", file=sys.stderr)
        return 2
    process.without_pandas()
    process.keep_memory()
    from mmiotap.analysis.stats import statistics
    from mmiotap.trace.reader import open_trace
    from mmiotap.views.statistics import write_json, write_text
    from mmiotap.views.words import accept_all_text

    accept_all_text()
    trace = filtering.narrowed(args, open_trace(args.trace))
    found = statistics(trace, names.decoder(args, trace))
    if args.format == "json":
        write_json(found, trace, args.limit or 0)
    else:
        write_text(found, trace, 20 if args.limit is None else args.limit)
        for note in found.notes:
            print(f"mmiotap: {note}", file=sys.stderr)
    return 0
