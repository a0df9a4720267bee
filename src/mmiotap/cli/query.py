"""Ask a trace in SQL.

DuckDB answers. The views are events, with the columns of a trace, seconds, register and fields; registers and fields,
what their descriptions say; mappings; and sites.

examples:
  mmiotap query driver.mmiotap "SELECT register, count(*) FROM events WHERE kind = 'write' GROUP BY ALL ORDER BY 2 DESC"
  mmiotap query driver.mmiotap "FROM events WHERE value & 0x80 <> 0" -o found.parquet
"""

import argparse
import contextlib
import sys
from pathlib import Path

from mmiotap.cli import json_option, names

FORMATS = ("table", "csv", "json", "parquet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trace", metavar="TRACE", help="the trace folder")
    parser.add_argument("sql", metavar="SQL", help="one statement that selects")
    parser.add_argument("-o", "--output", metavar="FILE", default="-", help="default: -, the standard output")
    parser.add_argument("-f", "--force", action="store_true", help="replace an existing FILE")
    parser.add_argument("--format", choices=FORMATS, help="default: as the name of FILE ends, else table")
    json_option.add_argument(parser, "json")
    names.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from mmiotap.analysis.query import answer
    from mmiotap.trace import store
    from mmiotap.trace.errors import MmiotapError
    from mmiotap.trace.reader import open_trace
    from mmiotap.views.results import write
    from mmiotap.views.words import accept_all_text

    path = Path(args.output)
    ending = path.suffix.removeprefix(".")
    format = args.format or (ending if ending in FORMATS else "table")
    if args.output == "-" and format == "parquet" and sys.stdout.isatty():
        print("mmiotap: Parquet is not for terminals: give a file with -o", file=sys.stderr)
        return 2
    accept_all_text()
    trace = open_trace(args.trace)
    with answer(trace, args.sql, names.decoder(args, trace)) as found:
        if args.output == "-":
            write(format, found, sys.stdout.buffer)
            sys.stdout.buffer.flush()
            return 0
        if path.is_dir():
            raise MmiotapError(f"{path} is a folder; choose another name")
        if path.is_file() and not args.force:
            raise MmiotapError(f"{path} exists; choose another name, or replace it with -f")
        if path.exists() and not path.is_file():
            # A device or a pipe is written to, not replaced; a pipe's reader may go when it has enough.
            with store.writing(path), contextlib.suppress(BrokenPipeError), path.open("wb") as out:
                write(format, found, out)
            return 0
        with store.new_file(path, among_others=True) as file:
            write(format, found, file)
    return 0
