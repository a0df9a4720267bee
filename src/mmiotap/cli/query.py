"""Ask a trace in SQL.

DuckDB answers. The views are events, with the columns of a trace, seconds, register and fields; registers and fields,
what their descriptions say; mappings; and sites.

examples:
  mmiotap query driver.mmiotap "SELECT register, count(*) FROM events WHERE kind = 'write' GROUP BY ALL ORDER BY 2 DESC"
  mmiotap query driver.mmiotap "FROM events WHERE value & 0x80 <> 0" -o found.parquet
"""

import argparse
import sys
from pathlib import Path

from mmiotap.cli import json_option, names, output

FORMATS = ("table", "csv", "json", "parquet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trace", metavar="TRACE", help="the trace folder")
    parser.add_argument("sql", metavar="SQL", help="one statement that selects")
    output.add_arguments(parser)
    parser.add_argument(
        "--format", choices=FORMATS, help="default: as the name of FILE ends, else table; also: -o FORMAT"
    )
    json_option.add_argument(parser, "json")
    names.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from mmiotap.analysis.query import answer
    from mmiotap.trace.reader import open_trace
    from mmiotap.views.results import write
    from mmiotap.views.words import accept_all_text

    if args.output in FORMATS and args.format is None:
        args.format, args.output = args.output, "-"
    ending = Path(args.output).suffix.removeprefix(".")
    format = args.format or (ending if ending in FORMATS else "table")
    if args.output == "-" and format == "parquet" and sys.stdout.isatty():
        print("mmiotap: Parquet is not for terminals: give a file with -o", file=sys.stderr)
        return 2
    accept_all_text()
    trace = open_trace(args.trace)
    with answer(trace, args.sql, names.decoder(args, trace)) as found, output.opened(args) as out:
        write(format, found, out)
    return 0
