"""Read-modify-writes: a thread reads a register, and what it does next is to write it."""

import numpy as np
import pyarrow as pa

from mmiotap.analysis.accesses import PLACE, READ, WRITE, Accesses
from mmiotap.analysis.groups import How, Rows, taken
from mmiotap.analysis.runs import Bools, RunAnalysis, RunsFound

_KEYS = (*PLACE, "set", "cleared")
_HOW: dict[str, How] = {"count": "sum", "first_ns": "min", "pid": "first", "pc": "first"}


class Modifies:
    """Read-modify-writes, those that change the same bits of the same register together.

    Columns: ``map_id, offset, width``; the bits that were ``set`` and ``cleared``; ``count``; ``first_ns``, when the
    first was written; ``pid`` and ``pc`` of that write. What was done most comes first.
    """

    def __init__(self) -> None:
        self._runs = RunAnalysis(False, None, _modified, _KEYS, _HOW)

    def part(self, accesses: Accesses) -> RunsFound:
        return self._runs.part(accesses)

    def merged(self, first: RunsFound, then: RunsFound) -> RunsFound:
        return self._runs.merged(first, then)

    def table(self, whole: RunsFound) -> pa.Table:
        rows = self._runs.whole(whole)
        order = np.lexsort((rows["first_ns"], -rows["count"]))
        return pa.table({name: pa.array(rows[name][order]) for name in (*_KEYS, *_HOW)})


def is_modify(before: Rows, after: Rows) -> Bools:
    """Whether runs and those behind them read a register and write it."""
    found: Bools = (before["way"] == READ) & (after["way"] == WRITE)
    found &= (before["known"] == 1) & (after["known"] == 1)
    for name in PLACE:
        found &= before[name] == after[name]
    return found


def _modified(before: Rows, after: Rows) -> Rows:
    which = is_modify(before, after)
    before, after = taken(before, which), taken(after, which)
    return {name: after[name] for name in PLACE} | {
        "set": after["first"] & ~before["last"],
        "cleared": before["last"] & ~after["first"],
        "count": np.ones(len(before["last"]), np.int64),
        "first_ns": after["first_ns"],
        "pid": after["pid"],
        "pc": after["first_pc"],
    }
