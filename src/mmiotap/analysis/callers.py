"""The instructions behind the accesses to each register."""

import numpy as np
import pyarrow as pa

from mmiotap.analysis.accesses import PLACE, READ, WRITE, Accesses
from mmiotap.analysis.groups import How, Rows, joined, reduced, taken

_KEYS = (*PLACE, "pid", "pc")
_HOW: dict[str, How] = {"reads": "sum", "writes": "sum", "others": "sum"}


class Callers:
    """Which instructions access which register; those that are not known are left out.

    Columns: ``map_id, offset, width, pid, pc, reads, writes, others``. The most accesses come first.
    """

    def part(self, accesses: Accesses) -> Rows:
        rows = taken(accesses.rows, accesses.rows["pc"] != 0)
        each = {name: rows[name] for name in _KEYS} | {
            "reads": (rows["way"] == READ).astype(np.int64),
            "writes": (rows["way"] == WRITE).astype(np.int64),
            "others": (rows["way"] > WRITE).astype(np.int64),
        }
        return reduced(each, _KEYS, _HOW)

    def merged(self, first: Rows, then: Rows) -> Rows:
        return reduced(joined(first, then), _KEYS, _HOW)

    def table(self, whole: Rows) -> pa.Table:
        accesses = whole["reads"] + whole["writes"] + whole["others"]
        order = np.lexsort((whole["pc"], whole["offset"], -accesses))
        return pa.table({name: pa.array(whole[name][order]) for name in (*_KEYS, *_HOW)})
