"""The options of commands that write a file."""

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="FILE", default="-", help="default: -, the standard output")
    parser.add_argument("-f", "--force", action="store_true", help="replace an existing FILE")


@contextlib.contextmanager
def opened(args: argparse.Namespace) -> Iterator[IO[bytes]]:
    """A file that appears when it is complete. Raises MmiotapError if it may not be written."""
    from mmiotap.trace import store
    from mmiotap.trace.errors import MmiotapError

    path = Path(args.output)
    if args.output == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if path.is_dir():
        raise MmiotapError(f"{path} is a folder; choose another name")
    if path.is_file() and not args.force:
        raise MmiotapError(f"{path} exists; choose another name, or replace it with -f")
    if path.exists() and not path.is_file():
        # A device or a pipe is written to, not replaced; a pipe's reader may go when it has enough.
        with store.writing(path), contextlib.suppress(BrokenPipeError), path.open("wb") as out:
            yield out
        return
    with store.new_file(path, among_others=True) as file:
        yield file
