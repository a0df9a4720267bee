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
from mmiotap.trace.arrays import distinct, values, whole

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

#: Columns of the events that are needed; ``data`` only for ``code``.
COLUMNS = ("time_ns", "duration_ns", "kind", "width", "map_id", "offset", "value", "data", "pc", "pid", "tid", "flags")

#: Accesses that agree in all of these are alike.
KEYS = ("kind", "width", "map_id", "offset", "pc", "pid", "tid", "flags")

KINDS = ("read", "write", "unknown")
#: Columns that count the accesses of each.
DIRECTIONS = ("reads", "writes", "others")

_U = np.uint64


@dataclass(frozen=True)
class Alike:
    """The accesses of a batch, in its order.

    :ivar events: those of its events that are accesses.
    :ivar groups: one row for each kind of access, with :data:`KEYS` (``kind`` as its place in :data:`KINDS`), ``hits``;
        ``first, last``, the first and last of them by their place among the accesses of the batch; ``first_value,
        last_value``, null where they are not known; ``code``, the instruction where that is all that is known, and the
        batch has ``data``; ``timed, total_ns, min_ns, max_ns`` of the durations, null where nothing was timed.
    :ivar group: of each access its row in ``groups``.
    :ivar time_ns: of each access.
    :ivar duration_ns: of each that was timed, and ``timed`` which these are.
    """

    events: pa.Table
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
    columns = {"kind": kind} | {name: values(batch[name]) for name in KEYS[1:]}
    group, first = distinct(*_packed(list(columns.values())))
    hits = np.bincount(group, minlength=len(first))
    last = np.empty(len(first), np.int64)
    last[group] = np.arange(len(group))
    time, value = values(batch["time_ns"]), values(batch["value"])
    keys = {name: column[first] for name, column in columns.items()}
    is_code = keys["kind"] == KINDS.index("unknown")
    unknown = is_code | (keys["flags"] & np.uint32(layout.VALUE_UNKNOWN) != 0)
    code: Any = pa.nulls(len(first), pa.binary())
    if is_code.any() and "data" in batch.schema.names:
        code = pc.if_else(pa.array(is_code), batch["data"].take(first), code)
    timed, durations = np.zeros(0, np.int64), np.zeros(0, np.uint32)
    if batch["duration_ns"].null_count < batch.num_rows:
        timed = np.flatnonzero(pc.is_valid(batch["duration_ns"]).to_numpy())
        durations = values(pc.drop_null(batch["duration_ns"]))
    found = keys | {
        "hits": hits,
        "first": first,
        "last": last,
        "first_value": pa.array(value[first], mask=unknown),
        "last_value": pa.array(value[last], mask=unknown),
        "code": code,
    }
    groups = pa.table(found | _durations(group[timed], durations, len(first)))
    return Alike(batch, groups, group, time, durations, timed)


def directions(groups: pa.Table) -> dict[str, Ints]:
    """The hits of groups, in a column for each of :data:`DIRECTIONS`."""
    kind, hits = values(groups["kind"]), values(groups["hits"])
    return {name: np.where(kind == number, hits, 0) for number, name in enumerate(DIRECTIONS)}


def _packed(columns: Sequence[npt.NDArray[Any]]) -> list[Words]:
    """Fewer columns of which the same rows are alike, mostly one: what all have in common is left out, and what differs
    takes as many bits as it needs."""
    words: list[Words] = []
    used = 64
    for column in columns:
        if not len(column) or not (size := (int(column.max()) - int(low := column.min())).bit_length()):
            continue
        word = column.astype(_U) - low.astype(_U)  # modulo 2**64, so that a sign does not matter
        if used + size > 64:
            words.append(word)
            used = size
        else:
            word <<= _U(used)
            words[-1] |= word
            used += size
    return words or [np.zeros(len(columns[0]), _U)]


def numbered(column: Any, words: Sequence[str]) -> Ints:
    """Where each word of a dictionary's column is in ``words``; −1: it is not there."""
    encoded: Any = whole(column.unify_dictionaries())
    place = {word: number for number, word in enumerate(words)}
    known = np.array([place.get(word, -1) for word in encoded.dictionary.to_pylist()], np.int64)
    return known.take(values(encoded.indices)) if len(known) else np.zeros(0, np.int64)


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
