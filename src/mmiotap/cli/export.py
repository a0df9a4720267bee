"""Write the events of a trace in another format.

examples:
  mmiotap export driver.mmiotap --format mmiotrace -o driver.log
  mmiotap export driver.mmiotap --format jsonl | jq 'select(.kind == "write")'
  mmiotap export driver.mmiotap --format perfetto -o driver.pftrace
  mmiotap export driver.mmiotap --format c -o replay.c && gcc -O1 -o replay replay.c && ./replay /dev/uio0
"""

import argparse
import sys
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

from mmiotap.cli import filtering, names, output
from mmiotap.formats import FORMATS

if TYPE_CHECKING:
    import pyarrow as pa

    from mmiotap.trace.reader import Trace

#: Formats that are for people: they name registers by our own descriptions too.
_FOR_PEOPLE = {
    "perfetto": "a picture for ui.perfetto.dev",
    "c": "a program in C that makes the writes again",
    "python": "the same in Python",
}
_BINARY = {"parquet": "Parquet", "perfetto": "a Perfetto trace"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trace", metavar="TRACE", help="the trace folder")
    parser.add_argument("--format", choices=(*FORMATS, *_FOR_PEOPLE), required=True, help="how to write it")
    output.add_arguments(parser)
    filtering.add_argument(parser)
    names.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from mmiotap.trace.reader import open_trace

    trace = filtering.narrowed(args, open_trace(args.trace))
    tables, schema = trace.batches(), trace.schema
    decoder = names.decoder(args, trace, "text" if args.format in _FOR_PEOPLE else args.format)
    if decoder is not None:
        tables, schema = decoder.named(tables), decoder.schema(schema)
    if args.output == "-" and args.format in _BINARY and sys.stdout.isatty():
        print(f"mmiotap: {_BINARY[args.format]} is not for terminals: give a file with -o", file=sys.stderr)
        return 2
    with output.opened(args) as out:
        _write(args.format, tables, trace, out, schema)
    return 0


def _write(format: str, tables: "Iterator[pa.Table]", trace: "Trace", out: IO[bytes], schema: "pa.Schema") -> None:
    if format == "perfetto":
        from mmiotap.views import perfetto

        perfetto.write(tables, trace, out)
    elif format in _FOR_PEOPLE:
        from mmiotap.formats import replay

        left = replay.write(format, tables, trace, out)
        if left:
            print(f"mmiotap: {left} cannot be replayed: look for {replay.NOT} in the script", file=sys.stderr)
    else:
        from mmiotap import formats

        formats.write(format, tables, trace, out, schema)
