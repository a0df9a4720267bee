"""The tables of a report, as texts and numbers to sort by."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from mmiotap.analysis import sites
from mmiotap.analysis.alike import KINDS
from mmiotap.analysis.clock import start_ns
from mmiotap.analysis.picture import Picture, named
from mmiotap.registers.decode import Decoder
from mmiotap.trace.reader import Trace
from mmiotap.views.lines import duration_text, map_label, map_text
from mmiotap.views.sites import how_text
from mmiotap.views.state import state_text
from mmiotap.views.summary import columns
from mmiotap.views.words import printable

#: Rows of each table.
ROWS = 200


@dataclass(frozen=True)
class Column:
    name: str
    number: bool = False
    code: bool = False


@dataclass(frozen=True)
class Cell:
    """``by``: what it is sorted by, if not its text."""

    text: str
    by: float | None = None


@dataclass(frozen=True)
class Section:
    id: str
    name: str
    columns: Sequence[Column] = ()
    rows: Sequence[Sequence[Cell]] = ()
    note: str = ""
    histogram: dict[str, Any] | None = None


class Names:
    """What things are called in this trace, safe to show."""

    def __init__(self, found: Picture, trace: Trace, decoder: Decoder | None) -> None:
        self.start_ns = start_ns(trace)
        self.maps = {mapping.map_id: map_label(mapping) for mapping in trace.mappings}
        self._programs = {process.pid: process.executable.rpartition("/")[2] for process in trace.processes}
        self.registers, self.fields = ([printable(text) for text in texts] for texts in named(found.registers, decoder))
        #: Of each place the register that most accesses were to.
        self._at: dict[tuple[int, int], str] = {}
        for row, name in zip(found.registers.select(["map_id", "offset"]).to_pylist(), self.registers, strict=True):
            if name:
                self._at.setdefault((row["map_id"], row["offset"]), name)

    def since(self, time_ns: int) -> int:
        """Nanoseconds since the start of the trace."""
        return time_ns - self.start_ns

    def seconds(self, time_ns: int) -> Cell:
        return Cell(f"{self.since(time_ns) / 1e9:.9f}", self.since(time_ns))

    def map(self, map_id: int) -> str:
        return self.maps.get(map_id, f"{map_id}:?")

    def thread(self, pid: int, tid: int) -> str:
        return printable(f"{self._programs.get(pid, '?')} {pid}/{tid}")

    def place(self, map_id: int, offset: int, size: int) -> str:
        """The name of a row: that of its register, or its offsets."""
        if size == 1:
            return self._at.get((map_id, offset), f"{offset:#x}")
        return f"{offset:#x}..{offset + size - 1:#x}"


def facts(found: Picture, trace: Trace) -> list[tuple[str, str]]:
    """The overview: names and values."""
    seconds = 0.0 if found.first_ns is None else (found.last_ns - found.first_ns) / 1e9
    accesses = sum(found.kinds.get(kind, 0) for kind in KINDS)
    lines = [
        ("Accesses", f"{accesses:,}"),
        ("Reads", f"{found.kinds.get('read', 0):,}"),
        ("Writes", f"{found.kinds.get('write', 0):,}"),
        ("Other events", f"{sum(found.kinds.values()) - accesses:,}"),
        ("Lost", f"{trace.lost:,}"),
        ("Time", f"{seconds:.6g} s"),
        ("Accesses a second", f"{accesses / seconds:,.0f}" if seconds else ""),
        ("Registers", f"{found.registers.num_rows:,}"),
        ("Sites", f"{found.sites.num_rows:,}"),
        ("Threads", f"{found.threads.num_rows:,}"),
        *((name, str(trace.info.get(key) or "")) for name, key in (("Started", "started"), ("Host", "host"))),
        ("Kernel", str(trace.info.get("kernel") or "")),
        ("State", state_text(trace.state, trace.path)),
    ]
    return [(name, printable(text)) for name, text in lines if text]


def sections(found: Picture, trace: Trace, names: Names, polls: pa.Table) -> list[Section]:
    """Those that have something to say. ``polls`` are polling loops."""
    timed = bool(found.latency.sum())
    all_sections = [
        _registers(found, names, timed=timed),
        _latency(found),
        _polls(polls, names),
        _sites(found, trace, names),
        _threads(found, names),
        _mappings(found, trace),
        _remarks(found, names),
    ]
    return [section for section in all_sections if section.rows or section.histogram or section.note]


def _registers(found: Picture, names: Names, *, timed: bool) -> Section:
    columns = [Column("mapping"), Column("offset", code=True)]
    named = any(names.registers)
    columns += [Column("register")] if named else []
    columns += [Column(name, number=True) for name in ("width", "reads", "writes", "others")]
    columns += [Column("first", code=True), Column("last", code=True)]
    columns += [Column("fields of the last")] if named else []
    columns += [Column(name, number=True) for name in ("min", "mean", "max")] if timed else []
    rows = []
    for row, name, fields in zip(
        found.registers.slice(0, ROWS).to_pylist(), names.registers[:ROWS], names.fields[:ROWS], strict=True
    ):
        cells = [Cell(names.map(row["map_id"]), row["map_id"]), Cell(f"{row['offset']:#x}", row["offset"])]
        cells += [Cell(name)] if named else []
        cells += [Cell(str(row["width"] or "?"), row["width"]), *_counts(row, "reads", "writes", "others")]
        cells += [_value(row[key], row["width"]) for key in ("first_value", "last_value")]
        cells += [Cell(fields)] if named else []
        cells += _times(row) if timed else []
        rows.append(cells)
    return Section("registers", "Registers", columns, rows, _more(found.registers.num_rows))


def _latency(found: Picture) -> Section:
    return Section("latency", "Latency", histogram=_histogram(found.latency) if found.latency.sum() else None)


def _histogram(counts: Any) -> dict[str, Any]:
    """Bars side by side, those of reads and writes in each bin of time."""
    used = counts[:2].sum(0).nonzero()[0]
    first, last, most = int(used[0]) // 4 * 4, int(used[-1]) // 4 * 4 + 4, int(counts[:2].max())
    width, height = 800, 220
    step = width / (last - first)
    bars, labels = [], []
    for number in range(first, last):
        low, high = (duration_text(2 ** (edge / 4)) for edge in (number, number + 1))
        for way, kind in enumerate(("reads", "writes")):
            if count := int(counts[way, number]):
                size = max(1.0, (height - 40) * count / most)
                place = {"x": f"{(number - first + way * 0.45 + 0.05) * step:.1f}", "y": f"{height - 20 - size:.1f}"}
                shape = {"width": f"{0.45 * step:.1f}", "height": f"{size:.1f}"}
                bars.append({"kind": kind, "text": f"{low} to {high}: {count:,} {kind}"} | place | shape)
    every = max(4, (last - first) // 10 // 4 * 4)
    for number in range(first, last, every):
        labels.append(
            {"x": f"{(number - first) * step:.1f}", "y": height - 5, "text": duration_text(2 ** (number / 4))}
        )
    labels.append({"x": 4, "y": 14, "text": f"the highest bar: {most:,} accesses"})
    return {"width": width, "height": height, "bars": bars, "labels": labels}


def _polls(polls: pa.Table, names: Names) -> Section:
    title, parts = columns(names.maps, names.start_ns)["polls"]
    heads = [Column(head, number=not is_text, code=head == "code") for head, _, is_text in parts]
    rows = [[Cell(cell(row)) for _, cell, _ in parts] for row in polls.slice(0, ROWS).to_pylist()]
    return Section("polls", title, heads, rows, _more(polls.num_rows))


def _sites(found: Picture, trace: Trace, names: Names) -> Section:
    counts = found.sites.slice(0, ROWS).rename_columns({"bytes": "width"}).to_pylist()
    uses = sites.described(trace, {(row["pid"], row["pc"]): row for row in counts if row["pc"]})
    columns = [Column("site", code=True), Column("instruction", code=True), Column("patch")]
    columns += [Column(name, number=True) for name in ("width", "hits", "patched", "trapped", "stepped")]
    rows = [
        [
            Cell(printable(use.site)),
            Cell(use.instruction or "?"),
            Cell(how_text(use.state, use.reason)),
            Cell(str(use.width or "?"), use.width),
            *(Cell(f"{count:,}", count) for count in (use.hits, use.patched, use.trapped, use.stepped)),
        ]
        for use in uses.uses
    ]
    notes = [_more(found.sites.num_rows), *(f"{printable(note)}." for note in uses.notes)]
    return Section("sites", "Sites", columns, rows, " ".join(filter(None, notes)))


def _threads(found: Picture, names: Names) -> Section:
    columns = [Column("thread"), *(Column(name, number=True) for name in ("reads", "writes", "others"))]
    rows = [
        [Cell(names.thread(row["pid"], row["tid"])), *_counts(row, "reads", "writes", "others")]
        for row in found.threads.slice(0, ROWS).to_pylist()
    ]
    return Section("threads", "Threads", columns, rows, _more(found.threads.num_rows))


def _mappings(found: Picture, trace: Trace) -> Section:
    counts: Any = found.registers.group_by("map_id").aggregate([("reads", "sum"), ("writes", "sum"), ("others", "sum")])
    by_map = {row["map_id"]: row for row in counts.to_pylist()}
    none = dict.fromkeys(("reads_sum", "writes_sum", "others_sum"), 0)
    columns = [
        Column("mapping"),
        *(Column(name, number=True) for name in ("reads", "writes", "others")),
        Column("what"),
    ]
    rows = [
        [
            Cell(map_label(mapping), mapping.map_id),
            *_counts(by_map.get(mapping.map_id, none), "reads_sum", "writes_sum", "others_sum"),
            Cell(map_text(mapping)),
        ]
        for mapping in trace.mappings[:ROWS]
    ]
    return Section("mappings", "Mappings", columns, rows, _more(len(trace.mappings)))


def _remarks(found: Picture, names: Names) -> Section:
    """Marks and losses."""
    told = [one for one in found.remarks if one.kind in ("mark", "lost")]
    columns = [Column("seconds", number=True), Column("what"), Column("thread")]
    rows = [
        [
            names.seconds(one.time_ns),
            Cell(printable(one.text or "") if one.kind == "mark" else f"{one.value:,} events were lost here"),
            Cell(names.thread(one.pid, one.tid)),
        ]
        for one in told
    ]
    more = found.kinds.get("mark", 0) + found.kinds.get("lost", 0) - len(told)
    return Section("marks", "Marks and losses", columns, rows, f"And {more:,} more." if more else "")


def _counts(row: dict[str, Any], *names: str) -> list[Cell]:
    return [Cell(f"{row[name]:,}", row[name]) for name in names]


def _value(value: int | None, width: int) -> Cell:
    return Cell("?" if value is None else f"0x{value:0{2 * min(width, 8)}x}")


def _times(row: dict[str, Any]) -> list[Cell]:
    if not row["timed"]:
        return [Cell("")] * 3
    times = (row["min_ns"], row["total_ns"] / row["timed"], row["max_ns"])
    return [Cell(duration_text(time), time) for time in times]


def _more(count: int) -> str:
    return f"The first {ROWS} of {count:,}." if count > ROWS else ""
