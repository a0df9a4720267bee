"""Accesses out of a block of QEMU's log, all lines at once.

A line that is not plainly one ``memory_region_…`` event is left to :mod:`mmiotap.formats.qemu_lines`.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmiotap.formats import qemu_lines
from mmiotap.formats.digits import Digits, Flags, Numbers, Positions
from mmiotap.formats.qemu_lines import Record, Region
from mmiotap.trace import layout

_NEWLINE, _SPACE, _POINT, _AT, _QUOTE, _RETURN, _COLON, _C, _DIGIT = b"\n .@'\r:c0"
#: Between the spaces behind the event's name: cpu N mr P addr A value V size S.
_FIELDS = 10
#: The longest name or prefix that is compared here.
_LONGEST = 128
#: Zeros around the text: no place that is looked at is further outside.
_PAD = 64
_U = np.uint64
_ODD = _U(0x9E3779B97F4A7C15)
_MASK = np.array([(1 << 8 * min(width, 8)) - 1 for width in range(qemu_lines.MAX_WIDTH + 1)], np.uint64)
_STAMP_SECONDS = 10


@dataclass(frozen=True)
class Accesses:
    """Columns of the accesses of a block, in the log's order: see :class:`mmiotap.formats.qemu_lines.Record`.

    :ivar time_ns: −1 where a line does not tell.
    :ivar region: index into ``regions`` of the block.
    """

    line: Positions
    time_ns: Positions
    kind: npt.NDArray[np.int8]
    width: npt.NDArray[np.uint16]
    region: npt.NDArray[np.int32]
    address: Numbers
    value: Numbers
    tid: npt.NDArray[np.int32]
    cpu: npt.NDArray[np.int16]


@dataclass(frozen=True)
class Block:
    """What a block of whole lines says.

    :ivar unread: numbers of the lines that have an event that cannot be read.
    :ivar others: numbers of the lines that are something else.
    """

    lines: int
    regions: list[Region]
    accesses: Accesses
    unread: list[int]
    others: Positions


def parse(text: bytes) -> Block:
    """``text`` is lines, each with its end."""
    plain = _Text(text)
    fast, regions, done = plain.accesses()
    records: list[tuple[int, Record, int]] = []
    unread = []
    numbers: dict[Region, int] = {region: number for number, region in enumerate(regions)}
    for number in np.flatnonzero(~done & (plain.ends - plain.starts >= qemu_lines.SHORTEST)).tolist():
        line = plain.line(number)
        if qemu_lines.EVENT.search(line) is None:
            continue
        done[number] = True
        if (record := qemu_lines.parse(line)) is not None:
            records.append((number, record, numbers.setdefault(record.region, len(numbers))))
        else:
            unread.append(number)
    accesses = _merged(fast, records) if records else fast
    return Block(len(plain.ends), list(numbers), accesses, unread, np.flatnonzero(~done))


def _merged(fast: Accesses, records: list[tuple[int, Record, int]]) -> Accesses:
    """With those that were read one by one: line, what it says, and number of the region."""
    slow = {
        "line": [number for number, _, _ in records],
        "time_ns": [-1 if record.time_ns is None else record.time_ns for _, record, _ in records],
        "region": [region for _, _, region in records],
    }
    slow |= {name: [getattr(r, name) for _, r, _ in records] for name in vars(fast) if name not in slow}
    order = np.argsort(np.concatenate([fast.line, np.array(slow["line"], np.int64)]), kind="stable")
    columns = {
        name: np.concatenate([column, np.array(slow[name], column.dtype)])[order] for name, column in vars(fast).items()
    }
    return Accesses(**columns)


class _Text:
    """A block of text, and where its lines are."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        padded = bytes(_PAD) + text + bytes(_PAD)
        self._digits = Digits(padded, _PAD)
        self._padded = np.frombuffer(padded, np.uint8)
        self._characters = self._padded[_PAD:-_PAD]
        self._words: Numbers = np.ndarray((len(padded) - 7,), dtype="<u8", buffer=padded, strides=(1,))
        newlines = np.flatnonzero(self._characters == _NEWLINE)
        self.starts = np.concatenate([np.zeros(1, np.int64), newlines[:-1] + 1])[: len(newlines)]
        # A line ends before its newline, and before the return that some put there.
        returns = (newlines > self.starts) & (self._characters[newlines - 1] == _RETURN)
        self.ends = newlines - returns

    def line(self, number: int) -> bytes:
        return self._text[self.starts[number] : self.ends[number]]

    def accesses(self) -> tuple[Accesses, list[Region], Flags]:
        """Columns of the plain accesses, the regions they name, and which lines they are."""
        spaces = np.flatnonzero(self._characters == _SPACE)
        first = np.flatnonzero(self._character(spaces + 1) == _C)
        first = first[self._at(spaces[first], b" cpu ")]
        behind = spaces[first]
        before = self._words[behind + (_PAD - 8)]
        reads = before >> _U(24) == _U(int.from_bytes(b"_read", "little"))
        writes = before >> _U(16) == _U(int.from_bytes(b"_write", "little"))
        kind = np.where(reads, layout.READ, layout.WRITE).astype(np.int8)
        stem = behind - np.where(reads, 5, 6)
        lines = np.searchsorted(self.starts, stem, side="right") - 1
        ends = self._words[stem + (_PAD - 8)]
        event = np.full(len(stem), -1, np.int8)
        begin = stem.copy()
        for word, number in qemu_lines.EVENTS.items():
            name = b"memory_region_" + word
            # Its end tells whether the rest is worth a look.
            found = np.flatnonzero((reads | writes) & (ends == _U(int.from_bytes(name[-8:], "little"))))
            found = found[self._at(stem[found] - len(name), name[:-8])]
            event[found] = number
            begin[found] = stem[found] - len(name)
        # The first event of a line is the line's; of lines with more, the other way of reading them decides.
        count = np.bincount(lines[event >= 0], minlength=len(self.starts))
        ok = (event >= 0) & (first + _FIELDS <= len(spaces)) & (count[lines] == 1)
        chosen = _where(ok)
        return self._columns(lines[chosen], begin[chosen], kind[chosen], event[chosen], spaces, first[chosen])

    def _columns(
        self,
        lines: Positions,
        begin: Positions,
        kind: npt.NDArray[np.int8],
        event: npt.NDArray[np.int8],
        spaces: Positions,
        first: Positions,
    ) -> tuple[Accesses, list[Region], Flags]:
        digits = self._digits
        start, end = self.starts[lines], self.ends[lines]
        space = [spaces[first + index] for index in range(_FIELDS)]
        # The width ends with the line, or where the name begins.
        tail = np.where(first + _FIELDS < len(spaces), spaces[np.minimum(first + _FIELDS, len(spaces) - 1)], end)
        named = tail < end
        edges = [*space, np.where(named, tail, end)]
        ok = (space[-1] < end) & (~named | (self._at(tail, b" name '") & (self._character(end - 1) == _QUOTE)))
        ok &= ~named | (end - tail >= len(b" name ''"))
        for index, word in ((2, b" mr 0x"), (6, b" value 0x"), (8, b" size ")):
            ok &= self._at(space[index], word)
        addressed = self._at(space[4], b" addr 0x")
        if not addressed.all():
            addressed |= self._at(space[4], b" offset 0x")
        ok &= addressed

        def decimal(field: int) -> Numbers:
            nonlocal ok
            numbers, good = digits.decimal(edges[field], edges[field] - edges[field - 1] - 1)
            ok = ok & good
            return numbers

        def hexadecimal(field: int) -> Numbers:
            nonlocal ok
            # Behind the 0x.
            numbers, good = digits.hexadecimal(edges[field], edges[field] - edges[field - 1] - 3)
            ok = ok & good
            return numbers

        cpu, handle, address, value, width = (decimal(2), hexadecimal(4), hexadecimal(6), hexadecimal(8), decimal(10))
        ok &= (width < len(_MASK)) & (cpu < 2**15)
        time_ns, tid, good = self._prefixes(digits, start, begin)
        ok &= good
        names, good = self._hash(np.where(named, tail + len(b" name '"), end), np.where(named, end - 1, end))
        ok &= good
        rows = _where(ok)
        key = (handle ^ names) * _ODD ^ event.astype(np.uint64)
        region, regions = self._regions(
            key[rows], event[rows], space[3][rows], space[4][rows], np.where(named, tail, -1)[rows], end[rows]
        )
        done = np.zeros(len(self.starts), bool)
        done[lines[rows]] = True
        width = width[rows].astype(np.int64)
        columns = Accesses(
            line=lines[rows],
            time_ns=time_ns[rows],
            kind=kind[rows],
            width=width.astype(np.uint16),
            region=region,
            address=address[rows],
            value=value[rows] & _MASK[width],
            tid=tid[rows],
            cpu=cpu[rows].astype(np.int16),
        )
        return columns, regions, done

    def _regions(
        self,
        key: Numbers,
        event: npt.NDArray[np.int8],
        handle_at: Positions,
        handle_end: Positions,
        name_at: Positions,
        end: Positions,
    ) -> tuple[npt.NDArray[np.int32], list[Region]]:
        examples, index = _distinct(key)
        regions: dict[Region, int] = {}
        place = np.zeros(len(examples), np.int32)
        for number, row in enumerate(examples.tolist()):
            name = b"" if name_at[row] < 0 else self._text[name_at[row] + len(b" name '") : end[row] - 1]
            region = Region(int(event[row]), self._text[handle_at[row] + 1 : handle_end[row]], name)
            place[number] = regions.setdefault(region, len(regions))
        return place[index], list(regions)

    def _prefixes(
        self, digits: Digits, start: Positions, begin: Positions
    ) -> tuple[Positions, npt.NDArray[np.int32], Flags]:
        """Time (−1: none) and thread (0: unknown) of each line, and for which lines that is all there is to know."""
        time_ns = np.full(len(start), -1, np.int64)
        tid = np.zeros(len(start), np.int32)
        ok = begin == start
        for colon, read in ((True, self._stamped), (False, self._dated)):
            chosen = ~ok & ((self._character(begin - 1) == _COLON) == colon)
            if chosen.any():
                rest = _where(chosen)
                time_ns[rest], tid[rest], ok[rest] = read(digits, start[rest], begin[rest])
        return time_ns, tid, ok

    def _stamped(
        self, digits: Digits, start: Positions, begin: Positions
    ) -> tuple[Positions, npt.NDArray[np.int32], Flags]:
        """Prefixes of thread and time, those of old QEMUs, that end with a colon."""
        micros, ok = digits.decimal(begin - 1, np.full(len(start), 6))
        point = begin - 8
        low, good = digits.decimal(point, np.full(len(start), 8))
        ok &= good
        high, good = digits.decimal(point - 8, np.full(len(start), _STAMP_SECONDS - 8))
        ok &= good
        at = point - _STAMP_SECONDS - 1
        thread, good = digits.decimal(at, at - start)
        ok &= good & (at > start) & (self._character(point) == _POINT) & (self._character(at) == _AT)
        seconds = (high * _U(10**8) + low).astype(np.int64)
        return (seconds * 1_000_000 + micros.astype(np.int64)) * 1000, thread.astype(np.int32), ok

    def _dated(
        self, digits: Digits, start: Positions, begin: Positions
    ) -> tuple[Positions, npt.NDArray[np.int32], Flags]:
        """Prefixes with a date, and those with neither: what follows the date is the same in many lines."""
        micros, ok = digits.decimal(start + 26, np.full(len(start), 6))
        ok &= (begin - start >= 28) & self._at(start + 26, b"Z ") & (self._character(start + 19) == _POINT)
        keys, good = self._hash(start, start + 19)
        examples, index = _distinct(keys)
        texts = [self._text[at : at + 19] for at in start[examples].tolist()]
        told = [qemu_lines.prefix(text + b"Z ")[0] for text in texts]
        seconds = np.array([-1 if ns is None else ns for ns in told], np.int64)[index]
        dated = ok & good & (seconds >= 0)
        time_ns = np.where(dated, seconds + micros.astype(np.int64) * 1000, -1)
        rest = np.where(dated, start + 28, start)
        # What begins as a date and is none of ours is for the other way of reading.
        ok = dated | ~(self._character(start) - np.uint8(_DIGIT) < 10)
        keys, good = self._hash(rest, begin)
        examples, index = _distinct(keys)
        threads = [qemu_lines.prefix(self._text[rest[row] : begin[row]])[1] for row in examples.tolist()]
        return time_ns, np.array(threads, np.int32)[index], ok & good

    def _character(self, at: Positions) -> npt.NDArray[np.uint8]:
        return self._padded[at + _PAD]

    def _at(self, at: Positions, word: bytes) -> Flags:
        """Where does this word stand?"""
        found = np.ones(len(at), bool)
        for first in range(0, len(word), 8):
            piece = word[first : first + 8]
            there = self._words[at + (first + _PAD)]
            if len(piece) < 8:
                there &= _U((1 << 8 * len(piece)) - 1)
            found &= there == _U(int.from_bytes(piece, "little"))
        return found

    def _hash(self, start: Positions, end: Positions) -> tuple[Numbers, Flags]:
        """Numbers that tell pieces of text apart; and which pieces are short enough to have one."""
        length = end - start
        ok = (length >= 0) & (length <= _LONGEST)
        length = np.where(ok, length, 0)
        keys = length.astype(np.uint64) * _ODD
        least = int(length.min(initial=_LONGEST))
        for first in range(0, int(length.max(initial=0)), 8):
            # Most often all pieces have this word.
            rows = slice(None) if first < least else np.flatnonzero(length > first)
            piece = self._words[start[rows] + (first + _PAD)]
            if first + 8 > least:
                piece = piece << ((8 - np.minimum(length[rows] - first, 8)) * 8).astype(np.uint64)
            mixed = (keys[rows] ^ piece) * _ODD
            keys[rows] = mixed ^ (mixed >> _U(29))
        return keys, ok


def _where(flags: Flags) -> Positions | slice:
    """Where flags are set; everywhere is most often so, and costs nothing."""
    return slice(None) if flags.all() else np.flatnonzero(flags)


def _distinct(keys: Numbers) -> tuple[Positions, Positions]:
    """For each distinct key the place of one; and for each key, which of these it is. Most are as the one before."""
    heads = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])[: len(keys)])
    _, examples, index = np.unique(keys[heads], return_index=True, return_inverse=True)
    return heads[examples], np.repeat(index, np.diff(np.append(heads, len(keys))))
