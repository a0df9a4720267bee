"""Read-modify-writes: a thread reads a register, and what it does next is to write it."""

import numpy as np
import pyarrow as pa

from mmiotap.analysis.accesses import PLACE, READ, WRITE
from mmiotap.analysis.groups import How, Rows, taken
from mmiotap.analysis.runs import Bools, Ints, RunAnalysis, RunsFound

_KEYS = (*PLACE, "set", "cleared")
_HOW: dict[str, How] = {"count": "sum", "first_ns": "min", "pid": "first", "pc": "first"}


class Modifies(RunAnalysis):
    """Read-modify-writes, those that change the same bits of the same register together.

    Columns: ``map_id, offset, width``; the bits that were ``set`` and ``cleared``; ``count``; ``first_ns``, when the
    first was written; ``pid`` and ``pc`` of that write. What was done most comes first.
    """

    def __init__(self) -> None:
        super().__init__(False, None, _modified, _KEYS, _HOW)

    def table(self, whole: RunsFound) -> pa.Table:
        rows = self.whole(whole)
        order = np.lexsort((rows["first_ns"], -rows["count"]))
        return pa.table({name: pa.array(rows[name][order]) for name in (*_KEYS, *_HOW)})


def is_modify(runs: Rows, before: Ints, after: Ints) -> Bools:
    """Whether runs and those behind them, by their numbers, read a register and write it."""
    found: Bools = (runs["way"][before] == READ) & (runs["way"][after] == WRITE)
    found &= (runs["known"][before] == 1) & (runs["known"][after] == 1)
    for name in PLACE:
        found &= runs[name][before] == runs[name][after]
    return found


def _modified(runs: Rows, before: Ints, after: Ints) -> Rows:
    which = is_modify(runs, before, after)
    read, written = runs["last"][before[which]], runs["first"][after[which]]
    writes = taken(runs, after[which])
    return {name: writes[name] for name in PLACE} | {
        "set": written & ~read,
        "cleared": read & ~written,
        "count": np.ones(len(read), np.int64),
        "first_ns": writes["first_ns"],
        "pid": writes["pid"],
        "pc": writes["first_pc"],
    }
