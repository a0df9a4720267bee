"""Events as lines of text, one each, in the manner of strace."""

import functools
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from mmiotap.registers.decode import Decoder
from mmiotap.trace import layout
from mmiotap.trace.model import Mapping
from mmiotap.trace.names import short_name
from mmiotap.views.words import printable

#: Flags that are worth a word at the end of a line.
FLAG_WORDS = {
    layout.LOCKED: "locked",
    layout.RMW: "rmw",
    layout.STRING: "string",
    layout.NONTEMPORAL: "nontemporal",
    layout.STEPPED: "stepped",
    layout.HOOKED: "hooked",
    layout.SYSCALL: "syscall",
}

REASONS = {
    layout.REASON_LOCKED: "value unknown: this locked instruction does not return it",
    layout.REASON_NOT_DECODED: "value unknown: the agent does not take this instruction apart",
    layout.REASON_NOT_IN_SOURCE: "value unknown: the imported log does not say",
    layout.REASON_STEPPED: "value unknown: stepped, and no register tells it",
    layout.REASON_SYSCALL: "value unknown: only the kernel knows",
}

COLOURS = {"read": "36", "write": "33", "map": "2", "unmap": "2", "mark": "1;32", "lost": "1;31", "unknown": "35"}

#: Characters for the names of registers; longer ones move what follows.
NAME_WIDTH = 24

#: Bytes of a value that a line shows; the kernel reads and writes a page at a time.
SHOWN_BYTES = 64

COLUMNS = (
    "time_ns", "duration_ns", "kind", "width", "map_id", "offset", "value", "data", "pc", "pid", "tid", "flags", "text",
)  # fmt: skip


class EventLines:
    """Draws events. What is known of the whole trace sets the width of the columns, so they never move."""

    def __init__(
        self,
        mappings: Sequence[Mapping],
        start_ns: int,
        *,
        processes: bool,
        colour: bool,
        sources: Sequence[str] = (),
        decoder: Decoder | None = None,
    ) -> None:
        """``processes``: name them, too. ``sources`` are those of a merged trace; tables then have this column.

        ``decoder``: accesses have the names of registers and fields.
        """
        self._decoder = decoder
        self._name_width = 0 if decoder is None else min(decoder.name_width, NAME_WIDTH)
        self._start_ns = start_ns
        self._processes = processes
        self._colour = colour
        self._source_width = max(map(len, sources), default=0)
        self._mappings = {mapping.map_id: mapping for mapping in mappings}
        self._labels = {mapping.map_id: map_label(mapping) for mapping in mappings}
        self._label_width = max(map(len, self._labels.values()), default=5)
        self._offset_width = max((len(f"{mapping.length - 1:#x}") for mapping in mappings if mapping.length), default=6)

    def draw(self, table: pa.Table, sites: Sequence[str]) -> Iterator[str]:
        """One line, without its newline, for each row of a table with :data:`COLUMNS`; ``sites`` names their pcs."""
        columns = [table[name].to_pylist() for name in COLUMNS]
        sources = table["source"].to_pylist() if self._source_width else itertools.repeat("", table.num_rows)
        names = self._names(table)
        for row in zip(*columns, sites, sources, *names, strict=True):
            time, duration, kind, width, map_id, offset, value, data, _, pid, tid, flags, text, site, source, *name = (
                row
            )
            if kind in ("read", "write"):
                rest = self._access(kind, width, map_id, offset, value, data, flags, duration, site, *name)
            elif kind == "unknown":
                rest = self._unknown(width, map_id, offset, data, flags, site, *name)
            elif kind == "map":
                rest = self._map(map_id, text)
            elif kind == "unmap":
                rest = f"{'':2} {self._label(map_id)}  {self._offset(offset)} length {value:#x}"
            elif kind == "lost":
                rest = f"{'':2} {value} {'event was' if value == 1 else 'events were'} lost here"
            else:
                rest = f"{'':2} {printable(text or '')}"
            where = f"{source:<{self._source_width}}  " if source else ""
            line = f"{self._time(time)}  {where}{self._thread(pid, tid)}  {kind:<7} {rest}".rstrip()
            yield f"\x1b[{COLOURS[kind]}m{line}\x1b[0m" if self._colour else line

    def _access(
        self,
        kind: str,
        width: int,
        map_id: int,
        offset: int,
        value: int,
        data: bytes | None,
        flags: int,
        duration: int | None,
        site: str,
        register: str | None = None,
        fields: str | None = None,
    ) -> str:
        arrow = "->" if kind == "read" else "<-"
        if flags & layout.VALUE_UNKNOWN:
            shown = "?"
        elif data is not None:
            shown = data[:SHOWN_BYTES].hex(" ", -4) + (" …" if len(data) > SHOWN_BYTES else "")
        else:
            shown = f"0x{value:0{2 * width}x}"
        took = "" if duration is None else f"{duration_text(duration):>8}"
        where = f"{width:>2} {self._label(map_id)}  {self._offset(offset)}{self._name(register)}"
        meaning = f"{{{printable(fields)}}}" if fields else ""
        return _spaced(f"{where} {arrow} {shown:<18}", took, meaning, site, flag_words(flags))

    def _unknown(
        self,
        width: int,
        map_id: int,
        offset: int,
        data: bytes | None,
        flags: int,
        site: str,
        register: str | None = None,
        _fields: str | None = None,
    ) -> str:
        code = f"instruction {data.hex(' ')}" if data else "" if flags & layout.SYSCALL else "instruction unknown"
        where = f"{width or '?':>2} {self._label(map_id)}  {self._offset(offset)}{self._name(register)}"
        return _spaced(f"{where}  ? {code:<18}", site, flag_words(flags))

    def _map(self, map_id: int, text: str | None) -> str:
        mapping = self._mappings.get(map_id)
        if text is not None:
            mapping = _from_text(text) or mapping
        return f"{'':2} {self._label(map_id)}  {'' if mapping is None else map_text(mapping)}"

    def _names(self, table: pa.Table) -> list[list[str | None]]:
        if self._decoder is None:
            return []
        decoded = self._decoder.decode(table)
        return [decoded.register.to_pylist(), decoded.fields.to_pylist()]

    def _name(self, register: str | None) -> str:
        return f" {printable(register or ''):<{self._name_width}}" if self._name_width else ""

    def _label(self, map_id: int) -> str:
        return f"{self._labels.get(map_id) or f'{map_id}:?':<{self._label_width}}"

    def _offset(self, offset: int) -> str:
        return f"{offset:#0{self._offset_width}x}"

    def _time(self, time_ns: int) -> str:
        since = time_ns - self._start_ns
        seconds, nanoseconds = divmod(abs(since), 10**9)
        return f"{'-' if since < 0 else ''}{seconds}.{nanoseconds:09d}".rjust(14)

    def _thread(self, pid: int, tid: int) -> str:
        return f"{f'{pid}/{tid}':<15}" if self._processes else f"{tid:<7}"


def map_label(mapping: Mapping) -> str:
    """``1:uio0``, the name of a mapping on every line."""
    return f"{mapping.map_id}:{printable(short_name(mapping))}"


def map_text(mapping: Mapping) -> str:
    """Everything that is known of a mapping."""
    parts = [f"{printable(mapping.path)} at {mapping.address:#x}, length {mapping.length:#x}"]
    parts.append(f"file offset {mapping.file_offset:#x}")
    if mapping.prot:
        parts.append(mapping.prot)
    if mapping.device is not None:
        parts.append(f"device {mapping.device}")
    if mapping.bar is not None:
        parts.append(f"BAR {mapping.bar}")
    if mapping.physical is not None:
        parts.append(f"physical {mapping.physical:#x}")
    return ", ".join(parts)


@functools.lru_cache
def flag_words(flags: int) -> str:
    """The flags worth seeing, as ``[locked rmw]``, and why a value is unknown; "" for none."""
    words = [" ".join(word for flag, word in FLAG_WORDS.items() if flags & flag)]
    if flags & layout.VALUE_UNKNOWN:
        words.append(REASONS.get(flags >> layout.REASON_SHIFT & 0xF, "value unknown"))
    shown = ", ".join(word for word in words if word)
    return f"[{shown}]" if shown else ""


def duration_text(nanoseconds: float) -> str:
    """A duration in four digits or so: ``850ns``, ``1.25us``, ``3.10ms``, ``2.00s``."""
    if nanoseconds < 1000:
        return f"{nanoseconds:.0f}ns"
    for unit, size in (("us", 1e3), ("ms", 1e6)):
        if nanoseconds < 1000 * size:
            return f"{nanoseconds / size:.2f}{unit}"
    return f"{nanoseconds / 1e9:.2f}s"


def _spaced(*parts: str) -> str:
    return "  ".join(part for part in parts if part)


def _from_text(text: str) -> Mapping | None:
    """The mapping that a map event carries, or None if a foreign writer put other text there."""
    try:
        fields: Any = json.loads(text)
        return Mapping.from_json(fields)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
