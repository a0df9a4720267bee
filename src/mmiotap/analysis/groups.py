"""Rows that become one for each combination of some keys: so parts of a trace become small, and small ones one."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmiotap.trace.arrays import distinct

#: Columns of one length.
Rows: TypeAlias = dict[str, npt.NDArray[Any]]

#: How a column becomes one value. ``all`` and ``any`` are of bits; ``first`` and ``last`` as the rows are in order.
How: TypeAlias = Literal["sum", "min", "max", "all", "any", "first", "last"]

_REDUCE: dict[str, np.ufunc] = {
    "sum": np.add, "min": np.minimum, "max": np.maximum, "all": np.bitwise_and, "any": np.bitwise_or,
}  # fmt: skip

#: Rows that may pile up before they are merged.
PENDING_ROWS = 1 << 18

Some = TypeVar("Some")


class Pile(Generic[Some]):
    """Rows, in whatever form, that are merged when many wait.

    Holds what is merged, and at most as many rows (or :data:`PENDING_ROWS`, and those that came last) that wait. A row
    is therefore merged few times, however long the trace is.
    """

    def __init__(self, none: Some, merge: Callable[[Sequence[Some]], Some], height: Callable[[Some], int]) -> None:
        """``none`` has no rows; ``merge`` makes all rows that it gets those that are left of them."""
        self._rows = [none]
        self._merge, self._height = merge, height

    def add(self, rows: Some) -> None:
        self._rows.append(rows)
        merged, *waiting = map(self._height, self._rows)
        if sum(waiting) > max(PENDING_ROWS, merged):
            self._rows = [self.merged()]

    def merged(self) -> Some:
        return self._merge(self._rows)


def grouped(table: pa.Table, keys: list[str], how: Sequence[tuple[str, Any]]) -> pa.Table:
    """One row a combination of keys, in the order in which these first appear; columns keep their names.

    What is first and last follows the order of the rows.
    """
    found = table.group_by(keys, use_threads=False).aggregate(list(how))
    names = [*keys, *(name for name, _ in how)]
    return found.select([*keys, *(f"{name}_{way}" for name, way in how)]).rename_columns(names)


def reduced(rows: Rows, keys: Sequence[str], how: Mapping[str, How]) -> Rows:
    """One row a combination of keys, in the order in which these first appear. Keys are of 64 bits."""
    number, first = distinct(*(rows[key] for key in keys))
    found = {key: rows[key][first] for key in keys}
    if not len(first):
        return found | {name: rows[name] for name in how}
    order = np.argsort(number, kind="stable")
    starts = np.searchsorted(number[order], np.arange(len(first)))
    ends = np.append(starts[1:], len(order)) - 1
    for name, way in how.items():
        if way in ("first", "last"):
            found[name] = rows[name][order[starts if way == "first" else ends]]
        else:
            found[name] = _REDUCE[way].reduceat(rows[name][order], starts)
    return found


def joined(*parts: Rows) -> Rows:
    """The rows of all, one behind the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def taken(rows: Rows, which: npt.NDArray[Any]) -> Rows:
    """Some rows: their numbers, or a truth for each."""
    return {name: column[which] for name, column in rows.items()}


def height(rows: Rows) -> int:
    return len(next(iter(rows.values())))
