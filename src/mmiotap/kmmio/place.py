"""Where a probe shall be: ``MAP:OFFSET+LENGTH`` or ``ADDRESS+LENGTH``."""

from dataclasses import dataclass

from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.model import Mapping
from mmiotap.trace.names import glob_matches


@dataclass(frozen=True)
class InMapping:
    """``length`` bytes from ``offset`` of every mapping that ``rule``, a glob over paths or a mapping's id, selects."""

    rule: str
    offset: int
    length: int

    def address(self, mapping: Mapping) -> int | None:
        """Where that is in this mapping, or None if it is not this one's, or not a byte of it lies inside."""
        chosen = mapping.map_id == int(self.rule) if self.rule.isdecimal() else glob_matches(self.rule, mapping)
        return mapping.address + self.offset if chosen and self.offset < mapping.length else None


@dataclass(frozen=True)
class AtAddress:
    """``length`` bytes from address ``start``, whatever is mapped there."""

    start: int
    length: int


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
