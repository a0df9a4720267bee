"""Where a probe shall be: ``MAP:OFFSET+LENGTH`` or ``ADDRESS+LENGTH``."""

from dataclasses import dataclass

from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.model import Mapping
from mmiotap.trace.names import rule_selects


@dataclass(frozen=True)
class InMapping:
    """``length`` bytes from ``offset`` of every mapping that ``rule``, as of ``record --map`` or an id, selects."""

    rule: str
    offset: int
    length: int

    def address(self, mapping: Mapping) -> int | None:
        """Where it begins in this mapping, or None if not a byte of it is in there."""
        if not (mapping.map_id == int(self.rule) if self.rule.isdecimal() else rule_selects(self.rule, mapping.path)):
            return None
        return mapping.address + self.offset if self.offset < mapping.length else None

    def span(self, mapping: Mapping) -> range:
        """The addresses of it that lie in this mapping."""
        start = self.address(mapping)
        if start is None:
            return range(0)
        return range(start, min(start + self.length, mapping.address + mapping.length))


@dataclass(frozen=True)
class AtAddress:
    """``length`` bytes from address ``start``, in whatever mapping is there."""

    start: int
    length: int

    def span(self, mapping: Mapping) -> range:
        """The addresses of it that lie in this mapping."""
        behind = min(self.start + self.length, mapping.address + mapping.length)
        return range(max(self.start, mapping.address), behind)


Place = InMapping | AtAddress


def parse(text: str) -> Place:
    """A place as users write it, numbers as Python reads them (12, 0x1f). Raises MmiotapError for anything else."""
    rule, colon, span = text.rpartition(":")
    start, plus, length = span.partition("+")
    try:
        if not plus or (colon and not rule):
            raise ValueError
        first, count = int(start, 0), int(length, 0)
        if first < 0 or count < 1:
            raise ValueError
    except ValueError:
        raise MmiotapError(
            f"{text!r} is no place for a probe: MAP:OFFSET+LENGTH or ADDRESS+LENGTH, for example "
            "'/dev/uio0:0x10+4' or 0x7f0000001000+64"
        ) from None
    return InMapping(rule, first, count) if colon else AtAddress(first, count)
