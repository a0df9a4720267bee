"""Write the events of a trace in another format.

examples:
  mmiotap export driver.mmiotap --format mmiotrace -o driver.log
  mmiotap export driver.mmiotap --format jsonl | jq 'select(.kind == "write")'
"""

import argparse
import contextlib
import sys
from pathlib import Path

from mmiotap.cli import filtering, names
from mmiotap.formats import FORMATS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trace", metavar="TRACE", help="the trace folder")
    parser.add_argument("--format", choices=tuple(FORMATS), required=True, help="how to write it")
    parser.add_argument("-o", "--output", metavar="FILE", default="-", help="default: -, the standard output")
    parser.add_argument("-f", "--force", action="store_true", help="replace an existing FILE")
    filtering.add_argument(parser)
    names.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from mmiotap import formats
    from mmiotap.trace import store
    from mmiotap.trace.errors import MmiotapError
    from mmiotap.trace.reader import open_trace

    trace = filtering.narrowed(args, open_trace(args.trace))
    tables, schema = trace.batches(), trace.schema
    decoder = names.decoder(args, trace, args.format)
    if decoder is not None:
        tables, schema = decoder.named(tables), decoder.schema(schema)
    if args.output == "-":
        if args.format == "parquet" and sys.stdout.isatty():
            print("mmiotap: Parquet is not for terminals: give a file with -o", file=sys.stderr)
            return 2
        formats.write(args.format, tables, trace, sys.stdout.buffer, schema)
        sys.stdout.buffer.flush()
        return 0
    path = Path(args.output)
    if path.is_file() and not args.force:
        raise MmiotapError(f"{path} exists; choose another name, or replace it with -f")
    if path.is_dir():
        raise MmiotapError(f"{path} is a folder; choose another name")
    if path.exists() and not path.is_file():
        # A device or a pipe is written to, not replaced; a pipe's reader may go when it has enough.
        with store.writing(path), contextlib.suppress(BrokenPipeError), path.open("wb") as out:
            formats.write(args.format, tables, trace, out, schema)
        return 0
    with store.new_file(path, among_others=True) as file:
        formats.write(args.format, tables, trace, file, schema)
    return 0
