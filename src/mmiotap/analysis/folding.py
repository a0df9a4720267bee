"""Events of which some stand for others: a polling loop is its last read, a transfer its first access.

Tables come and go, and a loop may go on in the next one. So what threads were doing at the end of a table waits until
it is over, or until too much waits: then it is cut in two.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmiotap.analysis.accesses import READ, Accesses, changes, lasts
from mmiotap.analysis.groups import Rows, taken
from mmiotap.analysis.modifies import is_modify
from mmiotap.analysis.polls import differing, is_poll
from mmiotap.analysis.runs import is_transfer, runs_of
from mmiotap.analysis.transfers import is_block

#: Events that wait at most, and those of one table.
WAITING = 1 << 16

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Runs:
    """The runs in a table of events.

    :ivar rows: see :class:`mmiotap.analysis.runs.RunAnalysis`.
    :ivar begin: the number in the table of the first access of each.
    :ivar end: that of its last one.
    :ivar row: the number in the table of each access, those of a run behind each other.
    :ivar run: the number of its run.
    """

    rows: Rows
    begin: Ints
    end: Ints
    row: Ints
    run: Ints

    @classmethod
    def of(cls, accesses: Accesses, *, onward: bool = False) -> "Runs":
        by_thread = accesses.by_thread
        rows, run = runs_of(accesses, onward=onward)
        begins = np.searchsorted(run, np.arange(len(rows["pid"])))
        ends = np.append(begins[1:], len(run)) - 1
        row = by_thread["row"]
        return cls(rows, row[begins], row[ends] if len(row) else begins, row, run)


@dataclass(frozen=True)
class Fold:
    """What an event stands for beside itself.

    :ivar what: "poll", "transfer" or "modify".
    :ivar count: accesses in all.
    :ivar took_ns: from the first of them to the last.
    :ivar ones: of a loop the bits that ended it because they were 1; of a read-modify-write those that it set.
    :ivar zeros: the same of those that were 0, or that it cleared.
    :ivar last: the offset of the last access.
    """

    what: str
    count: int
    took_ns: int
    ones: int
    zeros: int
    last: int


def without_polls(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The accesses of some tables, of each polling loop only the last read.

    What is read and read again counts as one, too, unless data pass through the register.
    """
    waiting: list[pa.Table] = []
    for table in itertools.chain(tables, (None,)):
        together = [*waiting, *([] if table is None else [table])]
        if not together:
            return
        whole = pa.concat_tables(together)
        runs = Runs.of(Accesses.of(whole))
        reads = (runs.rows["way"] == READ) & (runs.rows["known"] == 1) & ~is_transfer(runs.rows)
        kept = np.ones(whole.num_rows, np.bool_)
        kept[runs.row[reads[runs.run]]] = False
        kept[runs.end] = True
        edge = whole.num_rows
        if table is not None:
            open_ = reads & _open(runs, whole, table)
            edge = _uncut(runs, int(runs.begin[open_].min(initial=edge)))
            if whole.num_rows - edge > WAITING:
                # What the loops have read so far becomes one read each, with which they go on.
                edge = int(runs.end[open_].min(initial=whole.num_rows))
        yield whole.slice(0, edge).filter(pa.array(kept[:edge]))
        waiting = [whole.slice(edge)]


def folded(tables: Iterable[pa.Table]) -> Iterator[tuple[pa.Table, dict[int, Fold]]]:
    """Tables of what is left, and what some of their rows stand for.

    A loop has the place and the time of its first read, and the value of its last one; a transfer those of its first
    access, a read-modify-write those of its write.
    """
    waiting: list[pa.Table] = []
    for table in itertools.chain(tables, (None,)):
        together = [*waiting, *([] if table is None else [table])]
        if not together:
            return
        whole = pa.concat_tables(together)
        edge = whole.num_rows
        if table is not None:
            accesses = Accesses.of(whole)
            each = [Runs.of(accesses, onward=onward) for onward in (False, True)]
            edge = min(int(runs.begin[_open(runs, whole, table)].min(initial=edge)) for runs in each)
            before = edge + 1
            while edge < before:
                before, edge = edge, min(_uncut(runs, edge) for runs in each)
            if whole.num_rows - edge > WAITING:
                edge = whole.num_rows
        yield _fold(whole.slice(0, edge))
        waiting = [whole.slice(edge)]


def _open(runs: Runs, whole: pa.Table, table: pa.Table) -> Bools:
    """The runs that may go on behind ``table``, the last of the whole: the last ones of threads that were there."""
    begins = changes(runs.rows, "pid", "tid")
    found: Bools = lasts(begins) & (runs.end >= whole.num_rows - table.num_rows)
    return found


def _uncut(runs: Runs, edge: int) -> int:
    """The last place up to this edge that is in no run, and not between a read and what follows it in its thread."""
    follows = ~changes(runs.rows, "pid", "tid")[1:] & (runs.rows["way"][:-1] == READ)
    ends = runs.end.copy()
    ends[:-1][follows] = runs.begin[1:][follows]
    while (lower := int(runs.begin[ends >= edge].min(initial=edge))) < edge:
        edge = lower
    return edge


def _fold(table: pa.Table) -> tuple[pa.Table, dict[int, Fold]]:
    accesses = Accesses.of(table)
    same, onward = Runs.of(accesses), Runs.of(accesses, onward=True)
    polls, through, blocks = is_poll(same.rows), is_transfer(same.rows), is_block(onward.rows)
    kept = np.ones(table.num_rows, np.bool_)
    kept[same.row[(polls | through)[same.run]]] = False
    kept[onward.row[blocks[onward.run]]] = False
    writes = _modifying(same, kept)
    kept[same.end[writes - 1]] = False
    folds = {
        **_folds("poll", same, polls),
        **_folds("transfer", same, through),
        **_folds("transfer", onward, blocks),
        **_modifies(same, writes),
    }
    kept[list(folds)] = True
    number = np.cumsum(kept) - 1
    value = table["value"].to_numpy().copy()
    value[same.begin[polls]] = same.rows["last"][polls]
    at = table.schema.get_field_index("value")
    shown = table.set_column(at, table.schema.field(at), pa.array(value)).filter(pa.array(kept))
    return shown, {int(number[row]): fold for row, fold in folds.items()}


def _modifying(runs: Runs, kept: Bools) -> Ints:
    """The runs that begin with the write of a read-modify-write, of those whose accesses are kept."""
    after = np.flatnonzero(~changes(runs.rows, "pid", "tid"))
    pairs = is_modify(runs.rows, after - 1, after)
    found: Ints = after[pairs & kept[runs.end[after - 1]] & kept[runs.begin[after]]]
    return found


def _folds(what: str, runs: Runs, which: Bools) -> dict[int, Fold]:
    """Each of some runs by the row of its first access."""
    rows = taken(runs.rows, which)
    took = rows["last_ns"] - rows["first_ns"]
    bits = differing(rows) if what == "poll" else np.zeros(len(took), np.uint64)
    columns = (rows["count"], took, bits & rows["last"], bits & ~rows["last"], rows["end"])
    folds = (Fold(what, *one) for one in zip(*(column.tolist() for column in columns), strict=True))
    return dict(zip(runs.begin[which].tolist(), folds, strict=True))


def _modifies(runs: Runs, writes: Ints) -> dict[int, Fold]:
    """Each read-modify-write by the row of its write."""
    before, written = runs.rows["last"][writes - 1], runs.rows["first"][writes]
    took = runs.rows["first_ns"][writes] - runs.rows["last_ns"][writes - 1]
    columns = (took, written & ~before, before & ~written, runs.rows["offset"][writes])
    folds = (Fold("modify", 2, *one) for one in zip(*(column.tolist() for column in columns), strict=True))
    return dict(zip(runs.begin[writes].tolist(), folds, strict=True))
