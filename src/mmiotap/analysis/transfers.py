"""Block transfers: memory copied access by access to or from places that follow each other, or through one register."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from mmiotap.analysis.accesses import OTHER, Accesses, kinds
from mmiotap.analysis.groups import How, Rows, joined, taken
from mmiotap.analysis.runs import Bools, RunAnalysis, RunsFound, is_transfer

_KEYS = ("map_id", "offset", "width", "way", "onward", "pid", "pc")
_HOW: dict[str, How] = {
    "end": "max", "transfers": "sum", "accesses": "sum", "most": "max", "first_ns": "min", "total_ns": "sum",
}  # fmt: skip


@dataclass(frozen=True)
class TransfersFound:
    through: RunsFound
    onward: RunsFound


class Transfers:
    """Transfers, those of one instruction that begin at the same place together.

    Columns: ``map_id, offset, width, kind`` (read or write); ``onward``: whether it went from place to place, or all
    through one; ``end``: the first byte behind the longest; ``transfers``, their ``accesses`` and ``bytes``, and the
    ``most`` accesses of one; ``first_ns``, ``total_ns``; ``pid, pc``. Most bytes come first.
    """

    def __init__(self) -> None:
        self._through = RunAnalysis(False, _through, None, _KEYS, _HOW)
        self._onward = RunAnalysis(True, _onward, None, _KEYS, _HOW)

    def part(self, accesses: Accesses) -> TransfersFound:
        return TransfersFound(self._through.part(accesses), self._onward.part(accesses))

    def merged(self, first: TransfersFound, then: TransfersFound) -> TransfersFound:
        return TransfersFound(
            self._through.merged(first.through, then.through), self._onward.merged(first.onward, then.onward)
        )

    def table(self, whole: TransfersFound) -> pa.Table:
        rows = joined(self._through.whole(whole.through), self._onward.whole(whole.onward))
        rows["bytes"] = rows["accesses"] * rows["width"]
        rows = taken(rows, np.argsort(-rows["bytes"], kind="stable"))
        names = ("map_id", "offset", "width", "pid", "pc", *_HOW, "bytes")
        columns: dict[str, Any] = {name: pa.array(rows[name]) for name in names}
        columns["kind"] = kinds(rows["way"])
        columns["onward"] = pa.array(rows["onward"] == 1)
        return pa.table(columns)


def is_block(runs: Rows) -> Bools:
    """Whether runs onward are long enough to be one."""
    found: Bools = (runs["count"] >= 4) & (runs["way"] != OTHER)
    return found


def _through(runs: Rows, whole: Bools) -> Rows:
    return _rows(taken(runs, whole & is_transfer(runs)), 0)


def _onward(runs: Rows, whole: Bools) -> Rows:
    return _rows(taken(runs, whole & is_block(runs)), 1)


def _rows(runs: Rows, onward: int) -> Rows:
    count = len(runs["pid"])
    return {name: runs[name] for name in _KEYS if name != "onward"} | {
        "onward": np.full(count, onward, np.int64),
        "end": runs["end"] + runs["width"].astype(np.uint64),
        "transfers": np.ones(count, np.int64),
        "accesses": runs["count"],
        "most": runs["count"],
        "first_ns": runs["first_ns"],
        "total_ns": runs["last_ns"] - runs["first_ns"],
    }
