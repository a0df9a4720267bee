"""The accesses in a part of a trace, as numpy columns."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmiotap.analysis.groups import Rows, joined, taken
from mmiotap.analysis.select import ACCESSES
from mmiotap.trace import layout

Made = TypeVar("Made")

#: Columns of the events that are needed.
COLUMNS = (
    "time_ns", "duration_ns", "kind", "width", "map_id", "offset", "value", "pc", "pid", "tid", "flags",
)  # fmt: skip

#: Directions, the column ``way``.
READ, WRITE, OTHER = range(3)

#: What names a register, and what a thread.
PLACE = ("map_id", "offset", "width")
THREAD = ("pid", "tid")


@dataclass(frozen=True)
class Accesses:
    """Reads, writes and accesses of unknown direction. All columns have 64 bits.

    :ivar rows: ``row``, its number in the table; ``time_ns, way, width, map_id, offset``; ``value`` (0 where it is not
        known; the low 8 bytes of a wider one), ``known`` (1: the value is); ``duration_ns`` (−1: not known); ``pc, pid,
        tid``. In the order of the table, which is that of time.
    """

    rows: Rows
    #: What was made of them, by whom it was made: several analyses need the same.
    made: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, table: pa.Table) -> "Accesses":
        """Those of a table with :data:`COLUMNS`, and maybe others."""
        way: Any = pc.index_in(table["kind"].cast(pa.string()), pa.array(ACCESSES))
        access = pc.is_valid(way)
        row = np.arange(table.num_rows)
        if not pc.all(access).as_py():
            table, way = table.filter(access), way.filter(access)
            row = np.flatnonzero(access.to_numpy())
        known = (table["flags"].to_numpy() & np.uint32(layout.VALUE_UNKNOWN)) == 0
        rows: Rows = {"row": row, "way": way.to_numpy().astype(np.int64)}
        known &= rows["way"] != OTHER
        for name in ("time_ns", "width", "map_id", "pid", "tid"):
            rows[name] = table[name].to_numpy().astype(np.int64)
        for name in ("offset", "pc"):
            rows[name] = table[name].to_numpy()
        rows["value"] = np.where(known, table["value"].to_numpy(), np.uint64(0))
        rows["known"] = known.astype(np.int64)
        took: Any = table["duration_ns"].cast(pa.int64())
        rows["duration_ns"] = took.fill_null(-1).to_numpy()
        return cls(rows)

    def once(self, key: Any, make: Callable[[], Made]) -> Made:
        """What ``make`` makes of these accesses, which is remembered by this key."""
        if key not in self.made:
            self.made[key] = make()
        made: Made = self.made[key]
        return made

    @functools.cached_property
    def by_thread(self) -> Rows:
        """The same, those of one thread behind each other, each thread's in their order."""
        return taken(self.rows, np.lexsort((self.rows["tid"], self.rows["pid"])))


def changes(rows: Rows, *names: str) -> Any:
    """Whether each row differs from the one before it in some column. The first one does."""
    found = np.ones(len(rows[names[0]]), np.bool_)
    if len(found):
        found[1:] = False
        for name in names:
            found[1:] |= rows[name][1:] != rows[name][:-1]
    return found


def lasts(begins: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which rows are the last of their group, from which ones are the first."""
    return np.append(begins[1:], True)[: len(begins)]


def meeting(first: Rows, then: Rows) -> tuple[Rows, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Rows of two parts that follow each other, thread by thread; which are a thread's first, and which are the first
    of ``then`` behind rows of ``first``."""
    rows = joined(first, then)
    side = np.repeat([0, 1], [len(first["pid"]), len(then["pid"])])
    order = np.lexsort((rows["tid"], rows["pid"]))
    rows, side = taken(rows, order), side[order]
    begins = changes(rows, "pid", "tid")
    return rows, begins, ~begins & changes({"side": side}, "side")


def kinds(way: Any) -> Any:
    """Words for directions."""
    return pa.array(np.select([way == READ, way == WRITE], ["read", "write"], "unknown").tolist(), pa.string())
