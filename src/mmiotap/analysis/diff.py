"""Two traces laid side by side, as versions of a source file are: what only one of them has, and what is different."""

import difflib
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmiotap.analysis import align, filters
from mmiotap.analysis.align import Block
from mmiotap.analysis.naming import decoded
from mmiotap.analysis.select import ACCESSES, map_expression
from mmiotap.registers.decode import Decoder
from mmiotap.trace import layout
from mmiotap.trace.arrays import distinct
from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.reader import Trace

#: What of an access is compared.
FIELDS = ("width", "offset", "value")

#: Accesses of each side that are looked through for the place where they agree again: first a few, then all of these.
NEARBY, WINDOW = 512, 1 << 16

#: Of a window something follows: what is found far behind in it may be found better in the next one.
_TRUSTED = 3 / 4

_NUMBER = "number"

_Ints = npt.NDArray[np.uint64]
_Spaces = npt.NDArray[np.int64]
_Bools = npt.NDArray[np.bool_]

#: Rows of both sides of a hunk that stand beside each other; None: nothing stands there.
Pairs: TypeAlias = Sequence[tuple[int | None, int | None]]

#: Says of a table of events which of them have a value that is not compared.
Blind = Callable[[pa.Table], _Bools]


@dataclass(frozen=True)
class Hunk:
    """A place where the traces differ. Events are tables with the columns that were asked for."""

    number_a: int  #: of the first access that differs, from 0
    number_b: int
    before: pa.Table  #: what agrees before it, as the first trace has it
    a: pa.Table
    b: pa.Table
    after: pa.Table  #: what agrees behind it, as the first trace has it
    meets: bool  #: False: they do not agree again within the window, and were not compared further


@dataclass(frozen=True)
class _Rows:
    """Accesses, column by column."""

    number: _Spaces  #: in the trace, from 0
    kind: _Ints
    width: _Ints
    place: _Ints
    value: _Ints
    unknown: _Bools  #: the value
    blind: _Bools  #: the value is not compared
    space: _Spaces

    def cut(self, begin: int, end: int) -> "_Rows":
        return _Rows(*(getattr(self, one.name)[begin:end] for one in fields(self)))

    def and_then(self, more: "_Rows") -> "_Rows":
        return _Rows(*(np.concatenate([getattr(self, one.name), getattr(more, one.name)]) for one in fields(self)))


class _Side:
    """The accesses of one trace, some at a time."""

    def __init__(
        self,
        trace: Trace,
        columns: Sequence[str],
        maps: Sequence[str],
        option: str,
        physical: bool,
        blind: Blind | None,
        simplify: Callable[[Iterable[pa.Table]], Iterable[pa.Table]] | None,
    ) -> None:
        """``option``: that chooses ``maps``."""
        where = pc.field("kind").isin(list(ACCESSES))
        if maps:
            where &= map_expression(maps, trace.mappings, option)
        self.trace = trace
        self.columns = columns
        self.passed = 0  #: accesses that were compared
        self.spaces: dict[object, int] = {}  #: see :meth:`_places`
        self._physical = physical
        self._blind = blind
        self._known = {mapping.map_id: mapping for mapping in trace.mappings}
        self._bars = _bars(trace)
        self._space_of: dict[int, int] = {}
        self._base_of: dict[int, int] = {}
        self._total = 0
        tables = self._numbered(trace.batches(trace.schema.names if blind else columns, where))
        self._tables = iter(tables if simplify is None else simplify(tables))
        self._table = self._some(())
        self._rows = self._rows_of(self._table)

    @property
    def number(self) -> int:
        """Of the next access in the trace, from 0."""
        return int(self._rows.number[0]) if self.waits(1) else self._total

    def waits(self, rows: int) -> int:
        """How many accesses there are next, at least so many if there are."""
        while len(self._rows.number) < rows and (more := next(self._tables, None)) is not None:
            self._table = self._some([self._table, more])
            self._rows = self._rows.and_then(self._rows_of(more))
        return len(self._rows.number)

    def rows(self, begin: int, end: int) -> _Rows:
        """What is compared of these of the next accesses."""
        return self._rows.cut(begin, end)

    def table(self, begin: int, end: int) -> pa.Table:
        """The same as events."""
        return self._table.slice(begin, end - begin)

    def take(self, rows: int) -> None:
        self.passed += rows
        self._table = self._table.slice(rows)
        self._rows = self._rows.cut(rows, len(self._rows.number))

    def _some(self, tables: Sequence[pa.Table]) -> pa.Table:
        names = self.trace.schema.names if self._blind else self.columns
        schema = pa.schema([self.trace.schema.field(name) for name in names])
        return (
            pa.concat_tables(tables)
            if tables
            else schema.empty_table().append_column(_NUMBER, pa.array([], pa.int64()))
        )

    def _numbered(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        for table in tables:
            number = np.arange(self._total, self._total + table.num_rows)
            self._total += table.num_rows
            yield table.append_column(_NUMBER, pa.array(number, pa.int64()))

    def _rows_of(self, table: pa.Table) -> _Rows:
        index = pc.index_in(table["kind"].cast(pa.string()), pa.array(ACCESSES))
        spaces, bases = self._places(table["map_id"].to_numpy())
        unknown = (table["flags"].to_numpy() & layout.VALUE_UNKNOWN) != 0
        return _Rows(
            number=table[_NUMBER].to_numpy(),
            kind=index.to_numpy().astype(np.uint64),
            width=table["width"].to_numpy().astype(np.uint64),
            place=table["offset"].to_numpy() + bases,
            value=table["value"].to_numpy(),
            unknown=unknown,
            blind=unknown | self._blind(table) if self._blind else unknown,
            space=spaces,
        )

    def _places(self, map_ids: npt.NDArray[np.int32]) -> tuple[_Spaces, _Ints]:
        """For each access a number for what its mapping shows, and where in that the mapping begins.

        Several mappings may show the same: a BAR that is mapped twice, or in parts.
        """
        distinct, index = np.unique(map_ids, return_inverse=True)
        for map_id in distinct.tolist():
            if map_id not in self._space_of:
                space, base = self._place(map_id)
                self._space_of[map_id] = self.spaces.setdefault(space, len(self.spaces))
                self._base_of[map_id] = base
        spaces = np.array([self._space_of[map_id] for map_id in distinct.tolist()], np.int64)
        bases = np.array([self._base_of[map_id] for map_id in distinct.tolist()], np.uint64)
        return spaces[index], bases[index]

    def _place(self, map_id: int) -> tuple[object, int]:
        mapping = self._known.get(map_id)
        if self._physical:
            if mapping is None or mapping.physical is None:
                name = f"mapping {map_id}" if mapping is None else mapping.path
                raise MmiotapError(
                    f"{self.trace.path} does not know the physical address of {name}; compare without --physical"
                )
            return "physical", mapping.physical
        if mapping is None:
            return map_id, 0
        if mapping.device is None or mapping.bar is None:
            return mapping.path, mapping.file_offset
        start = self._bars.get((mapping.device, mapping.bar))
        known = start is not None and mapping.physical is not None and mapping.physical >= start
        base = mapping.physical - start if known else mapping.file_offset  # type: ignore[operator]
        return (mapping.device, mapping.bar), base


def ignoring(texts: Sequence[str], trace: Trace, decoder: Callable[[], Decoder | None]) -> Blind:
    """Of which events of a trace one of these filters is true. Raises FilterError."""
    compiled = [filters.compiled(text, trace, decoder) for text in texts]

    def blind(table: pa.Table) -> _Bools:
        found = np.zeros(table.num_rows, np.bool_)
        numbered = table.append_column("_row", pa.array(np.arange(table.num_rows)))
        for one in compiled:
            chosen = numbered if one.where is None else numbered.filter(one.where)
            found[one.keep(chosen)["_row"].to_numpy()] = True
        return found

    return blind


def pairs(hunk: Hunk, most: int) -> list[tuple[int | None, int | None]]:
    """The accesses of a hunk, at most so many of each side, laid side by side.

    Beside each other stand accesses of one kind to the same place, which have different values; None is beside what
    has no partner.
    """
    a, b = (
        list(zip(*(table[name].to_pylist()[:most] for name in ("kind", "width", "offset")), strict=True))
        for table in (hunk.a, hunk.b)
    )
    found: list[tuple[int | None, int | None]] = []
    for what, begin_a, end_a, begin_b, end_b in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if what == "equal":
            found += zip(range(begin_a, end_a), range(begin_b, end_b), strict=True)
        else:
            found += [(at, None) for at in range(begin_a, end_a)]
            found += [(None, at) for at in range(begin_b, end_b)]
    return found


@dataclass(frozen=True)
class Change:
    """Two accesses that stand beside each other and have different values.

    :ivar at_a: its row in :attr:`Hunk.a`; ``at_b`` that in :attr:`Hunk.b`.
    :ivar ones: bits that only the second has; ``zeros``: that only the first has; and the names of their fields.
    """

    at_a: int
    at_b: int
    offset: int
    register: str | None
    ones: int
    zeros: int
    ones_fields: str | None
    zeros_fields: str | None


def changes(hunks: Sequence[Hunk], beside: Sequence[Pairs], decoder: Decoder | None) -> list[list[Change]]:
    """Of accesses of each hunk that stand beside each other (:func:`pairs`), those whose values are known and differ.

    Names of many hunks cost as much as those of one.
    """
    both = [(hunk, *pair) for hunk, found in enumerate(beside) for pair in found if None not in pair]
    whose, at_a, at_b = np.array(both, np.int64).reshape(-1, 3).T
    a = _taken([hunk.a for hunk in hunks], whose, at_a)
    b = _taken([hunk.b for hunk in hunks], whose, at_b)
    one, other = a["value"].to_numpy(), b["value"].to_numpy()
    known = ((a["flags"].to_numpy() | b["flags"].to_numpy()) & layout.VALUE_UNKNOWN) == 0
    which = np.flatnonzero(known & (one != other))
    a, at_a, at_b, one, other = a.take(which), at_a[which], at_b[which], one[which], other[which]
    ones, zeros = other & ~one, one & ~other
    twice = pa.concat_tables([a, a])
    place = (twice["kind"].cast(pa.string()), twice["map_id"], twice["offset"], twice["width"])
    meant = decoded(decoder, *place, pa.array(np.concatenate([ones, zeros])))
    rows = a.num_rows
    names = (meant.register[:rows], pa.array(ones), pa.array(zeros), meant.fields[:rows], meant.fields[rows:])
    columns = (pa.array(at_a), pa.array(at_b), a["offset"], *names)
    found: list[list[Change]] = [[] for _ in hunks]
    for hunk, *row in zip(whose[which].tolist(), *(column.to_pylist() for column in columns), strict=True):
        found[hunk].append(Change(*row))
    return found


def _taken(tables: Sequence[pa.Table], whose: _Spaces, at: _Spaces) -> pa.Table:
    """Rows of some tables: which table, and which row of it."""
    sizes = np.array([table.num_rows for table in tables])
    return pa.concat_tables(tables).take((np.cumsum(sizes) - sizes)[whose] + at)


class Diff:
    """Compares two traces; :meth:`hunks` goes through them, and the rest says afterwards what it has seen.

    Accesses (reads, writes, and those whose direction is unknown) are compared in their order: kind, width, offset and
    value. A value that one side does not know agrees with any. Mappings are paired as accesses that agree meet: from
    then on accesses to the one belong to accesses to the other. Times, threads and code are not compared.

    Memory holds some tables of each trace, however long they are. Raises MmiotapError for what a trace does not have,
    FilterError for a mapping that is not there.
    """

    def __init__(
        self,
        a: Trace,
        b: Trace,
        columns: Sequence[str],
        *,
        maps_a: Sequence[str] = (),
        maps_b: Sequence[str] = (),
        ignore: Collection[str] = (),
        blind: tuple[Blind, Blind] | None = None,
        physical: bool = False,
        context: int = 3,
        simplify: Callable[[Iterable[pa.Table]], Iterable[pa.Table]] | None = None,
    ) -> None:
        """``columns`` must hold those that are compared; ``ignore`` is some of :data:`FIELDS`.

        ``blind`` says of events of the one and the other trace whether their values are compared. ``simplify`` makes
        of the events of each trace those that are compared (:func:`mmiotap.analysis.folding.without_polls`).
        """
        of_a, of_b = blind or (None, None)
        self._a = _Side(a, columns, maps_a, "--map-a", physical, of_a, simplify)
        self._b = _Side(b, columns, maps_b, "--map-b", physical, of_b, simplify)
        self._ignore = frozenset(ignore)
        self._context = context
        self._b_of: dict[int, int] = {}
        self._a_of: dict[int, int] = {}
        self._before: deque[pa.Table] = deque()
        self._ahead: deque[Block] = deque()  #: what is the same further on, by the accesses that were compared
        self.agreeing = 0  #: accesses that agree
        self.unknown = 0  #: of these, those of which one side does not know the value

    def hunks(self) -> Iterator[Hunk]:
        """The places where the traces differ, in order. Compares only as far as is asked for."""
        look = NEARBY
        while (rows := min(self._a.waits(1), self._b.waits(1), look)) > 0:
            same = self._agreeing(rows)
            self._pass(same)
            look = min(4 * look, WINDOW)
            if same < rows:
                look = NEARBY
                hunk = self._hunk()
                yield hunk
                if not hunk.meets:
                    return
        if self._a.waits(1) or self._b.waits(1):
            yield self._hunk()

    def _pass(self, rows: int) -> None:
        """The next accesses agree."""
        if not rows:
            return
        self.agreeing += rows
        a, b = self._a.rows(0, rows), self._b.rows(0, rows)
        self.unknown += int(np.count_nonzero(a.unknown | b.unknown))
        self._before.append(self._a.table(max(rows - self._context, 0), rows))
        while (
            len(self._before) > 1
            and sum(one.num_rows for one in self._before) - self._before[0].num_rows >= self._context
        ):
            self._before.popleft()
        self._a.take(rows)
        self._b.take(rows)

    def _agreeing(self, rows: int) -> int:
        """How many of so many accesses agree from the first one on; their mappings are paired."""
        agree = self._agree(rows)
        a, b = self._a.rows(0, rows), self._b.rows(0, rows)
        end = rows if agree.all() else int(np.argmin(agree))
        pairs = a.space[:end] << 32 | b.space[:end]
        for place in distinct(pairs)[1].tolist():
            one, other = int(pairs[place]) >> 32, int(pairs[place]) & 0xFFFFFFFF
            if self._b_of.setdefault(one, other) != other or self._a_of.setdefault(other, one) != one:
                return int(place)
        return end

    def _agree(self, rows: int) -> _Bools:
        """Whether each of so many accesses does, whatever its mapping."""
        a, b = self._a.rows(0, rows), self._b.rows(0, rows)
        agree: _Bools = a.kind == b.kind
        if "width" not in self._ignore:
            agree &= a.width == b.width
        if "offset" not in self._ignore:
            agree &= a.place == b.place
        if "value" not in self._ignore:
            same = a.value == b.value
            if (a.width > 8).any():
                data: Any = pc.equal(
                    self._a.table(0, rows)["data"].combine_chunks(), self._b.table(0, rows)["data"].combine_chunks()
                )
                same &= data.fill_null(True).to_numpy(zero_copy_only=False)
            agree &= same | a.blind | b.blind
        return agree

    def _hunk(self) -> Hunk:
        """What differs from here on, which is passed over."""
        found = self._meeting()
        window = WINDOW if found is None else 0
        rows_a, rows_b = found or (min(self._a.waits(window), window), min(self._b.waits(window), window))
        self._a.waits(rows_a + self._context)
        schema = self._a.table(0, 0).schema
        hunk = Hunk(
            number_a=self._a.number,
            number_b=self._b.number,
            before=_last(list(self._before), self._context, schema),
            a=self._a.table(0, rows_a),
            b=self._b.table(0, rows_b),
            after=self._a.table(rows_a, rows_a + self._context) if found else self._a.table(0, 0),
            meets=found is not None,
        )
        self._before.clear()
        self._a.take(rows_a)
        self._b.take(rows_b)
        return hunk

    def _meeting(self) -> tuple[int, int] | None:
        """How much of each side to pass over so that the accesses behind agree; None if nothing ahead does."""
        at_a, at_b = self._a.passed, self._b.passed
        while self._ahead and min(self._ahead[0].at_a - at_a, self._ahead[0].at_b - at_b) <= -self._ahead[0].length:
            self._ahead.popleft()
        if not self._ahead:
            self._ahead.extend(Block(at_a + one.at_a, at_b + one.at_b, one.length) for one in self._blocks())
            if not self._ahead:
                return None
        following = self._ahead[0]
        over_a, over_b = following.at_a - at_a, following.at_b - at_b
        if max(over_a, over_b) > 0:
            return over_a, over_b
        # They look the same, and yet are different: in what only one side knows, in long values, or in their mapping.
        rows = min(following.length + over_a, self._a.waits(1), self._b.waits(1))
        agree = self._agree(rows)
        count = 1 if agree[0] else rows if not agree.any() else int(np.argmax(agree))
        return count, count

    def _blocks(self) -> list[Block]:
        """What is the same of what comes next. Behind the last access of both there is nothing, which is the same."""
        found: list[Block] = []
        for window in (min(NEARBY, WINDOW), WINDOW):
            rows_a, rows_b = min(self._a.waits(window), window), min(self._b.waits(window), window)
            ends = rows_a < window and rows_b < window
            keys_a, keys_b = self._keys(rows_a, rows_b)
            if ends:
                keys_a, keys_b = np.append(keys_a, -1), np.append(keys_b, -1)
            found = align.greedy(keys_a, keys_b, whole=ends) if window == NEARBY else align.anchored(keys_a, keys_b)
            if not ends:
                edge = _TRUSTED * window
                found = [one for one in found if max(one.at_a, one.at_b) < edge] or found[:1]
            if found:
                break
        return found

    def _keys(self, rows_a: int, rows_b: int) -> tuple[_Spaces, _Spaces]:
        """Equal numbers for accesses that agree, as far as numbers can tell."""
        a, b = self._a.rows(0, rows_a), self._b.rows(0, rows_b)
        both = a.and_then(b)
        columns: list[npt.NDArray[Any]] = [both.kind]
        if "width" not in self._ignore:
            columns.append(both.width)
        if "offset" not in self._ignore:
            columns.append(both.place)
        # A mapping that has no partner yet may belong to any other that has none.
        spaces_a = [self._b_of.get(space, -1) for space in range(len(self._a.spaces))]
        spaces_b = [space if space in self._a_of else -1 for space in range(len(self._b.spaces))]
        known = [np.array(one, np.int64)[side.space] for one, side in ((spaces_a, a), (spaces_b, b)) if one]
        columns.append(np.concatenate(known) if known else both.space)
        number, first = distinct(*columns)
        if "value" not in self._ignore:
            # Where one value is not compared, none tells accesses to this place apart.
            blind = np.bincount(number, both.blind, len(first)) > 0
            number, _ = distinct(number, np.where(blind[number], np.uint64(0), both.value))
        return number[:rows_a], number[rows_a:]


def _last(tables: Sequence[pa.Table], rows: int, schema: pa.Schema) -> pa.Table:
    table = tables[-1] if tables and tables[-1].num_rows >= rows else pa.concat_tables([schema.empty_table(), *tables])
    return table.slice(max(table.num_rows - rows, 0))


def _bars(trace: Trace) -> dict[tuple[str, int], int]:
    """Where the BARs of devices begin on the bus, as far as the trace says."""
    return {
        (device["address"], bar): resource["start"] & ~0xF
        for device in trace.info.get("pci_devices", [])
        for bar, resource in enumerate(device.get("resources", []))
    }
