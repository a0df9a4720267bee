"""Where lines go: standard output, in colour if that is a terminal that wants it."""

import os
import sys
from collections.abc import Iterable, Mapping

import pyarrow as pa

from mmiotap.analysis.folding import Fold
from mmiotap.analysis.symbols import Symbols
from mmiotap.registers.decode import Decoder
from mmiotap.trace.reader import Trace
from mmiotap.views.folds import fold_texts
from mmiotap.views.lines import EventLines

#: Rows drawn at a time: few enough that the first lines appear at once.
CHUNK_ROWS = 4096


def wants_colour() -> bool:
    """Whether standard output is a terminal, and neither NO_COLOR (no-color.org) nor TERM=dumb asks for plain text."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def write_lines(trace: Trace, start_ns: int, tables: Iterable[pa.Table], decoder: Decoder | None = None) -> None:
    """Write the events as lines to standard output, and to standard error which modules gave no names.

    With a ``decoder`` registers have names.
    """
    write_folded(trace, start_ns, ((table, {}) for table in tables), decoder)


def write_folded(
    trace: Trace, start_ns: int, tables: Iterable[tuple[pa.Table, Mapping[int, Fold]]], decoder: Decoder | None = None
) -> None:
    """The same of events of which some, by their rows, stand for others."""
    symbols = Symbols(trace.modules, trace.processes)
    lines = EventLines(
        trace.mappings,
        start_ns,
        processes=len(trace.processes) > 1,
        colour=wants_colour(),
        sources=trace.sources,
        decoder=decoder,
    )
    for table, folds in tables:
        texts = fold_texts(table, folds, decoder) if folds else {}
        for first in range(0, table.num_rows, CHUNK_ROWS):
            rows = table.slice(first, CHUNK_ROWS)
            sites = symbols.names(rows["pid"].to_numpy().tolist(), rows["pc"].to_numpy().tolist())
            drawn = lines.draw(rows, sites)
            if texts:
                drawn = (f"{line}  {texts.get(row, '')}".rstrip() for row, line in enumerate(drawn, first))
            sys.stdout.writelines(f"{line}\n" for line in drawn)
            sys.stdout.flush()
    for note in symbols.notes:
        print(f"mmiotap: {note}", file=sys.stderr)
