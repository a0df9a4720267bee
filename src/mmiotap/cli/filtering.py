"""The option of all commands that choose events."""

import argparse
from typing import TYPE_CHECKING

from mmiotap.cli import names

if TYPE_CHECKING:
    from mmiotap.trace.reader import Trace


def add_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--filter", metavar="FILTER", help="events of which this is true; see mmiotap fields")


def narrowed(args: argparse.Namespace, trace: "Trace") -> "Trace":
    """The trace with those events only that the filter chooses. Raises FilterError."""
    if args.filter is None:
        return trace
    from mmiotap.analysis.filters import compiled

    named = hasattr(args, "regs")  # not every command has the options of names
    return trace.only(compiled(args.filter, trace, lambda: names.decoder(args, trace) if named else names.usual(trace)))
