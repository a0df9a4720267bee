"""Tables that are in time order, made one stream in time order; with memory for those only that overlap."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa


@dataclass
class Source:
    """Tables with a column ``time_ns``, each in time order, and one after the other."""

    first_ns: int  #: no row is earlier
    tables: Iterator[pa.Table]


@dataclass
class _Open:
    """A source that is being read."""

    rank: int
    tables: Iterator[pa.Table]
    head: pa.Table
    times: npt.NDArray[np.int64] = field(init=False)
    following: pa.Table | None = field(init=False)

    def __post_init__(self) -> None:
        self.times = self.head["time_ns"].to_numpy()
        self.following = next(self.tables, None)

    def take(self, until_ns: int, *, ties: bool) -> pa.Table:
        """Remove the rows before a time from the head; with ``ties`` those at this time, too."""
        rows = int(np.searchsorted(self.times, until_ns, side="right" if ties else "left"))
        taken = self.head.slice(0, rows)
        self.head, self.times = self.head.slice(rows), self.times[rows:]
        return taken

    def go_on(self) -> bool:
        """Where the head is used up, take the next one. False: there is none."""
        if len(self.times):
            return True
        if self.following is None:
            return False
        self.head = self.following
        self.__post_init__()
        return True


def merge(sources: Sequence[Source]) -> Iterator[pa.Table]:
    """All rows in time order; at the same time those of an earlier source first.

    A source is opened when the time of its first row has come; of each open one two tables are in memory.
    """
    waiting = sorted(enumerate(sources), key=lambda pair: pair[1].first_ns, reverse=True)
    active: list[_Open] = []
    while waiting or active:
        # Of a head with more behind it, what follows its end is not known yet: go so far, and no further.
        ends = [int(one.times[-1]) for one in active if one.following is not None]
        until_ns = min(ends) if ends else max((int(one.times[-1]) for one in active), default=0)
        if waiting and (not active or waiting[-1][1].first_ns <= until_ns):
            rank, source = waiting.pop()
            if (head := next(source.tables, None)) is not None:
                active.append(_Open(rank, source.tables, head))
                active.sort(key=lambda one: one.rank)
            continue
        # Rows at that very time may follow in the next head of a source, and come before those of later sources.
        unsure = min(
            (one.rank for one in active if one.following is not None and one.times[-1] == until_ns), default=None
        )
        taken = [one.take(until_ns, ties=unsure is None or one.rank <= unsure) for one in active]
        if rows := [table for table in taken if table.num_rows]:
            yield _in_order(rows)
        active = [one for one in active if one.go_on()]


def _in_order(tables: list[pa.Table]) -> pa.Table:
    if len(tables) == 1:
        return tables[0]
    table = pa.concat_tables(tables).combine_chunks()
    return table.take(np.argsort(table["time_ns"].to_numpy(), kind="stable"))
