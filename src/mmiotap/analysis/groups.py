"""Rows that become one for each combination of some keys: so parts of a trace become small, and small ones one."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from mmiotap.trace.arrays import distinct

#: Columns of one length.
Rows: TypeAlias = dict[str, npt.NDArray[Any]]

#: How a column becomes one value. ``all`` and ``any`` are of bits; ``first`` and ``last`` as the rows are in order.
How: TypeAlias = Literal["sum", "min", "max", "all", "any", "first", "last"]

_REDUCE: dict[str, np.ufunc] = {
    "sum": np.add, "min": np.minimum, "max": np.maximum, "all": np.bitwise_and, "any": np.bitwise_or,
}  # fmt: skip


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
