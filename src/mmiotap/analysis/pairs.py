"""Index and data registers: what is written to the one chooses what the other one is.

Seen from outside such a pair looks like this: nearly every write to the index is followed by an access to the data
register, nearly every access to the data register comes behind a write to the index, both are near each other, the
index is hardly ever read, and different indexes find different data.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmiotap.analysis.accesses import OTHER, PLACE, READ, WRITE, Accesses
from mmiotap.analysis.groups import How, Rows, reduced, taken
from mmiotap.analysis.runs import Bools, Ints, RunAnalysis, RunsFound
from mmiotap.trace.arrays import distinct

#: Bytes between the two at most.
NEAR = 64
#: Writes to the index at least, and the share of what must be as above.
ENOUGH, NEARLY = 4, 0.9

_PAIR = ("map_id", "index_offset", "index_width", "offset", "width")
_PAIR_KEYS = (*_PAIR, "index", "way")
_PAIR_HOW: dict[str, How] = {"count": "sum", "first": "first", "last": "last", "low": "min", "high": "max"}
_TOTAL_KEYS = (*PLACE, "way")
_TOTAL_HOW: dict[str, How] = {"runs": "sum"}


@dataclass(frozen=True)
class PairsFound:
    pairs: RunsFound
    totals: RunsFound


class Pairs:
    """What was read and written behind each index, of pairs that were recognised.

    Columns: ``map_id, index_offset, index_width``; ``offset`` and ``width`` of the data register; ``index``; ``reads``,
    ``writes``; ``first`` and ``last`` value of the data. In the order of places and indexes.
    """

    def __init__(self) -> None:
        self._pairs = RunAnalysis(False, None, _follows, _PAIR_KEYS, _PAIR_HOW)
        self._totals = RunAnalysis(False, _counted, None, _TOTAL_KEYS, _TOTAL_HOW)

    def part(self, accesses: Accesses) -> PairsFound:
        return PairsFound(self._pairs.part(accesses), self._totals.part(accesses))

    def merged(self, first: PairsFound, then: PairsFound) -> PairsFound:
        return PairsFound(self._pairs.merged(first.pairs, then.pairs), self._totals.merged(first.totals, then.totals))

    def table(self, whole: PairsFound) -> pa.Table:
        rows = _recognised(self._pairs.whole(whole.pairs), self._totals.whole(whole.totals))
        rows["reads"] = np.where(rows["way"] == READ, rows["count"], 0)
        rows["writes"] = np.where(rows["way"] == WRITE, rows["count"], 0)
        rows = reduced(rows, _PAIR_KEYS[:-1], {"reads": "sum", "writes": "sum", "first": "first", "last": "last"})
        order = np.lexsort(tuple(rows[key] for key in reversed(_PAIR_KEYS[:-1])))
        return pa.table({name: pa.array(column[order]) for name, column in rows.items()})


def _follows(runs: Rows, before: Ints, after: Ints) -> Rows:
    which = (runs["way"][before] == WRITE) & (runs["way"][after] != OTHER)
    before, after = before[which], after[which]
    apart = (runs["offset"][before] - runs["offset"][after]).view(np.int64)
    which = (runs["map_id"][before] == runs["map_id"][after]) & (apart != 0) & (np.abs(apart) <= NEAR)
    which &= (runs["known"][before] == 1) & (runs["known"][after] == 1)
    before, after = before[which], after[which]
    data = runs["first"][after]
    return {
        "map_id": runs["map_id"][before],
        "index_offset": runs["offset"][before],
        "index_width": runs["width"][before],
        "offset": runs["offset"][after],
        "width": runs["width"][after],
        "index": runs["last"][before],
        "way": runs["way"][after],
        "count": np.ones(len(after), np.int64),
        "first": data,
        "last": data,
        "low": data,
        "high": data,
    }


def _counted(runs: Rows, whole: Bools) -> Rows:
    return {name: runs[name][whole] for name in _TOTAL_KEYS} | {"runs": np.ones(int(whole.sum()), np.int64)}


def _recognised(pairs: Rows, totals: Rows) -> Rows:
    """The rows of pairs that are surely some."""
    number, first = distinct(*(pairs[name] for name in _PAIR))
    places = taken({name: pairs[name] for name in _PAIR}, first)
    followed = np.bincount(number, pairs["count"], len(first))
    indexes = np.bincount(number, minlength=len(first))
    low = np.full(len(first), ~np.uint64(0))
    high = np.zeros(len(first), np.uint64)
    np.minimum.at(low, number, pairs["low"])
    np.maximum.at(high, number, pairs["high"])
    index = (places["map_id"], places["index_offset"], places["index_width"])
    data = (places["map_id"], places["offset"], places["width"])
    written, index_read = _total(totals, index, WRITE), _total(totals, index, READ)
    of_data = _total(totals, data, READ) + _total(totals, data, WRITE)
    good = (followed >= ENOUGH) & (indexes >= 2) & (low != high)
    good &= (followed >= NEARLY * written) & (followed >= NEARLY * of_data)
    good &= index_read <= (1 - NEARLY) * written
    return taken(pairs, good[number])


def _total(totals: Rows, place: Sequence[npt.NDArray[Any]], way: int) -> npt.NDArray[np.int64]:
    """Runs at each place."""
    of_way = taken(totals, totals["way"] == way)
    known = dict(zip(_tuples([of_way[name] for name in PLACE]), of_way["runs"].tolist(), strict=True))
    return np.array([known.get(one, 0) for one in _tuples(place)], np.int64)


def _tuples(columns: Sequence[npt.NDArray[Any]]) -> list[tuple[Any, ...]]:
    return list(zip(*(column.tolist() for column in columns), strict=True))
