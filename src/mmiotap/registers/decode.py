"""Events decoded: which register an access goes to, and what the bits of its value mean. No Python loop an event.

Few accesses of a trace are distinct. Each batch is reduced to its distinct pairs of a place (mapping, direction,
offset, width) and a value, by Arrow's hash table; numpy decodes these, and Arrow makes them text.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmiotap.registers.model import Description, Register
from mmiotap.registers.tables import READ, WRITE, Ints, Tables, Touched, Words
from mmiotap.registers.text import hexadecimal, joined, shown
from mmiotap.trace import layout
from mmiotap.trace.arrays import distinct
from mmiotap.trace.schema import KINDS

#: Columns of the events that are needed.
COLUMNS = ("kind", "width", "map_id", "offset", "value", "flags")

#: What decoding adds to them.
NAMES = tuple(pa.field(name, pa.dictionary(pa.int32(), pa.string())) for name in ("register", "fields"))

_U = np.uint64
_NONE = -1
#: Instructions that are not taken apart have a place, but no value.
_DIRECTIONS = {KINDS[layout.READ]: READ, KINDS[layout.WRITE]: WRITE, KINDS[layout.UNKNOWN]: READ}


@dataclass(frozen=True)
class Binding:
    """A description of what is in a mapping.

    :ivar base: where in the mapping the description begins; negative if the mapping begins within it.
    """

    description: Description
    map_id: int
    base: int


@dataclass(frozen=True)
class Decoded:
    """Of each row of a table, as dictionaries of strings; null where there is nothing to say.

    :ivar register: its name. ``+2`` behind it: the access begins so many bytes behind its begin. An access of several
        registers has all their names.
    :ivar fields: those fields that are not zero, as ``EN MODE=fast ADDR=0x1f``; one bit has no value. ``A[7:4]=``: only
        these bits of the field are in the access. ``?=0x80``: bits that are in no field.
    """

    register: Any
    fields: Any


class Decoder:
    """Decodes the events of a trace by some descriptions. Where two describe the same place, the first is right."""

    def __init__(self, bindings: Sequence[Binding]) -> None:
        descriptions = list({id(one.description): one.description for one in bindings}.values())
        number = {id(one): index for index, one in enumerate(descriptions)}
        self.bindings = tuple(bindings)
        self._tables = Tables([one.registers for one in descriptions])
        self._bound = [(one.map_id, _U(one.base % 2**64), number[id(one.description)]) for one in bindings]
        self._names = _Names(self._tables.registers)
        self._field_names = pa.array(self._tables.fields.names, pa.string())
        self._value_names = pa.array(self._tables.fields.values.names, pa.string())

    @property
    def name_width(self) -> int:
        """Characters of the longest name of a register."""
        return self._names.longest

    def decode(self, table: pa.Table) -> Decoded:
        """``table`` has :data:`COLUMNS`, and maybe others."""
        if not self.bindings or not table.num_rows:
            nothing: Any = pa.nulls(table.num_rows, pa.string()).dictionary_encode()
            return Decoded(nothing, nothing)
        way, known = _ways(table["kind"])
        known &= (table["flags"].to_numpy() & np.uint32(layout.VALUE_UNKNOWN)) == 0
        map_id, width = table["map_id"].to_numpy().astype(np.int64), table["width"].to_numpy().astype(np.int64)
        offset: Words = table["offset"].to_numpy()
        value: Words = np.where(known, table["value"].to_numpy(), _U(0))
        access = ((map_id + 1) << 18 | width << 2 | way + 1).view(_U)
        pair, of_pair = distinct(access, offset, value)
        place, first = distinct(access[of_pair], offset[of_pair])
        of_place = of_pair[first]
        touched = self._touched(way[of_place], map_id[of_place], offset[of_place], width[of_place])
        names = self._names.of(touched, len(of_place))
        texts = self._texts(touched, way[of_place], place, value[of_pair], width[of_pair])
        return Decoded(_dictionary(place[pair], names), _dictionary(pair, texts))

    def named(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """The tables with two more columns behind the others, :data:`NAMES`."""
        for table in tables:
            decoded = self.decode(table)
            yield table.append_column(NAMES[0], decoded.register).append_column(NAMES[1], decoded.fields)

    @staticmethod
    def schema(schema: pa.Schema) -> pa.Schema:
        """Of such tables, if the others have ``schema``."""
        return schema.append(NAMES[0]).append(NAMES[1])

    def _touched(self, way: Ints, map_id: Ints, offset: Words, width: Ints) -> Touched:
        """What each place touches, ordered by place, and within one from its begin to its end."""
        free = way != _NONE
        found = []
        for bound, base, description in self._bound:
            for direction in (READ, WRITE):
                places = np.flatnonzero(free & (map_id == bound) & (way == direction))
                if len(places):
                    one = self._tables.find(description, direction, offset[places] - base, width[places].astype(_U))
                    found.append((places[one.access], one.row, one.element, one.at, one.within))
                    free[places[one.access]] = False
        if not found:
            nothing = np.zeros(0, np.int64)
            return Touched(nothing, nothing, np.zeros(0, _U), nothing, nothing)
        access, row, element, at, within = (np.concatenate(column) for column in zip(*found, strict=True))
        order = np.lexsort((at, access))
        return Touched(access[order], row[order], element[order], at[order], within[order])

    def _texts(self, touched: Touched, way: Ints, place: Ints, value: Words, width: Ints) -> Any:
        """The fields' text of each pair: a place, and a value of ``width`` bytes that was read or written there."""
        fields = self._tables.fields
        of_place = np.bincount(touched.access, minlength=len(way))
        pair, hit = _expanded((np.cumsum(of_place) - of_place)[place], of_place[place])
        row = touched.row[hit]
        # Bit b of the register is bit b + shift of the access, which has its bits from begin to end.
        begin, end = 8 * touched.at[hit], np.minimum(8 * width[pair], 64)
        shift = begin - 8 * touched.within[hit]
        first, count = fields.of(way[place[pair]], row)
        hit, field = _expanded(first, count)
        lsb = fields.lsb[field] + shift[hit]
        low, high = np.maximum(lsb, begin[hit]), np.minimum(lsb + fields.width[field], end[hit])
        bits = _bits(value[pair[hit]], low, high)
        part = high - low != fields.width[field]
        name = np.where(part, _NONE, fields.values.find(field, bits))
        # A register that is one field shows its value already, unless that has a name.
        chosen = np.flatnonzero((bits != 0) & ((name != _NONE) | ~fields.whole[field]))
        texts = self._field_texts(
            field[chosen], bits[chosen], (low - lsb)[chosen], (high - low)[chosen], part[chosen], name[chosen]
        )
        known = joined(pair[hit[chosen]], texts, len(place), " ")
        rest = _in_no_field(value, pair, begin, np.minimum(end, shift + fields.size[row]), shift, fields.covered[row])
        if not rest.any():
            return known
        nameless: Any = pc.if_else(pa.array(rest != 0), pc.binary_join_element_wise("?", hexadecimal(rest), "="), None)
        both = pc.binary_join_element_wise(known, nameless, " ")
        return pc.coalesce(both, known, nameless)

    def _field_texts(
        self, field: Ints, bits: Words, low: Ints, width: Ints, part: npt.NDArray[np.bool_], name: Ints
    ) -> Any:
        fields = self._tables.fields
        texts: Any = self._field_names.take(pa.array(field, pa.int64()))
        # A bit that is set says all with its name.
        told = (fields.width[field] != 1) | (name != _NONE)
        field, bits, low, width, part, name = field[told], bits[told], low[told], width[told], part[told], name[told]
        form, shift = np.where(part, 0, fields.form[field]), np.where(part, 0, fields.shift[field])
        numbers = shown(bits, width, form, shift, fields.radix[field])
        if (name != _NONE).any():
            named = self._value_names.take(pa.array(name.clip(0), pa.int64()))
            numbers = pc.if_else(pa.array(name != _NONE), named, numbers)
        long: Any = texts.filter(pa.array(told))
        if part.any():
            last, first = (pa.array(bit).cast(pa.string()) for bit in (low + width - 1, low))
            cut = pc.binary_join_element_wise(long, "[", last, ":", first, "]", "")
            long = pc.if_else(pa.array(part), cut, long)
        return pc.replace_with_mask(texts, pa.array(told), pc.binary_join_element_wise(long, numbers, "="))


class _Names:
    """Names of elements of registers, made when they are needed."""

    def __init__(self, registers: Sequence[Register]) -> None:
        self._names = pa.array([one.name for one in registers], pa.string())
        self._dimensions = max((len(one.counts) for one in registers), default=0)
        shape = [(1,) * (self._dimensions - len(one.counts)) + one.counts for one in registers]
        self._counts = np.array(shape, np.int64).reshape(len(registers), self._dimensions)
        self._given = np.array([len(one.counts) for one in registers], np.int64)
        lengths = [len(one.name) + sum(len(f"[{count - 1}]") for count in one.counts) for one in registers]
        self.longest = max(lengths, default=0)

    def of(self, touched: Touched, places: int) -> Any:
        """One string for each place, null where it touches nothing."""
        row = touched.row
        texts: Any = self._names.take(pa.array(row, pa.int64()))
        below = np.ones(len(row), np.int64)
        indexes: Any = pa.array([""] * len(row), pa.string()) if self._dimensions else None
        for dimension in reversed(range(self._dimensions)):
            index = (touched.element.astype(np.int64) // below) % self._counts[row, dimension]
            below *= self._counts[row, dimension]
            used = pa.array(dimension >= self._dimensions - self._given[row])
            index_text = pc.binary_join_element_wise("[", pa.array(index).cast(pa.string()), "]", indexes, "")
            indexes = pc.if_else(used, index_text, indexes)
        if indexes is not None:
            texts = pc.binary_join_element_wise(texts, indexes, "")
        inside = touched.within != 0
        if inside.any():
            behind = pc.binary_join_element_wise(texts, pa.array(touched.within).cast(pa.string()), "+")
            texts = pc.if_else(pa.array(inside), behind, texts)
        return joined(touched.access, texts, places, ",")


def _ways(column: Any) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """The direction of each event (−1: it is no access), and whether it is one that can have a value."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    whole = column.unify_dictionaries().combine_chunks()
    words: list[str] = whole.dictionary.to_pylist()
    number = whole.indices.to_numpy()
    directions = np.array([_DIRECTIONS.get(word, _NONE) for word in words], np.int64)
    valued = np.array([word in _DIRECTIONS and word != KINDS[layout.UNKNOWN] for word in words], np.bool_)
    return directions.take(number), valued.take(number)


def _expanded(first: Ints, count: Ints) -> tuple[Ints, Ints]:
    """All of ``first[i]`` to ``first[i] + count[i] − 1``, and of each its ``i``."""
    owner = np.repeat(np.arange(len(count)), count)
    begun = np.cumsum(count) - count
    return owner, first[owner] + np.arange(len(owner)) - begun[owner]


def _bits(value: Words, low: Ints, high: Ints) -> Words:
    """Bits ``low`` to ``high − 1``, of 64; 0 if these are none."""
    some = low < high
    mask = ~_U(0) >> (64 - (high - low)).clip(0, 63).astype(_U)
    return np.where(some, value >> low.clip(0, 63).astype(_U) & mask, _U(0))


def _in_no_field(value: Words, pair: Ints, begin: Ints, end: Ints, shift: Ints, covered: Words) -> Words:
    """The bits of each value that are in a register, but in none of its fields."""
    distance = np.abs(shift).clip(0, 63).astype(_U)
    # What is beyond bit 63 of a register is taken for covered: ones follow it down.
    down = ~(~covered >> distance)
    fields = np.where(shift >= 0, covered << distance, down)
    inside = _bits(np.full(len(pair), ~_U(0)), begin, end) << begin.clip(0, 63).astype(_U)
    bare = np.zeros(len(value), _U)
    np.bitwise_or.at(bare, pair, inside & ~fields)
    return value & bare


def _dictionary(number: Ints, texts: Any) -> Any:
    nothing = texts.is_null().to_numpy(zero_copy_only=False)
    indices: Any = pa.array(number.astype(np.int32), mask=nothing[number])
    return pa.DictionaryArray.from_arrays(indices, texts.fill_null(""))
