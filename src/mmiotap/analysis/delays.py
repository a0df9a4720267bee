"""Delays: how long threads do nothing with the device, and what they did before."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from mmiotap.analysis.accesses import Accesses, changes, kinds, lasts, meeting
from mmiotap.analysis.groups import How, Rows, joined, reduced, taken

#: The longest gaps that are told one by one.
LONGEST = 32

_PLACE = ("map_id", "offset", "width", "way")
_EDGE = ("pid", "tid", "time_ns", *_PLACE)
_BEFORE: dict[str, How] = {"gaps": "sum", "total_ns": "sum", "shortest_ns": "min", "longest_ns": "max"}


@dataclass(frozen=True)
class DelaysFound:
    edges: Rows  #: the first and the last access of each thread
    before: Rows  #: gaps by the access before them
    longest: Rows


@dataclass(frozen=True)
class _Delays:
    def part(self, accesses: Accesses) -> DelaysFound:
        return accesses.once(DelaysFound, lambda: self._found(accesses))

    def _found(self, accesses: Accesses) -> DelaysFound:
        rows = {name: accesses.by_thread[name] for name in _EDGE}
        begins = changes(rows, "pid", "tid")
        after = np.flatnonzero(~begins)
        return DelaysFound(taken(rows, begins | lasts(begins)), *_gaps(taken(rows, after - 1), taken(rows, after)))

    def merged(self, first: DelaysFound, then: DelaysFound) -> DelaysFound:
        rows, begins, meets = meeting(first.edges, then.edges)
        after = np.flatnonzero(meets)
        before, longest = _gaps(taken(rows, after - 1), taken(rows, after))
        return DelaysFound(
            taken(rows, begins | lasts(begins)),
            reduced(joined(first.before, then.before, before), _PLACE, _BEFORE),
            _longest(joined(first.longest, then.longest, longest)),
        )


class Delays(_Delays):
    """The time from each access to the next one of its thread, by the register that was accessed before.

    Columns: ``map_id, offset, width, kind``; ``gaps``, their ``total_ns``, ``shortest_ns`` and ``longest_ns``. What
    took longest in all comes first.
    """

    def table(self, whole: DelaysFound) -> pa.Table:
        rows = taken(whole.before, np.argsort(-whole.before["total_ns"], kind="stable"))
        return pa.table(
            {name: pa.array(rows[name]) for name in ("map_id", "offset", "width")}
            | {"kind": kinds(rows["way"])}
            | {name: pa.array(rows[name]) for name in _BEFORE}
        )


class Gaps(_Delays):
    """The longest times in which a thread made no access, at most :data:`LONGEST`.

    Columns: ``gap_ns``; ``time_ns``, when it began; ``pid, tid``; ``map_id, offset, width, kind`` of the access before,
    and the same with ``next_`` of the one behind.
    """

    def table(self, whole: DelaysFound) -> pa.Table:
        rows = whole.longest
        columns: dict[str, Any] = {name: pa.array(rows[name]) for name in ("gap_ns", "time_ns", "pid", "tid")}
        for side in ("", "next_"):
            columns |= {side + name: pa.array(rows[side + name]) for name in ("map_id", "offset", "width")}
            columns[side + "kind"] = kinds(rows[side + "way"])
        return pa.table(columns)


def _gaps(before: Rows, after: Rows) -> tuple[Rows, Rows]:
    gap = after["time_ns"] - before["time_ns"]
    each = {name: before[name] for name in _PLACE} | {
        "gaps": np.ones(len(gap), np.int64),
        "total_ns": gap,
        "shortest_ns": gap,
        "longest_ns": gap,
    }
    told = {"gap_ns": gap} | before | {f"next_{name}": after[name] for name in _PLACE}
    return reduced(each, _PLACE, _BEFORE), _longest(told)


def _longest(rows: Rows) -> Rows:
    return taken(rows, np.lexsort((rows["time_ns"], -rows["gap_ns"]))[:LONGEST])
