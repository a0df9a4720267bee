"""Two traces, access for access: where they first differ, and how they go on from there."""

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmiotap.analysis.select import ACCESSES, map_expression
from mmiotap.trace import layout
from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.reader import Trace
from mmiotap.trace.schema import EVENTS

#: What of an access is compared.
FIELDS = ("width", "offset", "value")

#: Accesses of each side that are looked through for the place where they agree again.
WINDOW = 4096

#: So many accesses must agree for that: first many, for a register that is polled looks alike everywhere.
_RUNS = (4, 1)

_Ints = npt.NDArray[np.uint64]
_Spaces = npt.NDArray[np.int64]


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


@dataclass
class _Side:
    """The accesses of one trace, a table at a time."""

    trace: Trace
    columns: Sequence[str]
    maps: Sequence[str]
    option: str  #: that chooses ``maps``
    physical: bool
    taken: int = 0  #: accesses that were compared
    spaces: dict[object, int] = field(default_factory=dict)  #: see :meth:`_places`
    _space_of: dict[int, int] = field(default_factory=dict)
    _base_of: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        where = pc.field("kind").isin(list(ACCESSES))
        if self.maps:
            where &= map_expression(self.maps, self.trace.mappings, self.option)
        self._known = {mapping.map_id: mapping for mapping in self.trace.mappings}
        self._bars = _bars(self.trace)
        self._tables = self.trace.batches(self.columns, where)
        self._head: pa.Table | None = next(self._tables, None)

    def head(self, rows: int = 1) -> pa.Table | None:
        """What comes next, at least ``rows`` accesses if there are so many; None at the end."""
        while self._head is not None and self._head.num_rows < rows:
            more = next(self._tables, None)
            if more is None:
                break
            self._head = pa.concat_tables([self._head, more])
        return self._head if self._head is not None and self._head.num_rows else None

    def take(self, rows: int) -> None:
        assert self._head is not None
        self.taken += rows
        self._head = self._head.slice(rows)
        if not self._head.num_rows:
            self._head = next(self._tables, None)

    def rows(self, table: pa.Table) -> "_Rows":
        """What is compared of these accesses."""
        index = pc.index_in(table["kind"].cast(pa.string()), pa.array(ACCESSES))
        width = table["width"].to_numpy().astype(np.uint64)
        spaces, bases = self._places(table["map_id"].to_numpy())
        return _Rows(
            kind=index.to_numpy().astype(np.uint64),
            width=width,
            place=table["offset"].to_numpy() + bases,
            value=table["value"].to_numpy(),
            unknown=(table["flags"].to_numpy() & layout.VALUE_UNKNOWN) != 0,
            wide=table["data"].combine_chunks() if (width > 8).any() else None,
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
        if self.physical:
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


@dataclass(frozen=True)
class _Rows:
    """Accesses, column by column."""

    kind: _Ints
    width: _Ints
    place: _Ints
    value: _Ints
    unknown: npt.NDArray[np.bool_]
    wide: Any  #: an Arrow array of values of more than 8 bytes; None: there are none
    space: _Spaces


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
        physical: bool = False,
        context: int = 3,
    ) -> None:
        """``columns`` must hold those that are compared; ``ignore`` is some of :data:`FIELDS`."""
        self._a = _Side(a, columns, maps_a, "--map-a", physical)
        self._b = _Side(b, columns, maps_b, "--map-b", physical)
        self._ignore = frozenset(ignore)
        self._context = context
        self._b_of: dict[int, int] = {}
        self._a_of: dict[int, int] = {}
        self._before: deque[pa.Table] = deque()
        self.agreeing = 0  #: accesses that agree
        self.unknown = 0  #: of these, those of which one side does not know the value

    def hunks(self) -> Iterator[Hunk]:
        """The places where the traces differ, in order. Compares only as far as is asked for."""
        while (head_a := self._a.head()) is not None and (head_b := self._b.head()) is not None:
            rows = min(head_a.num_rows, head_b.num_rows)
            table = head_a.slice(0, rows)
            a, b = self._a.rows(table), self._b.rows(head_b.slice(0, rows))
            same = self._agreeing(a, b)
            self._pass(table.slice(0, same), a, b)
            if same < rows:
                hunk = self._hunk()
                yield hunk
                if not hunk.meets:
                    return
        if self._a.head() is not None or self._b.head() is not None:
            yield self._hunk()

    def _pass(self, table: pa.Table, a: _Rows, b: _Rows) -> None:
        """These accesses agree."""
        rows = table.num_rows
        if not rows:
            return
        self.agreeing += rows
        self.unknown += int(np.count_nonzero(a.unknown[:rows] | b.unknown[:rows]))
        self._before.append(table.slice(max(rows - self._context, 0)))
        while (
            len(self._before) > 1
            and sum(one.num_rows for one in self._before) - self._before[0].num_rows >= self._context
        ):
            self._before.popleft()
        self._a.take(rows)
        self._b.take(rows)

    def _agreeing(self, a: _Rows, b: _Rows) -> int:
        """How many accesses agree from the first one on; their mappings are paired."""
        agree = a.kind == b.kind
        if "width" not in self._ignore:
            agree &= a.width == b.width
        if "offset" not in self._ignore:
            agree &= a.place == b.place
        if "value" not in self._ignore:
            agree &= _same_values(a, b)
        end = len(agree) if agree.all() else int(np.argmin(agree))
        pairs = a.space[:end] << 32 | b.space[:end]
        distinct, first = np.unique(pairs, return_index=True)
        for pair, place in sorted(zip(distinct.tolist(), first.tolist(), strict=True), key=lambda one: one[1]):
            one, other = pair >> 32, pair & 0xFFFFFFFF
            if self._b_of.setdefault(one, other) != other or self._a_of.setdefault(other, one) != one:
                return int(place)
        return end

    def _hunk(self) -> Hunk:
        """What differs from here on, which is passed over."""
        a, b = self._window(self._a), self._window(self._b)
        found = self._meeting(a, b)
        shown_a, shown_b = (a.num_rows, b.num_rows) if found is None else found
        before = _last(list(self._before), self._context, a.schema)
        hunk = Hunk(
            number_a=self._a.taken,
            number_b=self._b.taken,
            before=before,
            a=a.slice(0, shown_a),
            b=b.slice(0, shown_b),
            after=a.slice(shown_a, self._context) if found else a.slice(0, 0),
            meets=found is not None,
        )
        self._before.clear()
        for side, rows in ((self._a, shown_a), (self._b, shown_b)):
            if rows:
                side.take(rows)
        return hunk

    def _window(self, side: _Side) -> pa.Table:
        head = side.head(WINDOW)
        if head is None:
            return EVENTS.empty_table().select(list(side.columns))
        return head.slice(0, WINDOW)

    def _meeting(self, a: pa.Table, b: pa.Table) -> tuple[int, int] | None:
        """How much of each window to pass over so that the accesses behind agree; as little as possible in all."""
        keys_a, keys_b = self._keys(a, b)
        for run in _RUNS:
            (runs_a, places_a), (runs_b, places_b) = _runs(keys_a, keys_b, run)
            _, in_a, in_b = np.intersect1d(runs_a, runs_b, assume_unique=True, return_indices=True)
            first_a, first_b = places_a[in_a], places_b[in_b]
            if len(in_a):
                best = int(np.argmin((first_a + first_b) * 2 * WINDOW + abs(first_a - first_b)))
                place = int(first_a[best]), int(first_b[best])
                return place if any(place) else (1, 1)
        return None

    def _keys(self, a: pa.Table, b: pa.Table) -> tuple[_Spaces, _Spaces]:
        """Equal numbers for accesses that agree; behind the last access of a trace numbers that agree, too."""
        rows_a, rows_b = self._a.rows(a), self._b.rows(b)
        blind = "value" in self._ignore or bool(rows_a.unknown.any() or rows_b.unknown.any())
        columns = [np.concatenate([rows_a.kind, rows_b.kind])]
        if "width" not in self._ignore:
            columns.append(np.concatenate([rows_a.width, rows_b.width]))
        if "offset" not in self._ignore:
            columns.append(np.concatenate([rows_a.place, rows_b.place]))
        if not blind:
            columns.append(np.concatenate([rows_a.value, rows_b.value]))
        # A mapping that has no partner yet may belong to any other that has none.
        spaces_a = [self._b_of.get(space, -1) for space in rows_a.space.tolist()]
        spaces_b = [space if space in self._a_of else -1 for space in rows_b.space.tolist()]
        columns.append(np.array(spaces_a + spaces_b, np.int64).astype(np.uint64))
        numbers = np.unique(np.stack(columns), axis=1, return_inverse=True)[1].reshape(-1).astype(np.int64) + 1
        end = np.zeros(_RUNS[0], np.int64)
        keys_a, keys_b = numbers[: a.num_rows], numbers[a.num_rows :]
        if a.num_rows < WINDOW and b.num_rows < WINDOW:
            return np.concatenate([keys_a, end]), np.concatenate([keys_b, end])
        return keys_a, keys_b


def _same_values(a: _Rows, b: _Rows) -> npt.NDArray[np.bool_]:
    same: npt.NDArray[np.bool_] = a.value == b.value
    if a.wide is not None and b.wide is not None:
        wide: Any = pc.equal(a.wide, b.wide)
        same &= pc.fill_null(wide, True).to_numpy(zero_copy_only=False)
    return same | a.unknown | b.unknown


def _runs(keys_a: _Spaces, keys_b: _Spaces, length: int) -> list[tuple[_Spaces, _Spaces]]:
    """For each side the distinct runs of this length, as numbers that are equal where they are, and first places."""
    starts = [max(len(keys) - length + 1, 0) for keys in (keys_a, keys_b)]
    runs = [
        np.stack([keys[at : at + count] for at in range(length)], axis=1)
        for keys, count in zip((keys_a, keys_b), starts, strict=True)
    ]
    numbers = np.unique(np.concatenate(runs), axis=0, return_inverse=True)[1].reshape(-1)
    return [np.unique(part, return_index=True) for part in np.split(numbers, starts[:1])]


def _last(tables: Sequence[pa.Table], rows: int, schema: pa.Schema) -> pa.Table:
    table = pa.concat_tables([schema.empty_table(), *tables])
    return table.slice(max(table.num_rows - rows, 0))


def _bars(trace: Trace) -> dict[tuple[str, int], int]:
    """Where the BARs of devices begin on the bus, as far as the trace says."""
    return {
        (device["address"], bar): resource["start"] & ~0xF
        for device in trace.info.get("pci_devices", [])
        for bar, resource in enumerate(device.get("resources", []))
    }
