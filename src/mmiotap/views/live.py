"""Events as lines, as they happen."""

import sys
from collections.abc import Sequence

import pyarrow as pa

from mmiotap.analysis.symbols import Symbols
from mmiotap.trace.model import Mapping, Module, Process
from mmiotap.views.lines import EventLines
from mmiotap.views.screen import wants_colour


class LiveLines:
    """Writes events to standard output until nobody reads them any more."""

    def __init__(self, start_ns: int) -> None:
        """``start_ns`` is second 0, of CLOCK_MONOTONIC."""
        self._start_ns = start_ns
        self._known: tuple[int, ...] = ()
        self._read = True

    def write(
        self, events: pa.Table, mappings: Sequence[Mapping], modules: Sequence[Module], processes: Sequence[Process]
    ) -> None:
        """Draw these, with what is known of the program by now."""
        if self._known != (len(mappings), len(modules), len(processes)):
            self._known = (len(mappings), len(modules), len(processes))
            self._symbols = Symbols(modules, processes)
            self._lines = EventLines(mappings, self._start_ns, processes=len(processes) > 1, colour=wants_colour())
        if not self._read:
            return
        sites = self._symbols.names(events["pid"].to_numpy().tolist(), events["pc"].to_numpy().tolist())
        try:
            sys.stdout.writelines(f"{line}\n" for line in self._lines.draw(events, sites))
            sys.stdout.flush()
        except BrokenPipeError:
            self._read = False  # the program under probes runs on
