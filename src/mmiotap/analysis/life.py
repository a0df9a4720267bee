"""The life of each register: how often it was read and written, which values it had, which bits ever changed."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmiotap.analysis.accesses import PLACE, READ, WRITE, Accesses, changes
from mmiotap.analysis.groups import How, Rows, joined, reduced, taken
from mmiotap.trace.arrays import distinct

#: Distinct values of a register that are counted, and of these those that are told.
COUNTED, TOLD = 64, 8

Words = npt.NDArray[np.uint64]

_U = np.uint64
_HOW: dict[str, How] = {
    "reads": "sum", "writes": "sum", "others": "sum", "first_ns": "min", "last_ns": "max",
    "all": "all", "any": "any", "stayed": "any",
    "first_way": "first", "first_value": "first", "last_way": "last", "last_value": "last", "last_known": "last",
    "first_known": "first",
}  # fmt: skip
_VALUE = (*PLACE, "value")
_BIT = (*PLACE, "bit")
_FELL: dict[str, How] = {"count": "sum"}
_SEEN: dict[str, How] = {"count": "sum", "more": "max"}


@dataclass(frozen=True)
class LifeFound:
    places: Rows
    values: Rows
    falls: Rows  #: how often each bit was 1 and then 0 in reads behind each other


class Life:
    """Registers, the one with the most accesses first.

    Columns: ``map_id, offset, width``; ``reads, writes, others``; ``first_ns, last_ns``; ``values``, the most frequent
    ones that were read or written, and how often each (a list of structures ``value, count``), ``distinct``, how many
    there were (null: more than were counted); ``toggled``: bits that were 0 and 1; ``cleared_by_read``: bits that were
    never 1 in two reads behind each other, and at least twice 1 and then 0: reading seems to clear
    them.
    """

    def part(self, accesses: Accesses) -> LifeFound:
        rows = accesses.rows
        number, _ = distinct(*(rows[name] for name in PLACE))
        rows = taken(rows, np.argsort(number, kind="stable"))
        way, known, value = rows["way"], rows["known"] == 1, rows["value"]
        each = {name: rows[name] for name in PLACE} | {
            "reads": (way == READ).astype(np.int64),
            "writes": (way == WRITE).astype(np.int64),
            "others": (way > WRITE).astype(np.int64),
            "first_ns": rows["time_ns"],
            "last_ns": rows["time_ns"],
            "all": np.where(known, value, ~_U(0)),
            "any": value,
            "first_way": way,
            "first_value": value,
            "first_known": rows["known"],
            "last_way": way,
            "last_value": value,
            "last_known": rows["known"],
        }
        each["stayed"] = np.zeros(len(way), _U)
        falls = _falls(each)
        seen = taken({name: rows[name] for name in _VALUE}, known)
        seen |= {"count": np.ones(len(seen["value"]), np.int64), "more": np.zeros(len(seen["value"]), np.int64)}
        return LifeFound(reduced(each, PLACE, _HOW), _most(reduced(seen, _VALUE, _SEEN)), falls)

    def merged(self, first: LifeFound, then: LifeFound) -> LifeFound:
        rows = joined(first.places, then.places)
        number, _ = distinct(*(rows[name] for name in PLACE))
        rows = taken(rows, np.argsort(number, kind="stable"))
        falls = reduced(joined(first.falls, then.falls, _falls(rows)), _BIT, _FELL)
        values = reduced(joined(first.values, then.values), _VALUE, _SEEN)
        return LifeFound(reduced(rows, PLACE, _HOW), _most(values), falls)

    def table(self, whole: LifeFound) -> pa.Table:
        rows = whole.places
        accesses = rows["reads"] + rows["writes"] + rows["others"]
        rows = taken(rows, np.lexsort((rows["offset"], rows["map_id"], -accesses)))
        seen = _by_place(whole.values)
        told = [seen.get(place, ([], 0)) for place in zip(*(rows[name].tolist() for name in PLACE), strict=True)]
        names = (*PLACE, "reads", "writes", "others", "first_ns", "last_ns")
        columns: dict[str, Any] = {name: pa.array(rows[name]) for name in names}
        value = pa.struct([("value", pa.uint64()), ("count", pa.int64())])
        columns["values"] = pa.array([values[:TOLD] for values, _ in told], pa.list_(value))
        columns["distinct"] = pa.array([None if more else len(values) for values, more in told], pa.int64())
        columns["toggled"] = pa.array(rows["any"] & ~rows["all"])
        columns["cleared_by_read"] = pa.array(_fell_twice(rows, whole.falls) & ~rows["stayed"])
        return pa.table(columns)


def _falls(rows: Rows) -> Rows:
    """Bits that were 1 in a last read and 0 in the first one of the row behind; those that were 1 in both are added
    to ``stayed``. Rows of one register follow each other."""
    after = np.flatnonzero(~changes(rows, *PLACE))
    both = (rows["last_way"][after - 1] == READ) & (rows["first_way"][after] == READ)
    both &= (rows["last_known"][after - 1] == 1) & (rows["first_known"][after] == 1)
    after = after[both]
    one, other = rows["last_value"][after - 1], rows["first_value"][after]
    rows["stayed"][after] |= one & other
    fell = one & ~other
    after, fell = after[fell != 0], fell[fell != 0]
    bits = np.unpackbits(fell.view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
    row, bit = np.nonzero(bits)
    each = {name: rows[name][after[row]] for name in PLACE} | {"bit": bit, "count": np.ones(len(bit), np.int64)}
    return reduced(each, _BIT, _FELL)


def _fell_twice(places: Rows, falls: Rows) -> Words:
    """The bits that did so at least twice, of each place."""
    falls = taken(falls, falls["count"] >= 2)
    number, _ = distinct(*(np.concatenate([places[name], falls[name]]) for name in PLACE))
    found = np.zeros(len(places["offset"]), _U)
    np.bitwise_or.at(found, number[len(found) :], _U(1) << falls["bit"].astype(_U))
    return found


def _most(values: Rows) -> Rows:
    """Of each register the most frequent values; ``more``: it has had others."""
    number, first = distinct(*(values[name] for name in PLACE))
    of_place = np.bincount(number, minlength=len(first))
    if not len(first) or of_place.max() <= COUNTED:
        return values
    order = np.lexsort((values["value"], -values["count"], number))
    begun = np.cumsum(of_place) - of_place
    rank = np.arange(len(order)) - begun[number[order]]
    kept = taken(values, order[rank < COUNTED])
    crowded = of_place[number[order[rank < COUNTED]]] > COUNTED
    return kept | {"more": np.maximum(kept["more"], crowded)}


def _by_place(values: Rows) -> "dict[tuple[int, ...], tuple[list[dict[str, int]], int]]":
    order = np.lexsort((values["value"], -values["count"]))
    found: dict[tuple[int, ...], tuple[list[dict[str, int]], int]] = {}
    columns = (values[name][order].tolist() for name in (*PLACE, "value", "count", "more"))
    for *place, value, count, more in zip(*columns, strict=True):
        listed, other = found.get(tuple(place), ([], 0))
        found[tuple(place)] = ([*listed, {"value": value, "count": count}], max(other, more))
    return found
