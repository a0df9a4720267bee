"""Counts, rates, values and latencies of a trace, in one pass with memory for what is distinct, not for what happened.

Every batch is reduced at once to one row a register, one an instruction and one a thread; these rows are merged as they
come, and only at the end become the tables a user sees.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmiotap.analysis import ways
from mmiotap.analysis.symbols import Symbols
from mmiotap.registers.decode import Decoder
from mmiotap.trace import layout
from mmiotap.trace.reader import Trace
from mmiotap.trace.schema import EVENTS

REGISTER = ["map_id", "offset", "width"]
SITE = ["pid", "pc", "width"]
THREAD = ["pid", "tid", "width"]

#: Columns of the events that are needed.
COLUMNS = [
    "time_ns", "duration_ns", "kind", "width", "map_id", "offset", "value", "pc", "pid", "tid", "flags",
]  # fmt: skip

#: Reduced column, how rows of it merge. ``first_*`` and ``last_*`` rely on rows being merged in time order.
MERGE: list[tuple[str, Literal["sum", "min", "max", "first", "last"]]] = [
    ("reads", "sum"), ("writes", "sum"), ("others", "sum"),
    ("first_ns", "min"), ("last_ns", "max"), ("first_value", "first"), ("last_value", "last"),
    ("timed", "sum"), ("total_ns", "sum"), ("min_ns", "min"), ("max_ns", "max"),
]  # fmt: skip

#: Rows that may pile up before they are merged.
PENDING_ROWS = 1 << 18


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
    """Read the trace once, batch by batch. With a ``decoder`` registers have names, too (``register``)."""
    kinds: dict[str, int] = {}
    went = dict.fromkeys(ways.WAYS, 0)
    first_ns: int | None = None
    last_ns = 0
    by_register, by_site, by_thread = _Reduction(REGISTER), _Reduction(SITE), _Reduction(THREAD)
    for batch in trace.batches(COLUMNS):
        if not batch.num_rows:
            continue
        found: Any = pc.value_counts(batch["kind"].cast(pa.string()))
        for counted in found.to_pylist():
            kinds[counted["values"]] = kinds.get(counted["values"], 0) + counted["counts"]
        if first_ns is None:
            first_ns = int(batch["time_ns"][0].as_py())
        last_ns = int(batch["time_ns"][-1].as_py())
        accesses = _accesses(batch)
        for way in went:
            went[way] += pc.sum(accesses[way]).as_py() or 0
        for reduction in (by_register, by_site, by_thread):
            reduction.add(accesses)
    seconds = 0.0 if first_ns is None else (last_ns - first_ns) / 1e9
    symbols = Symbols(trace.modules, trace.processes)
    return Statistics(
        kinds,
        went,
        seconds,
        mappings=_with_paths(_roll_up(by_register.merged(), ["map_id"], seconds), trace),
        registers=_with_names(_roll_up(by_register.merged(), REGISTER, seconds), decoder),
        sites=_roll_up(_with_sites(by_site.merged(), symbols), ["site"], seconds),
        threads=_with_programs(_roll_up(by_thread.merged(), ["pid", "tid"], seconds), trace),
        notes=symbols.notes,
    )


class _Reduction:
    """Rows reduced to one a combination of some keys.

    Holds these, and at most as many (or :data:`PENDING_ROWS`, and those of one batch) that wait to be merged. A row is
    therefore merged few times, however long the trace is.
    """

    def __init__(self, keys: list[str]) -> None:
        self._keys = keys
        self._pending = [_merge(_accesses(EVENTS.empty_table()), keys)]

    def add(self, accesses: pa.Table) -> None:
        self._pending.append(_merge(accesses, self._keys))
        done, *waiting = (table.num_rows for table in self._pending)
        if sum(waiting) > max(PENDING_ROWS, done):
            self._pending = [self.merged()]

    def merged(self) -> pa.Table:
        return _merge(pa.concat_tables(self._pending), self._keys)


def _accesses(batch: pa.Table) -> pa.Table:
    """The accesses of a batch, each with the columns of :data:`MERGE` as if it were a group of one, and its way."""
    kind = pc.cast(batch["kind"], pa.string())
    batch = batch.append_column("word", kind).filter(pc.is_in(kind, pa.array(["read", "write", "unknown"])))
    unknown = pc.or_(
        pc.equal(batch["word"], pa.scalar("unknown")),
        pc.not_equal(
            pc.bit_wise_and(batch["flags"], pa.scalar(layout.VALUE_UNKNOWN, pa.uint32())), pa.scalar(0, pa.uint32())
        ),
    )
    value = pc.if_else(unknown, pa.scalar(None, pa.uint64()), batch["value"])
    time = pc.if_else(unknown, pa.scalar(None, pa.int64()), batch["time_ns"])
    duration = pc.cast(batch["duration_ns"], pa.uint64())
    columns = {
        "reads": _ones(batch, "read"),
        "writes": _ones(batch, "write"),
        "others": _ones(batch, "unknown"),
        "first_ns": time,
        "last_ns": time,
        "first_value": value,
        "last_value": value,
        "timed": pc.is_valid(duration).cast(pa.int64()),
        "total_ns": duration,
        "min_ns": duration,
        "max_ns": duration,
    }
    keys = {key: batch[key] for key in dict.fromkeys(REGISTER + SITE + THREAD)}
    return pa.table(keys | columns | ways.columns(batch["flags"]))


def _ones(batch: pa.Table, kind: str) -> Any:
    """1 for each row of this kind, 0 for the others."""
    return pc.equal(batch["word"], pa.scalar(kind)).cast(pa.int64())


def _merge(table: pa.Table, keys: list[str]) -> pa.Table:
    """Rows of the same keys made one; what is first and last follows the order of the rows."""
    merged = table.group_by(keys, use_threads=False).aggregate(MERGE)
    return merged.select([*keys, *(f"{name}_{how}" for name, how in MERGE)]).rename_columns(
        [*keys, *(name for name, _ in MERGE)]
    )


def _roll_up(merged: pa.Table, keys: list[str], seconds: float) -> pa.Table:
    """One of the tables of :class:`Statistics`, the largest number of accesses first, then by key."""
    order: list[tuple[str, Literal["ascending", "descending"]]] = [(key, "ascending") for key in keys]
    table = _merge(merged.sort_by("first_ns"), keys).sort_by(order)
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
    places: dict[str, Any] = {name: table[name] for name in REGISTER}
    places["kind"] = pa.array(["read" if reads else "write" for reads in table["reads"].to_pylist()], pa.string())
    places["value"] = places["flags"] = pa.array(np.zeros(table.num_rows, np.uint64))
    return table.append_column("register", decoder.decode(pa.table(places)).register)


def _with_sites(merged: pa.Table, symbols: Symbols) -> pa.Table:
    names = symbols.names(merged["pid"].to_numpy().tolist(), merged["pc"].to_numpy().tolist())
    return merged.append_column("site", pa.array(names, pa.string()))


def _with_programs(table: pa.Table, trace: Trace) -> pa.Table:
    programs = {process.pid: process.executable for process in trace.processes}
    pids: list[Any] = table["pid"].to_pylist()
    return table.append_column("program", pa.array([programs.get(pid) for pid in pids], pa.string()))
