"""Show the code that makes the accesses, and how it is patched or why not.

A site is an instruction that accessed a mapping. One that did so often is patched: its accesses go through a jump and
do not trap any more. The site with the most accesses comes first.
"""

import argparse
import sys

from mmiotap.cli import filtering, json_option


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trace", metavar="TRACE", help="the trace folder")
    filtering.add_argument(parser)
    parser.add_argument(
        "--limit", metavar="N", type=int, help="the first N sites, 0 for all (default: 20; all with jsonl and csv)"
    )
    parser.add_argument("--format", choices=["text", "jsonl", "csv"], default="text", help="default: text")
    json_option.add_argument(parser, "jsonl")


def run(args: argparse.Namespace) -> int:
    if args.limit is not None and args.limit < 0:
        print("mmiotap: --limit: a number of sites cannot be negative", file=sys.stderr)
        return 2
    from mmiotap.analysis.sites import Sites, sites
    from mmiotap.trace.reader import open_trace
    from mmiotap.views.sites import write_csv, write_jsonl, write_text
    from mmiotap.views.words import accept_all_text

    accept_all_text()
    trace = filtering.narrowed(args, open_trace(args.trace))
    found = sites(trace) if trace.sites else Sites([], [])
    if args.format != "text":
        (write_jsonl if args.format == "jsonl" else write_csv)(found.uses[: args.limit or None])
    elif trace.sites:
        write_text(found.uses, 20 if args.limit is None else args.limit)
    if not trace.sites:
        why = "it was imported" if trace.state == "imported" else "none was recorded"
        print(f"mmiotap: {args.trace} has no sites: {why}; mmiotap stats counts accesses by code", file=sys.stderr)
    for note in found.notes:
        print(f"mmiotap: {note}", file=sys.stderr)
    return 0
