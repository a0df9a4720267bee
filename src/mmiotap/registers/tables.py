"""A description as numpy tables, and where in them a place is found."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmiotap.registers.model import FORMS, Field, Register

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

READ, WRITE = 0, 1
_U = np.uint64
_LAST = 2**64 - 1


@dataclass(frozen=True)
class Touched:
    """Registers that accesses touch, in no order: ``access[i]`` touches element ``element[i]`` of register ``row[i]``.

    :ivar at: bytes from where the access begins to where the touched part begins.
    :ivar within: bytes from where the register begins to there.
    """

    access: Ints
    row: Ints
    element: Words
    at: Ints
    within: Ints


class Tables:
    """All registers of some descriptions, one row each (an array without gaps has one), and all their fields.

    Where a place is one register when it is read and another when it is written, each direction finds its own. The same
    holds for bits. What can only be read is found by writes too, unless something else is there that can be written.
    """

    def __init__(self, descriptions: Sequence[Sequence[Register]]) -> None:
        self.registers = [one for registers in descriptions for one in registers]
        self._ranges = [
            (_Range.of(registers, READ, first), _Range.of(registers, WRITE, first))
            for registers, first in zip(descriptions, _firsts(descriptions), strict=True)
        ]
        self.fields = _Fields(self.registers)

    def find(self, description: int, direction: int, begin: Words, width: Words) -> Touched:
        """What accesses at ``begin``, from the begin of a description, of ``width`` bytes touch."""
        return self._ranges[description][direction].touched(begin, width)


def _firsts(descriptions: Sequence[Sequence[Register]]) -> list[int]:
    return list(itertools.accumulate(map(len, descriptions), initial=0))[:-1]


class _Range:
    """The registers that one direction finds; none of them overlap."""

    def __init__(self, registers: Sequence[Register], rows: Sequence[int]) -> None:
        self._start = np.array([one.offset for one in registers], _U)
        self._last = np.array([min(one.end - 1, _LAST) for one in registers], _U)
        self._width = np.array([one.width for one in registers], _U)
        self._row = np.array(rows, np.int64)

    @classmethod
    def of(cls, registers: Sequence[Register], direction: int, first: int) -> "_Range":
        mine = _able(direction)
        usual = sorted((one for one in enumerate(registers, first) if mine(one[1])), key=lambda one: one[1].offset)
        others = [one for one in enumerate(registers, first) if not mine(one[1])]
        starts = np.array([one.offset for _, one in usual], _U)
        ends = np.maximum.accumulate(np.array([one.end for _, one in usual], _U)) if usual else starts
        for number, one in others:
            before = int(np.searchsorted(starts, _U(one.end - 1), "right"))
            if not before or int(ends[before - 1]) <= one.offset:
                usual.append((number, one))
        usual.sort(key=lambda one: one[1].offset)
        return cls([one for _, one in usual], [number for number, _ in usual])

    def touched(self, begin: Words, width: Words) -> Touched:
        last = begin + np.maximum(width, 1).astype(_U) - _U(1)
        last[last < begin] = _LAST
        access = np.arange(len(begin))
        position = begin
        found = []
        while len(access) and len(self._start):
            index = np.searchsorted(self._start, position, "right") - 1
            inside = (index >= 0) & (position <= self._last[index])
            chosen, place = index[inside], position[inside]
            begun = place - self._start[chosen]
            element, within = np.divmod(begun, self._width[chosen])
            at = (place - begin[access[inside]]).astype(np.int64)
            found.append((access[inside], self._row[chosen], element, at, within.astype(np.int64)))
            # What lies behind this element, or behind the gap, in the same access.
            following = np.minimum(index + 1, len(self._start) - 1)
            behind = np.where(inside, position, self._start[following])
            behind[inside] = place - within + self._width[chosen]
            more = (behind > position) & (behind <= last[access])
            access, position = access[more], behind[more]
        if not found:
            nothing = np.zeros(0, np.int64)
            return Touched(nothing, nothing, np.zeros(0, _U), nothing, nothing)
        return Touched(*(np.concatenate(column) for column in zip(*found, strict=True)))


class _Fields:
    """All fields of all registers, one row each and direction."""

    def __init__(self, registers: Sequence[Register]) -> None:
        lists: dict[int, int] = {}
        distinct: list[Register] = []
        for one in registers:
            if lists.setdefault(id(one.fields), len(distinct)) == len(distinct):
                distinct.append(one)
        number = np.array([lists[id(one.fields)] for one in registers], np.int64)
        rows: list[tuple[Field, int]] = []
        first_of, count_of = [], []
        for direction in (READ, WRITE):
            found = [_of_direction(one.fields, direction) for one in distinct]
            count = np.array([len(one) for one in found], np.int64)
            first = len(rows) + np.cumsum(count) - count
            rows += [(field, 8 * one.width) for one, fields in zip(distinct, found, strict=True) for field in fields]
            first_of.append(first[number])
            count_of.append(count[number])
        self._first, self._count = np.array(first_of), np.array(count_of)
        #: Bits 0 to 63 of each register that are in one of its fields; of one without fields all.
        self.covered = np.array([_covered(one.fields) for one in distinct], _U)[number]
        #: Bits of each register.
        self.size = np.array([8 * one.width for one in registers], np.int64)
        fields = [field for field, _ in rows]
        self.names = [field.name for field in fields]
        self.lsb = np.array([field.lsb for field in fields], np.int64)
        self.width = np.array([field.width for field in fields], np.int64)
        self.form = np.array([FORMS.index(field.form) for field in fields], np.int8)
        self.shift = np.array([field.shift for field in fields], np.int64)
        self.radix = np.array([field.radix for field in fields], np.int64)
        #: It is the whole register: what it holds is the register's value.
        self.whole = np.array([field.width == width and _is_plain(field) for field, width in rows], np.bool_)
        self.values = _Values([field.values for field in fields])

    def of(self, direction: Ints, row: Ints) -> tuple[Ints, Ints]:
        """The first field of registers, and how many follow each other, those of the lowest bits first."""
        return self._first[direction, row], self._count[direction, row]


class _Values:
    """The names of values of fields, found by field and value at once."""

    def __init__(self, values: Sequence[dict[int, str]]) -> None:
        tables: dict[int, int] = {}
        distinct: list[dict[int, str]] = []
        for one in values:
            if one and tables.setdefault(id(one), len(distinct)) == len(distinct):
                distinct.append(one)
        self._table = np.array([tables[id(one)] if one else -1 for one in values], np.int64)
        entries = [(table, value & _LAST, name) for table, one in enumerate(distinct) for value, name in one.items()]
        self._numbers = np.unique(np.array([value for _, value, _ in entries], _U))
        number = np.searchsorted(self._numbers, np.array([value for _, value, _ in entries], _U))
        keys = np.array([table for table, _, _ in entries], np.int64) * len(self._numbers) + number
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self.names = [entries[number][2] for number in order.tolist()]

    def find(self, field: Ints, value: Words) -> Ints:
        """The index of a name in ``names``, or −1."""
        if not self.names:
            return np.full(len(field), -1, np.int64)
        number = np.minimum(np.searchsorted(self._numbers, value), len(self._numbers) - 1)
        key = self._table[field] * len(self._numbers) + number
        found = np.minimum(np.searchsorted(self._keys, key), len(self._keys) - 1)
        right = (self._table[field] >= 0) & (self._numbers[number] == value) & (self._keys[found] == key)
        return np.where(right, found, -1)


def _is_plain(field: Field) -> bool:
    """It shows a number as every value is shown."""
    return field.form in ("hex", "uint") and not field.shift


def _able(direction: int) -> Callable[[Any], bool]:
    return (lambda one: one.readable) if direction == READ else (lambda one: one.writable)


def _of_direction(fields: Sequence[Field], direction: int) -> list[Field]:
    mine = _able(direction)
    usual = [one for one in fields if mine(one)]
    bits = 0
    for one in usual:
        bits |= _bits(one)
    usual += [one for one in fields if not mine(one) and not _bits(one) & bits]
    return sorted(usual, key=lambda one: one.lsb)


def _covered(fields: Sequence[Field]) -> int:
    if not fields:
        return _LAST
    bits = 0
    for one in fields:
        bits |= _bits(one)
    return bits & _LAST


def _bits(field: Field) -> int:
    return ((1 << field.width) - 1) << field.lsb
