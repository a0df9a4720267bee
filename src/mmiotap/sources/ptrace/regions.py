"""The mappings that are traced, as the program has them now: the agent's table of regions, from outside.

A mapping keeps its id and its offsets when parts of it are unmapped or get other rights: what is left are its parts.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace

from mmiotap.trace.model import Mapping


@dataclass(frozen=True)
class Part:
    """A part of a traced mapping, of one set of rights. Addresses are those of the program."""

    start: int
    end: int
    mapping: Mapping
    prot: int  #: what the program may do, whatever is armed
    alias: int | None  #: where ``start`` is in the second mapping of the same file, if there is one

    @property
    def delta(self) -> int:
        """From an address of the program's to the same byte in the alias."""
        assert self.alias is not None
        return self.alias - self.start

    def offset(self, address: int) -> int:
        """As in a trace: from the start of the mapping."""
        return address - self.mapping.address

    def clip(self, start: int, end: int) -> "Part":
        """The same part, with nothing outside of these addresses."""
        start, end = max(start, self.start), min(end, self.end)
        return replace(self, start=start, end=end, alias=None if self.alias is None else start + self.delta)


class Regions:
    """All parts of one address space. They do not overlap."""

    def __init__(self, parts: Iterator[Part] | None = None) -> None:
        self._parts: list[Part] = sorted(parts or (), key=lambda part: part.start)
        self._starts = [part.start for part in self._parts]

    def __iter__(self) -> Iterator[Part]:
        return iter(self._parts)

    def at(self, address: int) -> Part | None:
        """The part that an address is in."""
        index = bisect_right(self._starts, address) - 1
        if index >= 0 and address < self._parts[index].end:
            return self._parts[index]
        return None

    def within(self, start: int, end: int) -> list[Part]:
        """What lies between these addresses, clipped to them."""
        return [part.clip(start, end) for part in self._parts if part.start < end and part.end > start]

    def add(self, part: Part) -> None:
        index = bisect_right(self._starts, part.start)
        self._parts.insert(index, part)
        self._starts.insert(index, part.start)

    def cut(self, start: int, end: int) -> list[Part]:
        """Forget what lies between these addresses, and return it."""
        gone = self.within(start, end)
        kept = [piece for part in self._parts for piece in _without(part, start, end)]
        self.__init__(iter(kept))  # type: ignore[misc]  # as if it had never been there
        return gone


def _without(part: Part, start: int, end: int) -> Iterator[Part]:
    if part.end <= start or part.start >= end:
        yield part
        return
    if part.start < start:
        yield part.clip(part.start, start)
    if part.end > end:
        yield part.clip(end, part.end)
