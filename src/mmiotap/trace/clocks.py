"""How far the clocks of two traces are apart: not at all on one boot, else as their common marks tell."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from mmiotap.trace.reader import Trace

#: A mark: CLOCK_MONOTONIC nanoseconds, and what it says.
Mark = tuple[int, str]


@dataclass(frozen=True)
class Offset:
    """What is added to the times of a trace, in nanoseconds, and how it is known."""

    ns: int
    how: str  #: "boot", "marks" or "given"
    marks: int = 0  #: pairs of marks that tell it
    spread_ns: int = 0  #: how far these are from agreeing: from the least offset that one of them tells to the greatest


def same_boot(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two traces (trace.json) have times of one clock: that of one boot of one machine."""
    return a.get("boot_id") is not None and a.get("boot_id") == b.get("boot_id")


def marks_of(trace: Trace) -> list[Mark]:
    """All marks of a trace, in time order."""
    found = trace.events(["time_ns", "text"], pc.field("kind") == "mark").to_pylist()
    return [(row["time_ns"], row["text"]) for row in found if row["text"]]


def by_marks(reference: Sequence[Mark], marks: Sequence[Mark]) -> Offset | None:
    """The offset that takes ``marks`` to ``reference``: the median of what the pairs tell; None if there is no pair.

    Marks with the same text belong together, the first to the first and so on, if both sides have as many of them.
    """
    there, here = _by_text(reference), _by_text(marks)
    told = [
        one - other
        for text in here.keys() & there.keys()
        if len(here[text]) == len(there[text])
        for one, other in zip(there[text], here[text], strict=True)
    ]
    if not told:
        return None
    return Offset(int(statistics.median_low(told)), "marks", len(told), max(told) - min(told))


def _by_text(marks: Sequence[Mark]) -> dict[str, list[int]]:
    times: dict[str, list[int]] = defaultdict(list)
    for time_ns, text in marks:
        times[text].append(time_ns)
    return times
