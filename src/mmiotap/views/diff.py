"""Where two traces differ: as diff -u shows it, side by side, or as JSON for a program."""

import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from mmiotap.analysis.clock import start_ns
from mmiotap.analysis.diff import Change, Hunk, Pairs, changes, pairs
from mmiotap.analysis.symbols import Symbols
from mmiotap.registers.decode import COLUMNS, Decoded, Decoder
from mmiotap.trace import layout
from mmiotap.trace.reader import Trace
from mmiotap.views.changes import change_text
from mmiotap.views.lines import EventLines
from mmiotap.views.screen import wants_colour
from mmiotap.views.words import printable

#: Accesses of one side of a difference that are shown.
SHOWN = 20
_COLOURS = {"-": "31", "<": "31", "+": "32", ">": "32", "!": "33", "|": "33", "@": "36"}


class DiffLines:
    """Draws differences of two traces, each with its own times and names.

    One below the other: ``-`` is in the first only, ``+`` in the second only, and ``!`` says which bits differ.
    ``beside``: side by side, with ``<``, ``>`` and ``|`` for these.
    """

    def __init__(
        self,
        a: Trace,
        b: Trace,
        decoder_a: Decoder | None = None,
        decoder_b: Decoder | None = None,
        *,
        beside: bool = False,
    ) -> None:
        self._a, self._b = _Side(a, decoder_a), _Side(b, decoder_b)
        self._beside = beside
        self._colour = wants_colour()

    def write_header(self) -> None:
        self._write("-", f"-- {self._a.path}")
        self._write("+", f"++ {self._b.path}")

    def write(self, hunks: Sequence[Hunk]) -> None:
        """Some differences, to standard output. Names of all of them are found at once. Accesses are counted from 1."""
        self._a.learn(table for hunk in hunks for table in (hunk.before, hunk.a.slice(0, SHOWN), hunk.after))
        self._b.learn(hunk.b.slice(0, SHOWN) for hunk in hunks)
        beside = [pairs(hunk, SHOWN) for hunk in hunks]
        for hunk, found, changed in zip(hunks, beside, changes(hunks, beside, self._a.decoder), strict=True):
            self._write_hunk(hunk, found, {change.at_a: change for change in changed})

    def _write_hunk(self, hunk: Hunk, beside: Pairs, changed: dict[int, Change]) -> None:
        self._write("@", f"@ access {hunk.number_a + 1} of A, {hunk.number_b + 1} of B @@")
        if self._beside:
            self._write_beside(hunk, beside, changed)
        else:
            self._write_rows(" ", self._a, hunk.before)
            self._write_rows("-", self._a, hunk.a)
            self._write_rows("+", self._b, hunk.b)
            for change in changed.values():
                name = printable(change.register or "") or f"{change.offset:#x}"
                self._write("!", f" {name} {_text(change)}")
            self._write_rows(" ", self._a, hunk.after)
        if not hunk.meets:
            self._write(
                "@", f"@ no accesses that agree again among the next {max(hunk.a.num_rows, hunk.b.num_rows)} @@"
            )

    def _write_beside(self, hunk: Hunk, beside: Pairs, changed: dict[int, Change]) -> None:
        a, b = self._a.short(hunk.a.slice(0, SHOWN)), self._b.short(hunk.b.slice(0, SHOWN))
        before, after = self._a.short(hunk.before), self._a.short(hunk.after)
        width = max(map(len, [*a, *before, *after, ""]))
        for line in before:
            self._write(" ", f"{line:<{width}}   {line}")
        for at_a, at_b in beside:
            if at_a is None or at_b is None:
                left, right = ("", b[at_b or 0]) if at_a is None else (a[at_a], "")
                self._write("", f" {left:<{width}} {'>' if at_a is None else '<'} {right}")
                continue
            note = f"  {_text(changed[at_a])}" if at_a in changed else ""
            self._write("", f" {a[at_a]:<{width}} | {b[at_b]}{note}")
        for rows in (hunk.a.num_rows, hunk.b.num_rows):
            if rows > SHOWN:
                self._write("", f" … and {rows - SHOWN} more of {'A' if rows == hunk.a.num_rows else 'B'}")
        for line in after:
            self._write(" ", f"{line:<{width}}   {line}")

    def _write_rows(self, sign: str, side: "_Side", table: pa.Table) -> None:
        for line in side.lines(table.slice(0, SHOWN)):
            self._write(sign, line)
        if table.num_rows > SHOWN:
            self._write(sign, f" … and {table.num_rows - SHOWN} more")

    def _write(self, sign: str, line: str) -> None:
        text = f"{sign}{line}".rstrip()
        coloured = self._colour and sign in _COLOURS
        sys.stdout.write(f"\x1b[{_COLOURS[sign]}m{text}\x1b[0m\n" if coloured else f"{text}\n")


def differences(hunks: Sequence[Hunk], decoder_a: Decoder | None, decoder_b: Decoder | None) -> list[dict[str, Any]]:
    """Differences as JSON values. Accesses are counted from 1, rows in ``a`` and ``b`` from 0."""
    beside = [pairs(hunk, max(hunk.a.num_rows, hunk.b.num_rows)) for hunk in hunks]
    events_a = _events([hunk.a for hunk in hunks], decoder_a)
    events_b = _events([hunk.b for hunk in hunks], decoder_b)
    return [
        {
            "access_a": hunk.number_a + 1,
            "access_b": hunk.number_b + 1,
            "a": a,
            "b": b,
            "changes": [asdict(change) for change in changed],
            "meets": hunk.meets,
        }
        for hunk, a, b, changed in zip(hunks, events_a, events_b, changes(hunks, beside, decoder_a), strict=True)
    ]


def write_json(whole: dict[str, Any]) -> None:
    json.dump(whole, sys.stdout, indent=1)
    print()


def _events(tables: Sequence[pa.Table], decoder: Decoder | None) -> list[list[dict[str, Any]]]:
    names = ("time_ns", "kind", "width", "map_id", "offset", "value", "data", "pc", "pid", "tid", "flags")
    table = pa.concat_tables(tables)
    rows: list[dict[str, Any]] = table.select(list(names)).to_pylist()
    registers, fields = _names(table, decoder)
    for row, register, meaning in zip(rows, registers, fields, strict=True):
        row["data"] = row["data"].hex() if row["data"] is not None else None
        row["value"] = None if row["flags"] & layout.VALUE_UNKNOWN else row["value"]
        row |= {"register": register, "fields": meaning}
    left = iter(rows)
    return [list(itertools.islice(left, one.num_rows)) for one in tables]


def _names(table: pa.Table, decoder: Decoder | None) -> Iterator[list[str | None]]:
    if decoder is None:
        return itertools.repeat([None] * table.num_rows, 2)
    found = decoder.decode(table)
    return iter([found.register.to_pylist(), found.fields.to_pylist()])


def _text(change: Change) -> str:
    return change_text(change.ones, change.zeros, change.ones_fields, change.zeros_fields)


class _Names(Decoder):
    """Decodes a few events at a time, many of which are like others that it has seen."""

    #: Distinct accesses whose names are kept.
    MOST = 1 << 16

    def __init__(self, decoder: Decoder) -> None:
        super().__init__(decoder.bindings)
        self._seen: dict[tuple[Any, ...], tuple[str | None, str | None]] = {}

    def decode(self, table: pa.Table) -> Decoded:
        events = list(zip(*(table[name].to_pylist() for name in COLUMNS), strict=True))
        new = [at for at, event in enumerate(events) if event not in self._seen]
        if new:
            found = super().decode(table.take(np.array(new, np.int64)))
            names = zip(found.register.to_pylist(), found.fields.to_pylist(), strict=True)
            if len(self._seen) > self.MOST:
                self._seen = {event: self._seen[event] for event in events if event in self._seen}
            self._seen |= dict(zip((events[at] for at in new), names, strict=True))
        registers, fields = ([self._seen[event][side] for event in events] for side in (0, 1))
        return Decoded(pa.array(registers, pa.string()), pa.array(fields, pa.string()))


class _Side:
    def __init__(self, trace: Trace, decoder: Decoder | None) -> None:
        self.path = trace.path
        self.decoder = decoder = None if decoder is None else _Names(decoder)
        self._symbols = Symbols(trace.modules, trace.processes)
        processes = len(trace.processes) > 1
        self._lines = EventLines(trace.mappings, start_ns(trace), processes=processes, colour=False, decoder=decoder)

    def learn(self, tables: Iterable[pa.Table]) -> None:
        """Names of all of these at once, which costs as much as those of one."""
        if self.decoder is not None:
            self.decoder.decode(pa.concat_tables([table.select(list(COLUMNS)) for table in tables]))

    def lines(self, table: pa.Table) -> Iterator[str]:
        sites = self._symbols.names(table["pid"].to_numpy().tolist(), table["pc"].to_numpy().tolist())
        return self._lines.draw(table, sites)

    def short(self, table: pa.Table) -> list[str]:
        """Only what is compared: ``write 4 CTRL <- 0x00000001``."""
        registers, _ = _names(table, self.decoder)
        columns = (table[name].to_pylist() for name in ("kind", "width", "offset", "value", "data", "flags"))
        found = []
        for kind, width, offset, value, data, flags, name in zip(*columns, registers, strict=True):
            shown = f"{value:#0{2 * width + 2}x}" if data is None else data.hex(" ", -4)
            arrow = {"read": "->", "write": "<-"}.get(kind, "?")
            known = "?" if flags & layout.VALUE_UNKNOWN or kind == "unknown" else shown
            found.append(f"{kind:<7} {width or '?':>2} {printable(name or f'{offset:#x}')} {arrow} {known}")
        return found
