"""How many accesses there were where and when: address × time, with memory for a picture, not for what happened.

Neither the addresses nor the end of the trace are known beforehand. The picture begins fine and is made coarser as it
needs to be: twice the time in each column, twice the addresses in each row of a mapping. So every event is counted
once, in the cell that it stays in.
"""

import numpy as np
import numpy.typing as npt

from mmiotap.analysis.alike import Ints, Words
from mmiotap.trace.arrays import distinct

#: Columns: intervals of time.
COLUMNS = 4096
#: Rows: addresses of all mappings.
ROWS = 1024
#: Threads that have a line of their own; the others share one.
THREADS = 63

Counts = npt.NDArray[np.uint64]


class Density:
    """Counts of accesses.

    :ivar cells: ``[way, column, row]``: reads (0) and all others (1).
    :ivar threads: ``[column, line]``.
    :ivar lines: which thread (pid, tid) each line is; of the last one, that of all others, None.
    :ivar origin_ns: where the first column begins.
    :ivar column_ns: time in a column, a power of two.
    """

    def __init__(self, columns: int = COLUMNS, rows: int = ROWS, threads: int = THREADS) -> None:
        self.cells: Counts = np.zeros((2, columns, rows), np.uint64)
        self.threads: Counts = np.zeros((columns, threads + 1), np.uint64)
        self.lines: dict[tuple[int, int], int] = {}
        self.origin_ns: int | None = None
        self.column_ns = 1
        self._shifts: dict[int, int] = {}
        self._rows: dict[tuple[int, int], int] = {}

    @property
    def places(self) -> list[tuple[int, int, int]]:
        """Mapping, first offset and bytes of each row."""
        return [(map_id, cell << self._shifts[map_id], 1 << self._shifts[map_id]) for map_id, cell in self._rows]

    def add(
        self,
        time_ns: Ints,
        group: Ints,
        *,
        reads: npt.NDArray[np.bool_],
        map_id: Ints,
        offset: Words,
        pid: Ints,
        tid: Ints,
    ) -> None:
        """Accesses in time order, none before those that were added.

        ``group`` says of each which of the groups it is in; all else is of the groups.
        """
        if not len(time_ns):
            return
        column = self._columns(time_ns)
        row = self._rows_of(map_id, offset)
        _, width, height = self.cells.shape
        place = np.where(reads, 0, width * height) + row
        np.add.at(self.cells.reshape(-1), place[group] + column * height, np.uint64(1))
        line = self._lines_of(pid, tid)
        lines = self.threads.shape[1]
        np.add.at(self.threads.reshape(-1), line[group] + column * lines, np.uint64(1))

    def _columns(self, time_ns: Ints) -> Ints:
        if self.origin_ns is None:
            self.origin_ns = int(time_ns[0])
        since = time_ns - self.origin_ns
        count = self.threads.shape[0]
        end = int(since[-1])
        twice = 0
        while end // (self.column_ns << twice) >= count:
            twice += 1
        if twice:
            self.column_ns <<= twice
            for counts in (*self.cells, self.threads):
                _fold(counts, min(1 << twice, count))
        return since // self.column_ns

    def _rows_of(self, map_id: Ints, offset: Words) -> Ints:
        for one in np.unique(map_id).tolist():
            self._shifts.setdefault(one, 0)
        while True:
            cell = offset >> self._shift(map_id)
            number, first = distinct(map_id, cell)
            wanted = list(zip(map_id[first].tolist(), cell[first].tolist(), strict=True))
            known = self._rows.keys() | set(wanted)
            if len(known) <= self.cells.shape[2]:
                break
            self._coarsen(known)
        for place in wanted:
            self._rows.setdefault(place, len(self._rows))
        return np.array([self._rows[place] for place in wanted], np.int64)[number]

    def _shift(self, map_id: Ints) -> Words:
        ids, of = np.unique(map_id, return_inverse=True)
        return np.array([self._shifts[one] for one in ids.tolist()], np.uint64)[of.reshape(-1)]

    def _coarsen(self, places: set[tuple[int, int]]) -> None:
        """Twice the addresses in each row of the mapping that has the most of ``places``."""
        counts: dict[int, int] = {}
        for map_id, _ in places:
            counts[map_id] = counts.get(map_id, 0) + 1
        largest = max(counts, key=lambda map_id: counts[map_id])
        self._shifts[largest] += 1
        rows: dict[tuple[int, int], int] = {}
        moved = np.zeros(len(self._rows), np.int64)
        for (map_id, cell), row in self._rows.items():
            moved[row] = rows.setdefault((map_id, cell >> 1 if map_id == largest else cell), len(rows))
        cells = np.zeros_like(self.cells)
        for old, new in enumerate(moved.tolist()):
            cells[:, :, new] += self.cells[:, :, old]
        self.cells, self._rows = cells, rows

    def _lines_of(self, pid: Ints, tid: Ints) -> Ints:
        others = self.threads.shape[1] - 1
        number, first = distinct(pid, tid)
        lines = []
        for thread in zip(pid[first].tolist(), tid[first].tolist(), strict=True):
            if thread not in self.lines and len(self.lines) < others:
                self.lines[thread] = len(self.lines)
            lines.append(self.lines.get(thread, others))
        return np.array(lines, np.int64)[number]


def _fold(counts: Counts, size: int) -> None:
    """So many columns become one."""
    columns = len(counts) // size
    counts[:columns] = counts.reshape(columns, size, -1).sum(1)
    counts[columns:] = 0
