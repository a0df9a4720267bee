"""Polling loops: a thread reads one register again and again, until it says something.

Two reads of which the second is different are a loop that waited once; three that are the same are one that found
nothing. Where most reads differ from the one before, data pass through the register: that is a transfer.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmiotap.analysis.accesses import PLACE, READ, THREAD
from mmiotap.analysis.alike import Alike
from mmiotap.analysis.groups import How, Rows, taken
from mmiotap.analysis.runs import Bools, RunAnalysis, RunsFound, is_transfer
from mmiotap.trace.arrays import distinct

Words = npt.NDArray[np.uint64]

_U = np.uint64
_KEYS = (*PLACE, "pid", "pc")
_HOW: dict[str, How] = {
    "loops": "sum", "ended": "sum", "reads": "sum", "most": "max", "first_ns": "min", "total_ns": "sum",
    "longest_ns": "max", "differing": "all", "ones": "any", "zeros": "any",
}  # fmt: skip


class Polls(RunAnalysis):
    """Loops, those of one instruction and register together.

    Columns: ``map_id, offset, width, pid, pc`` (of the read; 0: not known); ``loops``, and how many of them ``ended``
    with another value than they had read before; ``reads``, the ``most`` of one loop; ``first_ns``, when the first
    began; ``total_ns`` and ``longest_ns`` from a loop's first read to its last. ``mask`` and ``value`` are the
    condition: each loop that ended had waited for ``read & mask == value``; 0 where no bit was always the reason. What
    took longest comes first.
    """

    def __init__(self) -> None:
        super().__init__(False, _loops, None, _KEYS, _HOW)

    def table(self, whole: RunsFound) -> pa.Table:
        rows = self.whole(whole)
        mask = np.where(rows["ended"] > 0, rows["differing"] & ~(rows["ones"] & rows["zeros"]), _U(0))
        names = (*_KEYS, "loops", "ended", "reads", "most", "first_ns", "total_ns", "longest_ns")
        columns = {name: rows[name] for name in names} | {"mask": mask, "value": rows["ones"] & mask}
        order = np.argsort(-rows["total_ns"], kind="stable")
        return pa.table({name: pa.array(column[order]) for name, column in columns.items()})


def repeated(seen: Alike) -> pa.Table:
    """Events of which :class:`Polls` says the same as of all: accesses that have a neighbour at the same place, the
    first and the last one of each thread, and so many others that what was apart stays apart."""
    columns = {name: seen.groups[name].to_numpy().astype(np.int64) for name in ("kind", *PLACE, *THREAD)}
    place, thread = (distinct(*(columns[name] for name in names))[0] for names in (columns, THREAD))
    order = np.argsort(thread.astype(np.uint32)[seen.group], kind="stable")
    place, thread = place[seen.group[order]], thread[seen.group[order]]
    # Whether two accesses that follow each other are at one place, or of two threads.
    joined = (place[1:] == place[:-1]) | (thread[1:] != thread[:-1])
    needed = np.append(True, joined) | np.append(joined, True)
    # Where some are left out the first of them stays, and if what comes next is at its place the second, too.
    kept = np.flatnonzero(needed)
    behind = kept[:-1] + 1
    again = place[behind] == place[kept[1:]]
    needed[behind] = True
    needed[behind[again & (behind < kept[1:])] + 1] = True
    return seen.events.take(np.sort(order[needed]))


def is_poll(runs: Rows) -> Bools:
    """Whether runs at one place are polling loops."""
    several = (runs["count"] >= 3) | ((runs["count"] == 2) & (runs["changes"] > 0))
    found: Bools = several & (runs["way"] == READ) & (runs["known"] == 1) & ~is_transfer(runs)
    return found


def differing(runs: Rows) -> Words:
    """The bits of a run's last value that none of the values before it had."""
    last: Words = runs["last"]
    zeros, ones = ~runs["any"], runs["all"]
    found: Words = ((last & zeros) | (~last & ones)) & ~_U(0) >> (64 - 8 * runs["width"].clip(1, 8)).astype(_U)
    return found


def _loops(runs: Rows, whole: Bools) -> Rows:
    runs = taken(runs, whole & is_poll(runs))
    bits = differing(runs)
    ended = bits != 0
    took = runs["last_ns"] - runs["first_ns"]
    return {key: runs[key] for key in _KEYS} | {
        "loops": np.ones(len(bits), np.int64),
        "ended": ended.astype(np.int64),
        "reads": runs["count"],
        "most": runs["count"],
        "first_ns": runs["first_ns"],
        "total_ns": took,
        "longest_ns": took,
        "differing": np.where(ended, bits, ~_U(0)),
        "ones": np.where(ended, runs["last"], _U(0)),
        "zeros": np.where(ended, ~runs["last"], _U(0)),
    }
