"""How a trace of any size is analysed: part by part, and parts in pairs.

What an analysis finds in a part is small: it grows with what is distinct there, not with what happened. Two
neighbouring parts' findings become one, whatever is cut by the border between them included; so a trace can be gone
through in a line with memory for a few findings, or on many machines as a tree (docs/summary.md).
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from mmiotap.analysis.accesses import COLUMNS, Accesses
from mmiotap.trace.reader import Trace
from mmiotap.trace.schema import EVENTS

Part = TypeVar("Part")


class Analysis(Protocol[Part]):
    """Holds no state but its settings: it, and what it finds, can be pickled and sent elsewhere."""

    def part(self, accesses: Accesses) -> Part:
        """What there is to say of a part."""
        ...

    def merged(self, first: Part, then: Part) -> Part:
        """The same of two parts, of which ``then`` follows ``first``."""
        ...

    def table(self, whole: Part) -> pa.Table:
        """What a user sees."""
        ...


def find(analyses: Sequence[Analysis[Any]], table: pa.Table) -> list[Any]:
    """What each analysis finds in a part of a trace, a table with the columns of events."""
    accesses = Accesses.of(table)
    return [analysis.part(accesses) for analysis in analyses]


def find_in_file(analyses: Sequence[Analysis[Any]], path: Path) -> list[Any]:
    """What each finds in a Parquet file of a trace, all of which is read at once."""
    return find(analyses, pq.read_table(path, columns=list(COLUMNS)))


def merge(analyses: Sequence[Analysis[Any]], first: Sequence[Any], then: Sequence[Any]) -> list[Any]:
    """The same of two neighbouring parts."""
    return [analysis.merged(left, right) for analysis, left, right in zip(analyses, first, then, strict=True)]


def tables(analyses: Sequence[Analysis[Any]], whole: Sequence[Any]) -> list[pa.Table]:
    """What users see of the whole trace."""
    return [analysis.table(found) for analysis, found in zip(analyses, whole, strict=True)]


class Findings:
    """What there is to say of parts, which come in order.

    They wait until there are others of as many parts: each is merged a few times only, however long the trace is, and
    few are in memory.
    """

    def __init__(self, analyses: Sequence[Analysis[Any]]) -> None:
        self._analyses = analyses
        self._waiting: list[tuple[int, list[Any]]] = []

    def add(self, part: pa.Table) -> None:
        size, found = 1, find(self._analyses, part)
        while self._waiting and self._waiting[-1][0] == size:
            found, size = merge(self._analyses, self._waiting.pop()[1], found), 2 * size
        self._waiting.append((size, found))

    def whole(self) -> list[Any]:
        """Of all parts."""
        *before, whole = [found for _, found in self._waiting] or [find(self._analyses, EVENTS.empty_table())]
        for found in reversed(before):
            whole = merge(self._analyses, found, whole)
        return whole


def fold(analyses: Sequence[Analysis[Any]], parts: Iterable[pa.Table]) -> list[Any]:
    """What there is to say of all parts, which are in order."""
    findings = Findings(analyses)
    for part in parts:
        findings.add(part)
    return findings.whole()


def analysed(trace: Trace, analyses: Sequence[Analysis[Any]]) -> list[pa.Table]:
    """The tables of some analyses. The trace is read once."""
    return tables(analyses, fold(analyses, trace.batches(COLUMNS)))
