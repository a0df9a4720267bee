"""Say what a trace holds and how it was recorded."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trace", metavar="TRACE", help="the trace folder")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")


def run(args: argparse.Namespace) -> int:
    from mmiotap.analysis.overview import overview
    from mmiotap.trace.reader import open_trace
    from mmiotap.views.info import write_json, write_text
    from mmiotap.views.words import accept_all_text

    accept_all_text()
    found = overview(open_trace(args.trace))
    (write_json if args.json else write_text)(found)
    return 0
