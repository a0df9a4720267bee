"""Registers and their fields, flat: what is left of a description when all arrays and scopes have been resolved."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from mmiotap.registers.effects import READS, WRITES
from mmiotap.trace.errors import MmiotapError

#: How the number in a field is shown.
FORMS = ("hex", "uint", "int", "boolean", "float", "fixed", "ufixed")


def wrong(path: str | Path, line: int | None, cause: str) -> MmiotapError:
    """The error of a description: place and cause in one line."""
    where = f"{path}, line {line}" if line else str(path)
    return MmiotapError(f"{where}: {' '.join(cause.split())}")


@dataclass(frozen=True)
class Field:
    """Some bits of a register, and what they mean.

    :ivar lsb: its lowest bit, counted from the register's.
    :ivar width: bits.
    :ivar access: what reading and writing do, a word of :mod:`mmiotap.registers.effects`.
    :ivar values: names of values.
    :ivar form: one of :data:`FORMS`, for values without a name.
    :ivar shift: the number that is meant is the value shifted left by so many bits.
    :ivar radix: of fixed-point numbers: how many bits are behind the point.
    :ivar line: where in its file it is described, 0 where that is not known.
    """

    name: str
    lsb: int
    width: int
    access: str = "RW"
    values: dict[int, str] = field(default_factory=dict)
    form: str = "hex"
    shift: int = 0
    radix: int = 0
    line: int = field(default=0, compare=False)

    @property
    def readable(self) -> bool:
        return self.access in READS

    @property
    def writable(self) -> bool:
        return self.access in WRITES


@dataclass(frozen=True)
class Register:
    """A register, or an array of registers that follow each other without a gap.

    :ivar name: with all scopes and their indexes, ``RA[3].RAL``; without its own index if it is an array.
    :ivar offset: bytes from where the description begins.
    :ivar width: bytes, of one element.
    :ivar counts: how many elements it has in each dimension; empty for one that is no array.
    :ivar access: ``RO``, ``WO`` or ``RW``: what can be done with some of its bits.
    """

    name: str
    offset: int
    width: int
    counts: tuple[int, ...] = ()
    fields: tuple[Field, ...] = ()
    access: str = "RW"
    path: str = field(default="", compare=False)
    line: int = field(default=0, compare=False)

    @property
    def elements(self) -> int:
        total = 1
        for count in self.counts:
            total *= count
        return total

    @property
    def end(self) -> int:
        """The first offset behind it."""
        return self.offset + self.width * self.elements

    @property
    def readable(self) -> bool:
        return self.access != "WO"

    @property
    def writable(self) -> bool:
        return self.access != "RO"


@dataclass(frozen=True)
class Description:
    """All registers of a device, or of one of its parts, in the order of their offsets."""

    name: str  #: the file, or the part of it, that it was read from
    registers: tuple[Register, ...]
    absolute: bool = False  #: offsets are bus addresses

    def to_json(self) -> dict[str, Any]:
        """As a trace remembers it. Lists of fields that registers share are there once."""
        lists: dict[int, tuple[int, tuple[Field, ...]]] = {}
        rows = []
        for one in self.registers:
            number, _ = lists.setdefault(id(one.fields), (len(lists), one.fields))
            rows.append([one.name, one.offset, one.width, one.counts, number, one.access])
        return {
            "name": self.name,
            "absolute": self.absolute,
            "fields": [[_field_to_json(one) for one in fields] for _, fields in lists.values()],
            "registers": rows,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of :meth:`to_json`. Raises LookupError, TypeError or ValueError for what that never wrote."""
        lists = [tuple(_field_from_json(one) for one in fields) for fields in data["fields"]]
        rows = (
            Register(name, offset, width, tuple(counts), lists[number], access)
            for name, offset, width, counts, number, access in data["registers"]
        )
        return cls(data["name"], tuple(rows), data["absolute"])


def _field_to_json(one: Field) -> dict[str, Any]:
    known = {name: value for name, value in vars(one).items() if name != "line"}
    return known | {"values": [[value, name] for value, name in one.values.items()]}


def _field_from_json(data: dict[str, Any]) -> Field:
    return Field(**(data | {"values": dict(data["values"])}))
