"""Make a report of a trace: one HTML file that shows it in any browser, without a network.

It has an overview, a heat map of addresses and time that can be zoomed, a timeline of mappings and threads, registers
by name, latencies, polling loops, sites with their instructions, marks and losses. It stays a few MB, however large the
trace is.

examples:
  mmiotap report driver.mmiotap -o report.html
  mmiotap report driver.mmiotap --filter 'time in 1.5ms..20ms' -o moment.html
"""

import argparse
import sys

from mmiotap.cli import filtering, names, output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trace", metavar="TRACE", help="the trace folder")
    output.add_arguments(parser)
    filtering.add_argument(parser)
    names.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if args.output == "-" and sys.stdout.isatty():
        print("mmiotap: a report is not for terminals: give a file with -o", file=sys.stderr)
        return 2
    from mmiotap.analysis.picture import picture_and_polls
    from mmiotap.analysis.summary import named_polls
    from mmiotap.trace.reader import open_trace
    from mmiotap.views import report

    trace = filtering.narrowed(args, open_trace(args.trace))
    decoder = names.decoder(args, trace)
    with output.opened(args) as out:
        found, polls = picture_and_polls(trace)
        report.write(found, named_polls(polls, trace, decoder), trace, decoder, args.filter, out)
    return 0
