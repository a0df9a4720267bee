"""Where two traces differ, as diff -u shows it: ``-`` is in the first only, ``+`` in the second only."""

import sys
from collections.abc import Iterator

import pyarrow as pa

from mmiotap.analysis.clock import start_ns
from mmiotap.analysis.diff import Hunk
from mmiotap.analysis.symbols import Symbols
from mmiotap.trace.reader import Trace
from mmiotap.views.lines import EventLines
from mmiotap.views.screen import wants_colour

#: Lines of one side of a difference that are shown.
SHOWN = 20
_COLOURS = {"-": "31", "+": "32", "@": "36"}


class DiffLines:
    """Draws differences of two traces, each with its own times and names."""

    def __init__(self, a: Trace, b: Trace) -> None:
        self._a, self._b = _Side(a), _Side(b)
        self._colour = wants_colour()

    def write_header(self) -> None:
        self._write("-", f"-- {self._a.path}")
        self._write("+", f"++ {self._b.path}")

    def write(self, hunk: Hunk) -> None:
        """One difference, to standard output. Accesses are counted from 1."""
        self._write("@", f"@ access {hunk.number_a + 1} of A, {hunk.number_b + 1} of B @@")
        self._write_rows(" ", self._a, hunk.before)
        self._write_rows("-", self._a, hunk.a)
        self._write_rows("+", self._b, hunk.b)
        self._write_rows(" ", self._a, hunk.after)
        if not hunk.meets:
            self._write(
                "@", f"@ no accesses that agree again among the next {max(hunk.a.num_rows, hunk.b.num_rows)} @@"
            )

    def _write_rows(self, sign: str, side: "_Side", table: pa.Table) -> None:
        for line in side.lines(table.slice(0, SHOWN)):
            self._write(sign, line)
        if table.num_rows > SHOWN:
            self._write(sign, f" … and {table.num_rows - SHOWN} more")

    def _write(self, sign: str, line: str) -> None:
        text = f"{sign}{line}".rstrip()
        coloured = self._colour and sign in _COLOURS
        sys.stdout.write(f"\x1b[{_COLOURS[sign]}m{text}\x1b[0m\n" if coloured else f"{text}\n")


class _Side:
    def __init__(self, trace: Trace) -> None:
        self.path = trace.path
        self._symbols = Symbols(trace.modules, trace.processes)
        self._lines = EventLines(trace.mappings, start_ns(trace), processes=len(trace.processes) > 1, colour=False)

    def lines(self, table: pa.Table) -> Iterator[str]:
        sites = self._symbols.names(table["pid"].to_numpy().tolist(), table["pc"].to_numpy().tolist())
        return self._lines.draw(table, sites)
