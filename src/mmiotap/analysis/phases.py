"""Phases: what happened between one mark and the next."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmiotap.analysis.accesses import PLACE, READ, WRITE, Accesses
from mmiotap.analysis.groups import How, Rows, joined, reduced
from mmiotap.trace.reader import Trace

_KEYS = ("phase", *PLACE)
_HOW: dict[str, How] = {"reads": "sum", "writes": "sum", "others": "sum", "first_ns": "min", "last_ns": "max"}


@dataclass(frozen=True)
class Marks:
    """Marks in the order of time."""

    times: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()

    @classmethod
    def of(cls, trace: Trace) -> "Marks":
        """All of a trace, whatever events of it are chosen."""
        where: Any = pc.field("kind").isin(["mark"])
        rows = trace.only(None).events(["time_ns", "text"], where).to_pylist()
        return cls(tuple(row["time_ns"] for row in rows), tuple(row["text"] or "" for row in rows))


@dataclass(frozen=True)
class Phases:
    """The accesses from each mark to the next, and those before the first.

    Columns: ``phase``, the text of the mark it begins with (null: before the first); ``from_ns`` (null there); ``reads,
    writes, others, registers``, how many were accessed; ``first_ns`` and ``last_ns`` access. Phases without one are
    there, too, unless it is the one before the first mark.
    """

    marks: Marks

    def part(self, accesses: Accesses) -> Rows:
        rows = accesses.rows
        way = rows["way"]
        each = {name: rows[name] for name in PLACE} | {
            "phase": np.searchsorted(np.array(self.marks.times, np.int64), rows["time_ns"], "right"),
            "reads": (way == READ).astype(np.int64),
            "writes": (way == WRITE).astype(np.int64),
            "others": (way > WRITE).astype(np.int64),
            "first_ns": rows["time_ns"],
            "last_ns": rows["time_ns"],
        }
        return reduced(each, _KEYS, _HOW)

    def merged(self, first: Rows, then: Rows) -> Rows:
        return reduced(joined(first, then), _KEYS, _HOW)

    def table(self, whole: Rows) -> pa.Table:
        rows = reduced(
            whole | {"registers": np.ones(len(whole["phase"]), np.int64)}, ["phase"], _HOW | {"registers": "sum"}
        )
        seen = {phase: number for number, phase in enumerate(rows["phase"].tolist())}
        phases = [phase for phase in range(len(self.marks.times) + 1) if phase or phase in seen]
        names = ("reads", "writes", "others", "registers")
        row_of = [seen.get(phase) for phase in phases]
        return pa.table(
            {
                "phase": pa.array([self.marks.texts[phase - 1] if phase else None for phase in phases], pa.string()),
                "from_ns": pa.array([self.marks.times[phase - 1] if phase else None for phase in phases], pa.int64()),
            }
            | {
                name: pa.array([int(rows[name][at]) if at is not None else 0 for at in row_of], pa.int64())
                for name in names
            }
            | {
                name: pa.array([int(rows[name][at]) if at is not None else None for at in row_of], pa.int64())
                for name in ("first_ns", "last_ns")
            }
        )
