"""The registers of a trace as they are now, looked at again and again while it is recorded.

What is in a part of the trace does not change any more, and is counted once. What is in none yet, a buffer's worth at
most, is counted anew at each look: so nothing is missed or counted twice, whenever the recorder seals.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from mmiotap.analysis.alike import COLUMNS, alike
from mmiotap.analysis.picture import REGISTER, Reduction, counted, named
from mmiotap.registers.decode import Decoder
from mmiotap.trace.model import Mapping
from mmiotap.trace.reader import Narrowing, Trace, open_trace

Place = tuple[int, int, int]  #: mapping, offset, width


@dataclass(frozen=True)
class Register:
    """A register, as it is now."""

    place: Place
    name: str
    fields: str  #: of its last value
    value: int | None  #: the last one; None: not known
    changed: int  #: the bits that were others in the value that was seen before it
    reads: int
    writes: int
    others: int
    rate: float  #: accesses a second between the last two looks, 0 at the first


@dataclass(frozen=True)
class Look:
    """What a look has found."""

    state: str  #: of the trace
    mappings: list[Mapping]
    registers: list[Register]  #: by place
    events: int  #: all, whatever is chosen
    lost: int
    rate: float  #: events a second between the last two looks


class Watch:
    """Looks at a trace."""

    def __init__(
        self,
        path: Path,
        narrow: Callable[[Trace], Narrowing | None],
        decoder: Callable[[Trace], Decoder | None],
    ) -> None:
        """``narrow`` chooses events, ``decoder`` names registers; both are asked again as mappings come."""
        self._path = path
        self._narrow, self._decoder = narrow, decoder
        self._asked: object = None
        self._narrowing: Narrowing | None = None
        self._naming: Decoder | None = None
        self._known: set[Path] = set()
        self._sealed = Reduction(REGISTER)
        self._before: dict[Place, Register] = {}
        self._events = 0
        self._at: float | None = None

    def look(self) -> Look:
        """Open the trace again. Raises MmiotapError if it is gone, damaged, or what was asked for makes no sense."""
        trace = open_trace(self._path)
        now = time.monotonic()
        known = (trace.state, len(trace.mappings))
        if self._asked != known:
            self._narrowing, self._naming = self._narrow(trace), self._decoder(trace)
            self._asked = known
        table = self._registers(trace.only(self._narrowing))
        seconds = None if self._at is None else max(now - self._at, 1e-6)
        names, fields = named(table, self._naming)
        registers = [
            self._register(row, name, text, seconds)
            for row, name, text in zip(table.to_pylist(), names, fields, strict=True)
        ]
        rate = 0.0 if seconds is None else max(trace.count - self._events, 0) / seconds
        self._at, self._events = now, trace.count
        self._before = {register.place: register for register in registers}
        return Look(trace.state, trace.mappings, registers, trace.count, trace.lost, rate)

    def _registers(self, trace: Trace) -> pa.Table:
        waiting = Reduction(REGISTER)
        for part, events in trace.pieces(COLUMNS, frozenset(self._known)):
            if part is not None:
                self._known.add(part)
            (waiting if part is None else self._sealed).add(_rows(events))
        waiting.add(self._sealed.merged())
        return waiting.merged()

    def _register(self, row: dict[str, Any], name: str, fields: str, seconds: float | None) -> Register:
        place = (row["map_id"], row["offset"], row["width"])
        value, changed, rate = row["last_value"], 0, 0.0
        before = self._before.get(place)
        if before is not None and seconds is not None:
            rate = (row["hits"] - before.reads - before.writes - before.others) / seconds
            changed = before.changed
            if value is not None and before.value is not None and value != before.value:
                changed = value ^ before.value
        return Register(place, name, fields, value, changed, row["reads"], row["writes"], row["others"], rate)


def _rows(events: pa.Table) -> pa.Table:
    """Registers, with the times of their first and last access for what orders them."""
    seen = alike(events)
    rows = counted(seen.groups, 0)
    for name in ("first", "last"):
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, name, pa.array(seen.time_ns[rows[name].to_numpy()]))
    return rows
