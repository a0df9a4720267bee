"""Bytes that were read before anything was written to them, in mappings that behave like memory.

What kmemcheck said of the kernel's memory: such a read finds whatever was there before. A mapping is taken for memory
if bytes that were written were read back as they were, and none ever otherwise.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmiotap.analysis.accesses import READ, Accesses, changes
from mmiotap.analysis.groups import How, Rows, joined, reduced, taken
from mmiotap.trace.arrays import distinct

#: Bytes that are followed. Of a trace that touches more nothing is said.
FOLLOWED = 1 << 24
#: Bytes that must have been read back as they were written.
ENOUGH = 16

_BYTE = ("map_id", "at")
#: ``held`` and ``broke`` count reads that found what was written last, and that did not; ``before`` those that nothing
#: was written before, ``low`` and ``high`` are what these found. ``written`` is −1 where it is not known.
_HOW: dict[str, How] = {
    "held": "sum", "broke": "sum", "before": "sum", "low": "min", "high": "max", "first_ns": "first", "pid": "first",
    "pc": "first", "written": "last", "is_written": "max",
}  # fmt: skip
#: Columns of the result, what of a byte they are, and how those of a range become one.
_RANGE = {
    "map_id": "map_id", "offset": "at", "length": "length", "reads": "before", "first_ns": "first_ns", "pid": "pid",
    "pc": "pc",
}  # fmt: skip
_RANGES: dict[str, How] = {
    "map_id": "first", "offset": "first", "length": "sum", "reads": "sum", "first_ns": "min", "pid": "first",
    "pc": "first",
}  # fmt: skip
_NO_LOW, _NO_HIGH, _ANY = 256, -1, -1


@dataclass(frozen=True)
class BytesFound:
    rows: Rows  #: one for each byte
    broken: frozenset[int] = frozenset()  #: mappings that do not behave like memory, of which there are no rows
    over: bool = False  #: there were too many bytes


@dataclass(frozen=True)
class Unwritten:
    """Ranges of bytes in memory that were read and had not been written, in the order of places.

    Columns: ``map_id, offset, length``; ``reads`` of its bytes; ``first_ns``, when the first was read; ``pid, pc`` of
    that read.

    :ivar assumed: mappings that are memory whatever they look like.
    """

    assumed: frozenset[int] = frozenset()

    def part(self, accesses: Accesses) -> BytesFound:
        broken = _contradicted(accesses.rows) - self.assumed
        rows = _bytes(taken(accesses.rows, ~np.isin(accesses.rows["map_id"], list(broken))))
        number, _ = distinct(*(rows[name] for name in _BYTE))
        rows = taken(rows, np.argsort(number, kind="stable"))
        written = ~rows.pop("is_read")
        begins = changes(rows, *_BYTE)
        last = _last_write(begins, written)
        found, expected = rows.pop("found"), np.where(last >= 0, rows["written"][last], _ANY)
        read_back, both = ~written & (last >= 0), (found != _ANY) & (expected != _ANY)
        before = ~written & (last < 0)
        each = rows | {
            "held": (read_back & both & (found == expected)).astype(np.int64),
            "broke": (read_back & both & (found != expected)).astype(np.int64),
            "before": before.astype(np.int64),
            "low": np.where(before & (found != _ANY), found, _NO_LOW),
            "high": np.where(before, found, _NO_HIGH),
            # Of the last write, or as nobody looks at it: 0.
            "written": np.where(written, rows["written"], np.where(last >= 0, expected, 0)),
            "is_written": written.astype(np.int64),
        }
        return self._kept(BytesFound(reduced(each, _BYTE, _HOW), frozenset(broken)))

    def merged(self, first: BytesFound, then: BytesFound) -> BytesFound:
        count = len(first.rows["at"])
        rows = joined(first.rows, then.rows)
        number, begins = distinct(*(rows[name] for name in _BYTE))
        earlier = begins[number[count:]]  # the row of the same byte, which is the row itself where there is no other
        late = taken(rows, np.arange(count, len(number)))
        after = (earlier < count) & (rows["is_written"][earlier] == 1)
        expected = rows["written"][earlier]
        same = (
            (late["high"] == _NO_HIGH) | (expected == _ANY) | ((late["low"] == expected) & (late["high"] == expected))
        )
        late["held"] = late["held"] + np.where(after & same & (expected != _ANY), late["before"], 0)
        late["broke"] = late["broke"] + np.where(after & ~same, late["before"], 0)
        for name, nothing in (("before", 0), ("low", _NO_LOW), ("high", _NO_HIGH)):
            late[name] = np.where(after, nothing, late[name])
        late["written"] = np.where((late["is_written"] == 0) & after, expected, late["written"])
        both = reduced(joined(first.rows, late), _BYTE, _HOW)
        return self._kept(BytesFound(both, first.broken | then.broken, first.over or then.over))

    def table(self, whole: BytesFound) -> pa.Table:
        rows = whole.rows
        held = np.zeros(0, np.int64) if whole.over else self._memory(rows)
        rows = taken(rows, np.isin(rows["map_id"], held) & (rows["before"] > 0))
        rows = taken(rows, np.lexsort((rows["at"], rows["map_id"])))
        new = changes(rows, "map_id", "pid", "pc")
        new[1:] |= rows["at"][1:] != rows["at"][:-1] + np.uint64(1)
        rows["length"] = np.ones(len(new), np.int64)
        ranges = reduced(
            {name: rows[column] for name, column in _RANGE.items()} | {"range": np.cumsum(new)}, ["range"], _RANGES
        )
        return pa.table({name: pa.array(ranges[name]) for name in _RANGE})

    def _memory(self, rows: Rows) -> npt.NDArray[np.int64]:
        """Mappings that are."""
        maps = reduced(rows, ["map_id"], {"held": "sum"})
        return np.append(maps["map_id"][maps["held"] >= ENOUGH], np.array(sorted(self.assumed), np.int64))

    def _kept(self, found: BytesFound) -> BytesFound:
        """Without the bytes of mappings that are no memory, and without all if there are too many."""
        rows = found.rows
        broken = found.broken | (set(rows["map_id"][rows["broke"] > 0].tolist()) - self.assumed)
        if broken:
            rows = taken(rows, ~np.isin(rows["map_id"], list(broken)))
        if found.over or len(rows["at"]) > FOLLOWED:
            return replace(found, rows=taken(rows, np.zeros(0, np.int64)), broken=broken, over=True)
        return replace(found, rows=rows, broken=broken)


def _last_write(begins: npt.NDArray[np.bool_], written: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """The last row before each that was written, of those since the last one that ``begins``; −1 for none."""
    at = np.arange(len(begins))
    begun = np.maximum.accumulate(np.where(begins, at, 0)) if len(at) else at
    last = np.maximum.accumulate(np.where(written, at, -1)) if len(at) else at
    last = np.append(-1, last[:-1])[: len(at)]
    return np.where(last >= begun, last, -1)


def _contradicted(rows: Rows) -> set[int]:
    """Mappings that are surely no memory, found without a look at bytes: all accesses are of one width and aligned, and
    some value was not read back as it was written."""
    every = np.unique(rows["map_id"])
    uneven = rows["offset"] % np.maximum(rows["width"], 1).astype(np.uint64) != 0
    mixed = [len(np.unique(rows["width"][rows["map_id"] == one])) > 1 for one in every]
    odd = {*every[mixed].tolist(), *rows["map_id"][uneven].tolist()}
    rows = taken(rows, ~np.isin(rows["map_id"], list(odd)))
    number, _ = distinct(rows["map_id"], rows["offset"])
    rows = taken(rows, np.argsort(number, kind="stable"))
    written = rows["way"] != READ
    last = _last_write(changes(rows, "map_id", "offset"), written)
    both = ~written & (last >= 0) & (rows["known"] == 1) & (rows["known"][last] == 1)
    return set(rows["map_id"][both & (rows["value"] != rows["value"][last])].tolist())


def _bytes(rows: Rows) -> Rows:
    """One row for each byte of each access. ``found`` and ``written`` are −1 where they are not known."""
    width = rows["width"]
    access = np.repeat(np.arange(len(width)), width)
    index = np.arange(len(access)) - (np.cumsum(width) - width)[access]
    known = (rows["known"][access] == 1) & (index < 8)
    bits = (8 * np.minimum(index, 7)).astype(np.uint64)
    value = np.where(known, (rows["value"][access] >> bits & np.uint64(0xFF)).astype(np.int64), _ANY)
    is_read = rows["way"][access] == READ
    return {
        "map_id": rows["map_id"][access],
        "at": rows["offset"][access] + index.astype(np.uint64),
        "is_read": is_read,
        "found": value,
        "written": value,
        "first_ns": rows["time_ns"][access],
        "pid": rows["pid"][access],
        "pc": rows["pc"][access],
    }
