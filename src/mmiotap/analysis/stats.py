"""Counts, rates, values and latencies of a trace, in one pass with memory for what is distinct, not for what happened.

Parts are read side by side. Of each the accesses that are alike are counted as one; these few rows are merged to one a
register, one an instruction and one a thread as they come, and only at the end become the tables a user sees.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmiotap.analysis import alike, naming, ways
from mmiotap.analysis.groups import How, Pile, Rows, grouped, height, joined, reduced
from mmiotap.analysis.side_by_side import each
from mmiotap.analysis.symbols import Symbols
from mmiotap.registers.decode import Decoder
from mmiotap.trace.arrays import values, whole
from mmiotap.trace.reader import Trace
from mmiotap.trace.schema import EVENTS

REGISTER = ["map_id", "offset", "width"]
SITE = ["pid", "pc", "width"]
THREAD = ["pid", "tid", "width"]

#: Columns of the events that are needed.
COLUMNS = [name for name in alike.COLUMNS if name != "data"]

#: Events that are counted at once: of so many hardly more are distinct than of a few.
COUNTED = 1 << 19

#: How rows merge; of what is known of the first and of the last access, ``_ends`` finds whose it is.
_HOW: dict[str, How] = {
    **dict.fromkeys(alike.DIRECTIONS, "sum"),
    "timed": "sum", "total_ns": "sum", "min_ns": "min", "max_ns": "max",
}  # fmt: skip
_FIRST, _LAST = ("first_ns", "first_at", "first_value"), ("last_ns", "last_at", "last_value")

#: What a user sees of them: of the few rows that are left, in the order in which they begin.
MERGE: list[tuple[str, Literal["sum", "min", "max", "first", "last"]]] = [
    *((name, "sum") for name in alike.DIRECTIONS),
    ("first_ns", "min"), ("last_ns", "max"), ("first_value", "first"), ("last_value", "last"),
    ("timed", "sum"), ("total_ns", "sum"), ("min_ns", "min"), ("max_ns", "max"),
]  # fmt: skip

#: Bits of a row's number in its part. Above them is the number of the part.
_ROW_BITS = 40


@dataclass(frozen=True)
class Statistics:
    """What :func:`statistics` finds. Durations are nanoseconds, rates accesses a second of the trace.

    All tables have the columns ``reads, writes, others`` (unknown instructions), ``accesses`` (their sum), ``rate``
    (null where the trace has no length), ``widths`` (a list), ``first_value, last_value`` (null where no value is
    known; the low 8 bytes of a wider one), ``min_ns, mean_ns, max_ns`` (null where nothing was timed). Their keys are:
    mappings ``map_id`` and ``path``; registers ``map_id, offset, width``; sites ``site`` ("" where the instruction is
    not known); threads ``pid, tid`` and ``program``. The largest number of accesses comes first.
    """

    kinds: dict[str, int]  #: events of each kind
    ways: dict[str, int]  #: accesses that went each way of :data:`mmiotap.analysis.ways.WAYS`
    seconds: float  #: from the first event to the last
    mappings: pa.Table
    registers: pa.Table
    sites: pa.Table
    threads: pa.Table
    notes: list[str]  #: modules that gave no names, and why


def statistics(trace: Trace, decoder: Decoder | None = None) -> Statistics:
    """Read the trace once, its parts side by side. With a ``decoder`` registers have names, too (``register``)."""
    kinds: dict[str, _Kind] = {}
    went = dict.fromkeys(ways.WAYS, 0)
    first_ns, last_ns = 2**63 - 1, 0
    by_register, by_site, by_thread = _Reduction(REGISTER), _Reduction(SITE), _Reduction(THREAD)
    for part in each(_part, enumerate(trace.streams(COLUMNS, COUNTED))):
        for word, kind in part.kinds.items():
            kinds[word] = kind.and_then(kinds.get(word))
        for way, count in part.ways.items():
            went[way] += count
        first_ns, last_ns = min(first_ns, part.first_ns), max(last_ns, part.last_ns)
        for rows in part.rows:
            for reduction in (by_register, by_site, by_thread):
                reduction.add(rows)
    seconds = max(last_ns - first_ns, 0) / 1e9
    symbols = Symbols(trace.modules, trace.processes)
    registers = by_register.table()
    return Statistics(
        {word: kinds[word].count for word in sorted(kinds, key=lambda word: kinds[word].first)},
        went,
        seconds,
        mappings=_with_paths(_roll_up(registers, ["map_id"], seconds), trace),
        registers=_with_names(_roll_up(registers, REGISTER, seconds), decoder),
        sites=_roll_up(_with_sites(by_site.table(), symbols), ["site"], seconds),
        threads=_with_programs(_roll_up(by_thread.table(), ["pid", "tid"], seconds), trace),
        notes=symbols.notes,
    )


@dataclass(frozen=True)
class _Kind:
    """Events of a kind: how many, and the time and place of the first."""

    count: int
    first: tuple[int, int]

    def and_then(self, other: "_Kind | None") -> "_Kind":
        return self if other is None else _Kind(self.count + other.count, min(self.first, other.first))


@dataclass
class _Part:
    """What there is to say of a part of the trace; ``rows`` are those of :func:`_rows`."""

    first_ns: int = 2**63 - 1
    last_ns: int = 0
    kinds: dict[str, _Kind] = field(default_factory=dict)
    ways: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ways.WAYS, 0))
    rows: list[Rows] = field(default_factory=list)


def _part(numbered: tuple[int, Iterable[pa.Table]]) -> _Part:
    number, tables = numbered
    found = _Part()
    at = number << _ROW_BITS
    for table in tables:
        if not table.num_rows:
            continue
        time = values(table["time_ns"])
        found.first_ns, found.last_ns = min(found.first_ns, int(time[0])), int(time[-1])
        for word, kind in _kinds(table, time, at):
            found.kinds[word] = kind.and_then(found.kinds.get(word))
        seen = alike.alike(table)
        hits = seen.groups["hits"]
        for way, column in ways.columns(seen.groups["flags"]).items():
            found.ways[way] += pc.sum(pc.multiply(column, hits)).as_py() or 0
        found.rows.append(_rows(seen, at))
        at += table.num_rows
    return found


def _kinds(table: pa.Table, time: npt.NDArray[np.int64], at: int) -> Iterator[tuple[str, _Kind]]:
    encoded: Any = whole(table["kind"].unify_dictionaries())
    kind = values(encoded.indices)
    for number, count in enumerate(np.bincount(kind).tolist()):
        if count:
            first = int(np.argmax(kind == number))
            yield encoded.dictionary[number].as_py(), _Kind(count, (int(time[first]), at + first))


def _rows(seen: alike.Alike, at: int) -> Rows:
    """One row for those accesses that are alike. ``first_at`` and ``last_at`` are where in the trace the first and the
    last of them are, as far as their times leave that open; ``known``: their values are.

    Durations are 0, and ``min_ns`` is the greatest number, where nothing was ``timed``.
    """
    groups = seen.groups
    rows: Rows = {"known": pc.is_valid(groups["first_value"]).to_numpy().astype(np.int64)}
    for name in dict.fromkeys(REGISTER + SITE + THREAD):
        column = values(groups[name])
        rows[name] = column if column.dtype == np.uint64 else column.astype(np.int64)
    rows |= alike.directions(groups)
    for end in ("first", "last"):
        place = values(groups[end])
        rows[f"{end}_ns"], rows[f"{end}_at"] = seen.time_ns[place], place + at
        rows[f"{end}_value"] = _filled(groups[f"{end}_value"], 0)
    rows["timed"] = values(groups["timed"])
    for name, none in (("total_ns", 0), ("min_ns", 2**32 - 1), ("max_ns", 0)):
        rows[name] = _filled(groups[name], none)
    return rows


def _filled(column: Any, none: int) -> npt.NDArray[np.uint64]:
    return values(column.fill_null(none)).astype(np.uint64)


class _Reduction:
    """Rows reduced to one a combination of some keys, and of values that are known and that are not."""

    def __init__(self, keys: list[str]) -> None:
        self._keys = keys
        self._columns = [*keys, "known", *_HOW, *_FIRST, *_LAST]
        none = self._selected(_rows(alike.alike(EVENTS.empty_table()), 0))
        self._pile = Pile(none, lambda parts: _merged(parts, keys), height)

    def add(self, rows: Rows) -> None:
        self._pile.add(self._selected(rows))

    def table(self) -> pa.Table:
        """One row a combination of the keys, with the columns of :data:`MERGE`, in the order of their first accesses;
        null where no value is known, and where nothing was timed."""
        rows = self._pile.merged()
        order = np.lexsort((rows["first_at"], rows["first_ns"]))
        absent = dict.fromkeys((*_FIRST, *_LAST), rows["known"] == 0)
        absent |= dict.fromkeys(("total_ns", "min_ns", "max_ns"), rows["timed"] == 0)
        columns = {
            name: pa.array(rows[name][order], mask=absent[name][order] if name in absent else None)
            for name in self._columns
        }
        return grouped(pa.table(columns), self._keys, MERGE)

    def _selected(self, rows: Rows) -> Rows:
        return {name: rows[name] for name in self._columns}


def _merged(parts: Sequence[Rows], keys: list[str]) -> Rows:
    """Rows of the same keys and knowledge made one."""
    rows = joined(*parts)
    by_first = np.lexsort((rows["first_at"], rows["first_ns"]))
    by_last = np.lexsort((rows["last_at"], rows["last_ns"]))
    ranks = {"first": np.argsort(by_first), "last": np.argsort(by_last)}
    found = reduced(rows | ranks, [*keys, "known"], {**_HOW, "first": "min", "last": "max"})
    first, last = by_first[found.pop("first")], by_last[found.pop("last")]
    return found | {name: rows[name][first] for name in _FIRST} | {name: rows[name][last] for name in _LAST}


def _roll_up(merged: pa.Table, keys: list[str], seconds: float) -> pa.Table:
    """One of the tables of :class:`Statistics`, the largest number of accesses first, then by key."""
    order: list[tuple[str, Literal["ascending", "descending"]]] = [(key, "ascending") for key in keys]
    table = grouped(merged.sort_by("first_ns"), keys, MERGE).sort_by(order)
    last = merged.sort_by("last_ns").group_by(keys, use_threads=False).aggregate([("last_value", "last")])
    widths = merged.group_by(keys, use_threads=False).aggregate([("width", "distinct")])
    accesses = pc.add(pc.add(table["reads"], table["writes"]), table["others"])
    columns = {key: table[key] for key in keys} | {
        "reads": table["reads"],
        "writes": table["writes"],
        "others": table["others"],
        "accesses": accesses,
        "rate": pc.divide(accesses.cast(pa.float64()), pa.scalar(seconds or None, pa.float64())),
        "widths": widths.sort_by(order)["width_distinct"],
        "first_value": table["first_value"],
        "last_value": last.sort_by(order)["last_value_last"],
        "min_ns": table["min_ns"],
        "mean_ns": pc.divide(pc.cast(table["total_ns"], pa.float64()), pc.cast(table["timed"], pa.float64())),
        "max_ns": table["max_ns"],
    }
    return pa.table(columns).sort_by([("accesses", "descending"), *order])


def _with_paths(table: pa.Table, trace: Trace) -> pa.Table:
    paths = {mapping.map_id: mapping.path for mapping in trace.mappings}
    ids: list[Any] = table["map_id"].to_pylist()
    return table.append_column("path", pa.array([paths.get(map_id) for map_id in ids], pa.string()))


def _with_names(table: pa.Table, decoder: Decoder | None) -> pa.Table:
    if decoder is None:
        return table
    return table.append_column("register", naming.of_registers(decoder, table).register)


def _with_sites(merged: pa.Table, symbols: Symbols) -> pa.Table:
    names = symbols.names(merged["pid"].to_numpy().tolist(), merged["pc"].to_numpy().tolist())
    return merged.append_column("site", pa.array(names, pa.string()))


def _with_programs(table: pa.Table, trace: Trace) -> pa.Table:
    programs = {process.pid: process.executable for process in trace.processes}
    pids: list[Any] = table["pid"].to_pylist()
    return table.append_column("program", pa.array([programs.get(pid) for pid in pids], pa.string()))
