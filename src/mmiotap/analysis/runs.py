"""Runs: accesses of one thread behind each other, all reads or all writes, to one place or from place to place.

Loops and transfers are runs; a read-modify-write is two neighbours. A run may go on in the next part of the trace:
the first and the last one of each thread wait at the edges until their neighbours are known.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmiotap.analysis.accesses import READ, WRITE, Accesses, changes, lasts, meeting
from mmiotap.analysis.groups import How, Rows, joined, reduced, taken

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

_SAME = ("pid", "tid", "map_id", "width", "way")
_U = np.uint64

#: Columns of a run beside those of :data:`_SAME`: ``offset`` and ``first_pc`` of its first access, ``end``
#: and ``pc`` of its last; ``all`` and
#: ``any`` are the bits that all, and any, values but the last have; ``changes`` counts values unlike the one before.
_MERGE: dict[str, How] = {
    "offset": "first", "end": "last", "first_pc": "first", "pc": "last", "count": "sum", "first_ns": "first",
    "last_ns": "last", "first": "first", "last": "last", "all": "all", "any": "any", "changes": "sum", "known": "min",
}  # fmt: skip


@dataclass(frozen=True)
class RunsFound:
    """What was found in a part.

    :ivar edges: the first and the last run of each thread, in this order; one that is both is there once.
    :ivar found: what the others have become.
    """

    edges: Rows
    found: Rows


@dataclass(frozen=True)
class RunAnalysis:
    """An analysis that looks at runs, and at neighbours.

    :ivar onward: a run goes from place to place, each begins where the last one ends; else it stays at one.
    :ivar of_runs: makes rows of some runs, which are whole.
    :ivar of_neighbours: makes rows of runs, by their numbers, and those that follow them in their thread. Of the one
        before it may look at the last access only, of the one behind at the first.
    :ivar keys: of these rows, which are merged as ``how`` says.
    """

    onward: bool
    of_runs: Callable[[Rows, Bools], Rows] | None
    of_neighbours: Callable[[Rows, Ints, Ints], Rows] | None
    keys: Sequence[str]
    how: Mapping[str, How]

    def part(self, accesses: Accesses) -> RunsFound:
        runs, _ = runs_of(accesses, onward=self.onward)
        begins = changes(runs, "pid", "tid")
        inner = ~begins & ~lasts(begins)
        after = np.flatnonzero(~begins)
        return RunsFound(taken(runs, ~inner), self._reduced(*self._of(runs, inner, after)))

    def merged(self, first: RunsFound, then: RunsFound) -> RunsFound:
        rows, _, meets = meeting(first.edges, then.edges)
        new = _begins(rows, self.onward) | ~meets
        met = self._of(rows, np.zeros(len(new), np.bool_), np.flatnonzero(meets & new))
        rows = _coalesced(rows, new)
        begins = changes(rows, "pid", "tid")
        inner = ~begins & ~lasts(begins)
        closed = self._of(rows, inner, np.zeros(0, np.int64))
        return RunsFound(taken(rows, ~inner), self._reduced(first.found, then.found, *met, *closed))

    def whole(self, found: RunsFound) -> Rows:
        """All rows, if there is nothing before and behind."""
        every = np.ones(len(found.edges["pid"]), np.bool_)
        return self._reduced(found.found, *self._of(found.edges, every, np.zeros(0, np.int64)))

    def _of(self, runs: Rows, whole: Bools, after: Ints) -> list[Rows]:
        """Rows of runs that are whole, and of those that follow the one before."""
        found = [self.of_runs(runs, whole)] if self.of_runs else []
        if self.of_neighbours:
            found.append(self.of_neighbours(runs, after - 1, after))
        return found

    def _reduced(self, *rows: Rows) -> Rows:
        return reduced(joined(*rows), self.keys, self.how)


def runs_of(accesses: Accesses, *, onward: bool) -> tuple[Rows, Ints]:
    """The runs in accesses ordered by thread, and the number of the one that each access is in.

    ``onward``: as for :class:`RunAnalysis`.
    """
    return accesses.once((runs_of, onward), lambda: _runs(accesses.by_thread, onward))


def _runs(rows: Rows, onward: bool) -> tuple[Rows, Ints]:
    count = len(rows["pid"])
    each = rows | {
        "end": rows["offset"],
        "first_pc": rows["pc"],
        "count": np.ones(count, np.int64),
        "first_ns": rows["time_ns"],
        "last_ns": rows["time_ns"],
        "first": rows["value"],
        "last": rows["value"],
        "all": np.full(count, ~_U(0)),
        "any": np.zeros(count, _U),
        "changes": np.zeros(count, np.int64),
    }
    new = _begins(each, onward)
    return _coalesced(each, new), np.cumsum(new) - 1


def _begins(rows: Rows, onward: bool) -> Bools:
    """Whether each row begins a run, and does not continue that of the row before."""
    found: Bools = changes(rows, *_SAME)
    step = rows["width"][1:].astype(_U) if onward else _U(0)
    found[1:] |= rows["offset"][1:] != rows["end"][:-1] + step
    return found


def _coalesced(rows: Rows, new: Bools) -> Rows:
    """One row for each that is new, of it and those behind it that are not."""
    starts = np.flatnonzero(new)
    ends = np.append(starts[1:], len(new)) - 1
    found = {name: rows[name][starts] for name in _SAME}
    if not len(starts):
        return found | {name: rows[name] for name in _MERGE}
    # Of a row that another one follows the last value is one of those before the last.
    follows = np.ones(len(new), np.bool_)
    follows[ends] = False
    turned = np.zeros(len(new), np.int64)
    turned[1:] = (rows["first"][1:] != rows["last"][:-1]) & ~new[1:]
    columns = rows | {
        "all": rows["all"] & np.where(follows, rows["last"], ~_U(0)),
        "any": rows["any"] | np.where(follows, rows["last"], _U(0)),
        "changes": rows["changes"] + turned,
    }
    for name, how in _MERGE.items():
        column = columns[name]
        if how in ("first", "last"):
            found[name] = column[starts if how == "first" else ends]
        else:
            reduce = {"sum": np.add, "min": np.minimum, "all": np.bitwise_and, "any": np.bitwise_or}[how]
            found[name] = reduce.reduceat(column, starts)
    return found


def is_transfer(runs: Rows) -> Bools:
    """Whether runs at one place are data that pass through it: writes, or reads that mostly differ from the last."""
    enough = runs["count"] >= 4
    passing = (runs["way"] == WRITE) | ((runs["way"] == READ) & (4 * runs["changes"] >= 3 * runs["count"]))
    found: Bools = enough & passing
    return found
