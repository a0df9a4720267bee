"""Make one trace of several, on one clock.

The clock is that of the first trace. Traces of the same boot of a machine have the same clock; another one is placed by
marks with the same text in both, or by --offset. The column `source` says which trace an event is from.

examples:
  mmiotap merge kernel.mmiotap driver.mmiotap -o both.mmiotap
  mmiotap merge guest.mmiotap host.mmiotap --offset host.mmiotap=-12.5ms -o both.mmiotap
"""

import argparse
import sys
from pathlib import Path

from mmiotap.cli import process


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("traces", metavar="TRACE", nargs="+", help="trace folders, two or more")
    parser.add_argument("-o", "--output", metavar="TRACE", required=True, help="the trace folder to make")
    parser.add_argument(
        "--offset",
        metavar="TRACE=TIME",
        action="append",
        default=[],
        help="added to this trace's times: seconds, or with a unit s, ms, us, ns (may be repeated)",
    )
    parser.add_argument("-f", "--force", action="store_true", help="replace an existing trace")


def run(args: argparse.Namespace) -> int:
    process.without_pandas()
    from mmiotap.analysis.select import FilterError, duration_ns
    from mmiotap.registers import choose
    from mmiotap.trace.combine import combine
    from mmiotap.trace.reader import open_trace

    paths = [Path(trace) for trace in args.traces]
    given = {}
    try:
        if len(paths) < 2:
            raise FilterError("to merge takes two traces or more")
        for words in args.offset:
            name, _, text = words.rpartition("=")
            if Path(name) not in paths:
                raise FilterError(f"--offset: {name!r} is none of the traces; write one of them as TRACE=TIME")
            given[Path(name)] = duration_ns("--offset", text)
    except FilterError as error:
        print(f"mmiotap: {error}", file=sys.stderr)
        return 2
    traces = [open_trace(path) for path in paths]
    known = [choose.bound(trace) for trace in traces]
    found = combine(traces, Path(args.output), given, force=args.force)
    choose.inherit(open_trace(args.output), zip(known, found.map_ids, strict=True))
    for name, offset in found.offsets.items():
        why = {"boot": "the same clock", "given": "as given"}.get(offset.how)
        if why is None:
            within = f", which agree within {offset.spread_ns} ns" if offset.marks > 1 else ""
            why = f"from {offset.marks} {'mark' if offset.marks == 1 else 'marks'}{within}"
        print(f"mmiotap: {name}: {offset.ns / 1e9:+.9f} s, {why}", file=sys.stderr)
    print(f"mmiotap: {found.events} events, lost: {found.lost}", file=sys.stderr)
    print(f"mmiotap: next: mmiotap show {args.output}", file=sys.stderr)
    return 0
