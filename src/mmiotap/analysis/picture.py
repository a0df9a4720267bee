"""All that a report shows, found in one pass over the events, with memory for what is distinct."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmiotap.analysis import naming, ways
from mmiotap.analysis.alike import COLUMNS, DIRECTIONS, KINDS, Alike, alike, directions, numbered
from mmiotap.analysis.density import Density
from mmiotap.analysis.groups import Pile, grouped
from mmiotap.analysis.partitions import Findings
from mmiotap.analysis.polls import Polls, repeated
from mmiotap.registers.decode import Decoder
from mmiotap.trace import schema
from mmiotap.trace.reader import Trace

REGISTER = ["map_id", "offset", "width"]
SITE = ["pid", "pc"]
THREAD = ["pid", "tid"]

#: Marks, losses and mappings that are kept; the others are counted only.
REMARKS = 500
#: Bins of a histogram of latencies: each a fourth of an octave, the first is 1 ns.
LATENCY_BINS = 4 * 32

_SUMS: list[tuple[str, Literal["sum", "min", "max", "first"]]] = [
    *((name, "sum") for name in ("hits", *DIRECTIONS, *ways.WAYS, "timed", "total_ns")),
    ("min_ns", "min"), ("max_ns", "max"), ("bytes", "max"), ("code", "first"),
]  # fmt: skip
#: ``first`` and ``last`` number the accesses of the trace; values are those of the first and last whose value is known.
_ENDS = {"first": "min", "last": "max", "first_value": "first", "last_value": "last"}


@dataclass(frozen=True)
class Remark:
    """An event that is no access."""

    time_ns: int
    kind: str
    map_id: int
    value: int  #: of a loss: how many events
    text: str | None
    pid: int
    tid: int


@dataclass
class Picture:
    """What :func:`picture` finds.

    Tables have ``hits, reads, writes, others`` (unknown instructions), ``patched, trapped, stepped``, ``timed,
    total_ns, min_ns, max_ns`` (null where nothing was timed), ``bytes`` (the widest access), ``code`` (of an
    instruction that is only known as such), ``first_value, last_value``; the most hits come first.
    """

    first_ns: int | None = None
    last_ns: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    density: Density = field(default_factory=Density)
    latency: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((len(KINDS), LATENCY_BINS), np.int64))
    remarks: list[Remark] = field(default_factory=list)
    registers: pa.Table = field(init=False)  #: by :data:`REGISTER`
    sites: pa.Table = field(init=False)  #: by :data:`SITE`
    threads: pa.Table = field(init=False)  #: by :data:`THREAD`


def picture(trace: Trace) -> Picture:
    """Read the trace once, batch by batch."""
    return _picture(trace, lambda seen: None)


def picture_and_polls(trace: Trace) -> tuple[Picture, pa.Table]:
    """The table of Polls, too, found in the same pass."""
    polls = Polls()
    findings = Findings([polls])
    found = _picture(trace, lambda seen: findings.add(repeated(seen)))
    [whole] = findings.whole()
    return found, polls.table(whole)


def _picture(trace: Trace, look: Callable[[Alike], None]) -> Picture:
    found = Picture()
    reductions = [Reduction(keys) for keys in (REGISTER, SITE, THREAD)]
    accesses = 0
    for batch in trace.batches([*COLUMNS, "text"]):
        if not batch.num_rows:
            continue
        if found.first_ns is None:
            found.first_ns = batch["time_ns"][0].as_py()
        found.last_ns = batch["time_ns"][-1].as_py()
        _remark(found, batch)
        seen = alike(batch)
        if not len(seen.group):
            continue
        look(seen)
        _fill(found, seen)
        rows = counted(seen.groups, accesses)
        accesses += len(seen.group)
        for reduction in reductions:
            reduction.add(rows)
    found.registers, found.sites, found.threads = (
        reduction.merged().sort_by([("hits", "descending"), *((key, "ascending") for key in reduction.keys)])
        for reduction in reductions
    )
    return found


def named(registers: pa.Table, decoder: Decoder | None) -> tuple[list[str], list[str]]:
    """Of the table of registers their names, and the fields of their last values; "" where there is nothing to say."""
    value = pc.fill_null(registers["last_value"], pa.scalar(0, pa.uint64()))
    decoded = naming.of_registers(decoder, registers, value)
    names, fields = ([text or "" for text in column.to_pylist()] for column in (decoded.register, decoded.fields))
    return names, fields


def _remark(found: Picture, batch: pa.Table) -> None:
    words = list(schema.KINDS.values())
    kind = numbered(batch["kind"], words)
    for word, count in zip(words, np.bincount(kind, minlength=len(words)).tolist(), strict=True):
        if count:
            found.kinds[word] = found.kinds.get(word, 0) + count
    others = np.flatnonzero(~np.isin(kind, [words.index(word) for word in KINDS]))[: REMARKS - len(found.remarks)]
    if len(others):
        columns = ["time_ns", "kind", "map_id", "value", "text", "pid", "tid"]
        found.remarks += [Remark(**row) for row in batch.select(columns).take(others).to_pylist()]


def _fill(found: Picture, seen: Alike) -> None:
    columns = {name: seen.groups[name].to_numpy().astype(np.int64) for name in ("map_id", "pid", "tid", "kind")}
    reads = columns.pop("kind") == KINDS.index("read")
    found.density.add(seen.time_ns, seen.group, reads=reads, offset=seen.groups["offset"].to_numpy(), **columns)
    if len(seen.timed):
        kind = seen.groups["kind"].to_numpy()[seen.group[seen.timed]]
        place = (4 * np.log2(seen.duration_ns.clip(1))).astype(np.int64)
        np.add.at(found.latency, (kind, place), 1)


def counted(groups: pa.Table, before: int) -> pa.Table:
    """The groups with the columns of :data:`_SUMS`; ``before`` is the number of accesses of earlier batches."""
    went = {way: pc.multiply(column, groups["hits"]) for way, column in ways.columns(groups["flags"]).items()}
    counts = {name: pa.array(column) for name, column in directions(groups).items()}
    order = {name: pa.array(groups[name].to_numpy() + before) for name in ("first", "last")}
    kept = [name for name in groups.schema.names if name not in ("kind", "flags", *order)]
    return pa.table({name: groups[name] for name in kept} | {"bytes": groups["width"]} | went | counts | order)


class Reduction:
    """Rows reduced to one a combination of some keys."""

    def __init__(self, keys: list[str]) -> None:
        self.keys = keys
        self._columns = list(dict.fromkeys([*keys, *(name for name, _ in _SUMS), *_ENDS]))
        none = counted(alike(schema.EVENTS.empty_table()).groups, 0).select(self._columns)
        self._pile = Pile(none, self._merge, lambda rows: rows.num_rows)

    def add(self, rows: pa.Table) -> None:
        self._pile.add(rows.select(self._columns))

    def merged(self) -> pa.Table:
        return self._pile.merged()

    def _merge(self, parts: Sequence[pa.Table]) -> pa.Table:
        rows = pa.concat_tables(parts)
        merged = self._by_key(rows, _SUMS)
        ends = {}
        for name, how in _ENDS.items():
            by = "first" if how == "min" or name == "first_value" else "last"
            ends[name] = self._by_key(rows.sort_by(by), [(name, how)])[name]
        return pa.table({name: merged[name] for name in merged.schema.names} | ends).select(self._columns)

    def _by_key(self, rows: pa.Table, how: Sequence[tuple[str, str]]) -> pa.Table:
        return grouped(rows, self.keys, how).sort_by([(key, "ascending") for key in self.keys])
