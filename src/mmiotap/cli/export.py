"""Write the events of a trace in another format.

examples:
  mmiotap export driver.mmiotap --format mmiotrace -o driver.log
  mmiotap export driver.mmiotap --format jsonl | jq 'select(.kind == "write")'
  mmiotap export driver.mmiotap --format perfetto -o driver.pftrace
  mmiotap export driver.mmiotap --format c -o replay.c && gcc -O1 -o replay replay.c && ./replay /dev/uio0
"""

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from mmiotap.cli import filtering, names
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
    parser.add_argument("-o", "--output", metavar="FILE", default="-", help="default: -, the standard output")
    parser.add_argument("-f", "--force", action="store_true", help="replace an existing FILE")
    filtering.add_argument(parser)
    names.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from mmiotap.trace import store
    from mmiotap.trace.errors import MmiotapError
    from mmiotap.trace.reader import open_trace

    trace = filtering.narrowed(args, open_trace(args.trace))
    tables, schema = trace.batches(), trace.schema
    decoder = names.decoder(args, trace, "text" if args.format in _FOR_PEOPLE else args.format)
    if decoder is not None:
        tables, schema = decoder.named(tables), decoder.schema(schema)
    if args.output == "-":
        if args.format in _BINARY and sys.stdout.isatty():
            print(f"mmiotap: {_BINARY[args.format]} is not for terminals: give a file with -o", file=sys.stderr)
            return 2
        _write(args.format, tables, trace, sys.stdout.buffer, schema)
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
            _write(args.format, tables, trace, out, schema)
        return 0
    with store.new_file(path, among_others=True) as file:
        _write(args.format, tables, trace, file, schema)
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
