"""How long accesses to each register take, where the trace knows it."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmiotap.analysis.accesses import PLACE, Accesses, kinds
from mmiotap.analysis.groups import How, Rows, joined, reduced, taken

#: Buckets for each doubling of the time: a percentile is wrong by at most one part in twice as many.
STEPS = 16

_KEYS = (*PLACE, "way", "bucket")
_HOW: dict[str, How] = {"count": "sum", "total_ns": "sum", "min_ns": "min", "max_ns": "max"}


class Latency:
    """Registers that were timed, the one that took longest in all first.

    Columns: ``map_id, offset, width, kind``; ``timed``, how many accesses; ``total_ns, min_ns, mean_ns, max_ns``;
    ``p50_ns`` and ``p99_ns``, within 3 %.
    """

    def part(self, accesses: Accesses) -> Rows:
        rows = taken(accesses.rows, accesses.rows["duration_ns"] >= 0)
        took = rows["duration_ns"]
        each = {name: rows[name] for name in (*PLACE, "way")} | {
            "bucket": np.floor(np.log2(np.maximum(took, 1)) * STEPS).astype(np.int64),
            "count": np.ones(len(took), np.int64),
            "total_ns": took,
            "min_ns": took,
            "max_ns": took,
        }
        return reduced(each, _KEYS, _HOW)

    def merged(self, first: Rows, then: Rows) -> Rows:
        return reduced(joined(first, then), _KEYS, _HOW)

    def table(self, whole: Rows) -> pa.Table:
        whole = taken(whole, np.argsort(whole["bucket"], kind="stable"))
        rows = reduced(whole, _KEYS[:-1], _HOW)
        rows["p50_ns"], rows["p99_ns"] = _percentile(whole, rows, 0.5), _percentile(whole, rows, 0.99)
        rows["timed"] = rows.pop("count")
        rows["mean_ns"] = rows["total_ns"] / np.maximum(rows["timed"], 1)
        rows = taken(rows, np.argsort(-rows["total_ns"], kind="stable"))
        columns = {name: pa.array(rows[name]) for name in PLACE} | {"kind": kinds(rows["way"])}
        names = ("timed", "total_ns", "min_ns", "mean_ns", "p50_ns", "p99_ns", "max_ns")
        return pa.table(columns | {name: pa.array(rows[name]) for name in names})


def _percentile(buckets: Rows, rows: Rows, share: float) -> npt.NDArray[np.float64]:
    """Of each row; ``buckets`` are in the order of time that they stand for."""
    found = np.zeros(len(rows["count"]))
    columns = zip(*(buckets[name].tolist() for name in (*_KEYS, "count")), strict=True)
    number = {place: at for at, place in enumerate(zip(*(rows[name].tolist() for name in _KEYS[:-1]), strict=True))}
    below = [0] * len(found)
    for *place, bucket, count in columns:
        at = number[tuple(place)]
        wanted = share * rows["count"][at]
        if below[at] < wanted <= below[at] + count:
            found[at] = 2 ** ((bucket + 0.5) / STEPS)
        below[at] += count
    return np.clip(found, rows["min_ns"], rows["max_ns"])
