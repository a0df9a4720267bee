"""Show the events of a trace, one line each.

Times are seconds since the start of the trace; `->` is a read, `<-` a write. Offsets are from the start of the mapping.
A trace that is still being recorded shows what is in it now.

examples:
  mmiotap show driver.mmiotap --kind write --map 'resource0' --offset 0x100..0x1ff
  mmiotap show driver.mmiotap --time 1.5ms..2ms --limit 20
  mmiotap show driver.mmiotap --format csv > driver.csv
  mmiotap show driver.mmiotap --fold
  mmiotap show driver.mmiotap --regs device.rdl@resource0
"""

import argparse
import itertools
import sys

from mmiotap.cli import filtering, json_option, names, process


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trace", metavar="TRACE", help="the trace folder")
    parser.add_argument("--kind", metavar="KIND,…", help="read, write, map, unmap, mark, lost, unknown")
    parser.add_argument(
        "--map", metavar="ID|GLOB", action="append", default=[], help="accesses to these mappings (may be repeated)"
    )
    parser.add_argument("--offset", metavar="A[..B]", help="accesses that begin at offset A to B, both included")
    parser.add_argument(
        "--tid", metavar="N", type=int, action="append", default=[], help="events of this thread (may be repeated)"
    )
    parser.add_argument(
        "--time", metavar="A..B", help="since the start, in seconds or with a unit: 0.5..0.6, 1.5ms..2ms"
    )
    parser.add_argument(
        "--source",
        metavar="NAME",
        action="append",
        default=[],
        help="of a merged trace: of this source (may be repeated)",
    )
    filtering.add_argument(parser)
    parser.add_argument("--limit", metavar="N", type=int, help="the first N events")
    parser.add_argument(
        "--fold", action="store_true", help="one line for a polling loop, a block transfer, a read-modify-write"
    )
    parser.add_argument("--format", choices=["text", "jsonl", "csv", "mmiotrace"], default="text", help="default: text")
    json_option.add_argument(parser, "jsonl")
    names.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    process.without_pandas()
    from mmiotap.analysis import narrow, select
    from mmiotap.analysis.clock import start_ns
    from mmiotap.analysis.filters import Filter
    from mmiotap.trace.reader import open_trace
    from mmiotap.views.words import accept_all_text

    accept_all_text()
    if args.fold and args.format != "text":
        print("mmiotap: --fold is for reading: it goes with --format text only", file=sys.stderr)
        return 2
    trace = open_trace(args.trace)
    start = start_ns(trace)
    trace = filtering.narrowed(args, trace)
    try:
        if args.limit is not None and args.limit < 0:
            raise select.FilterError("--limit: a number of events cannot be negative")
        where = select.expression(
            trace.mappings,
            start,
            kind=args.kind,
            maps=args.map,
            offset=args.offset,
            tids=args.tid,
            time=args.time,
            sources=args.source,
            known_sources=trace.sources,
        )
        if trace.narrowing is None and (sql := narrow.of_options(args.offset, args.tid)):
            trace = trace.only(Filter(None, sql=sql))
    except select.FilterError as error:
        print(f"mmiotap: {error}", file=sys.stderr)
        return 2
    if args.format == "text":
        from mmiotap.views.lines import COLUMNS
        from mmiotap.views.screen import write_folded, write_lines

        columns = [*COLUMNS, "source"] if trace.sources else COLUMNS
        tables = trace.batches(columns, where)
        if (first := next(tables, None)) is None and not args.regs:
            return 0  # and nothing needs a name, which would take longer than all the rest
        tables = itertools.chain([] if first is None else [first], tables)
        decoder = names.decoder(args, trace)
        if args.fold:
            from mmiotap.analysis.folding import folded
            from mmiotap.views.folds import limited

            write_folded(trace, start, limited(folded(tables), args.limit), decoder)
            return 0
        write_lines(trace, start, select.limited(tables, args.limit), decoder)
    else:
        from mmiotap import formats

        decoder = names.decoder(args, trace, args.format)
        tables = select.limited(trace.batches(None, where), args.limit)
        schema = trace.schema
        if decoder is not None:
            tables, schema = decoder.named(tables), decoder.schema(schema)
        formats.write(args.format, tables, trace, sys.stdout.buffer, schema)
    return 0
