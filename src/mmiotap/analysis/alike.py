"""The accesses of a batch, those that are alike counted as one.

A driver does the same few things over and over: of 65,536 accesses a few hundred are distinct. What is counted later is
counted of these.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmiotap.trace import layout
from mmiotap.trace.arrays import distinct

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

#: Columns of the events that are needed.
COLUMNS = ("time_ns", "duration_ns", "kind", "width", "map_id", "offset", "value", "data", "pc", "pid", "tid", "flags")

#: Accesses that agree in all of these are alike.
KEYS = ("kind", "width", "map_id", "offset", "pc", "pid", "tid", "flags")

KINDS = ("read", "write", "unknown")

_U = np.uint64


@dataclass(frozen=True)
class Alike:
    """The accesses of a batch, in its order.

    :ivar groups: one row for each kind of access, with :data:`KEYS` (``kind`` as its place in :data:`KINDS`), ``hits``;
        ``first, last``, the first and last of them by their place among the accesses of the batch; ``first_value,
        last_value``, null where they are not known; ``code``, the instruction where that is all that is known;
        ``timed, total_ns, min_ns, max_ns`` of the durations, null where nothing was timed.
    :ivar group: of each access its row in ``groups``.
    :ivar time_ns: of each access.
    :ivar duration_ns: of each that was timed, and ``timed`` which these are.
    """

    groups: pa.Table
    group: Ints
    time_ns: Ints
    duration_ns: npt.NDArray[np.uint32]
    timed: Ints


def alike(batch: pa.Table) -> Alike:
    """``batch`` has :data:`COLUMNS`, and maybe others, and events that are no accesses."""
    kind = numbered(batch["kind"], KINDS)
    if (others := kind < 0).any():
        batch, kind = batch.take(np.flatnonzero(~others)), kind[~others]
    columns = {"kind": kind} | {name: batch[name].to_numpy() for name in KEYS[1:]}
    # What fits into one word is compared as one.
    what = kind.view(_U) | columns["width"].astype(_U) << _U(8) | columns["flags"].astype(_U) << _U(24)
    who = columns["pid"].astype(np.uint32).astype(_U) << _U(32) | columns["tid"].astype(np.uint32)
    group, first = distinct(what, who, columns["map_id"].astype(np.int64), columns["offset"], columns["pc"])
    hits = np.bincount(group, minlength=len(first))
    last = np.empty(len(first), np.int64)
    last[group] = np.arange(len(group))
    time, value = batch["time_ns"].to_numpy(), batch["value"].to_numpy()
    keys = {name: column[first] for name, column in columns.items()}
    is_code = keys["kind"] == KINDS.index("unknown")
    unknown = is_code | (keys["flags"] & np.uint32(layout.VALUE_UNKNOWN) != 0)
    code: Any = pa.nulls(len(first), pa.binary())
    if is_code.any():
        code = pc.if_else(pa.array(is_code), batch["data"].take(first), code)
    timed = np.flatnonzero(pc.is_valid(batch["duration_ns"]).to_numpy())
    durations = pc.drop_null(batch["duration_ns"]).to_numpy()
    found = keys | {
        "hits": hits,
        "first": first,
        "last": last,
        "first_value": pa.array(value[first], mask=unknown),
        "last_value": pa.array(value[last], mask=unknown),
        "code": code,
    }
    return Alike(pa.table(found | _durations(group[timed], durations, len(first))), group, time, durations, timed)


def numbered(column: Any, words: Sequence[str]) -> Ints:
    """Where each word of a dictionary's column is in ``words``; −1: it is not there."""
    whole = column.unify_dictionaries().combine_chunks()
    place = {word: number for number, word in enumerate(words)}
    known = np.array([place.get(word, -1) for word in whole.dictionary.to_pylist()], np.int64)
    return known.take(whole.indices.to_numpy()) if len(known) else np.zeros(0, np.int64)


def _durations(group: Ints, durations: npt.NDArray[np.uint32], groups: int) -> dict[str, Any]:
    timed = np.bincount(group, minlength=groups)
    low, high = np.full(groups, 2**32 - 1, np.uint32), np.zeros(groups, np.uint32)
    np.minimum.at(low, group, durations)
    np.maximum.at(high, group, durations)
    total = np.bincount(group, durations, minlength=groups).astype(np.uint64)
    none = timed == 0
    return {
        "timed": timed,
        "total_ns": pa.array(total, mask=none),
        "min_ns": pa.array(low, mask=none),
        "max_ns": pa.array(high, mask=none),
    }
