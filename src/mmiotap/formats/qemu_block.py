"""Accesses out of a block of QEMU's log, all lines of a kind at once.

A log has few kinds of lines: those of a kind have the same length, and differ in the digits of time, address and value
only. So :mod:`mmiotap.formats.qemu_lines` reads the first line of a kind; whatever else has the same bytes in all other
places would be read the same way, but for these digits.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmiotap.formats import digits, qemu_lines
from mmiotap.formats.digits import Flags, Numbers, Positions
from mmiotap.formats.qemu_lines import Places, Record, Region

_NEWLINE, _RETURN = b"\n\r"
_U = np.uint64
#: So many kinds of each length are remembered, the last used ones, and so many new ones are looked for in a block.
_KINDS = 64
#: What a line is that has no access: none of these events, or one that cannot be read.
_OTHER, _UNREAD = -1, -2
#: Longer lines are read one by one: nobody's names are so long.
_LONGEST = 512


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


class Reader:
    """Reads a log block by block, and remembers the kinds of lines that it met."""

    def __init__(self) -> None:
        self._kinds: dict[int, list[_Kind]] = {}

    def parse(self, text: bytes) -> Block:
        """``text`` is lines, each with its end."""
        return _Reading(_Text(text), self._kinds).block()


class _Text:
    """A block of text, and where its lines are."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._padded = text + bytes(_LONGEST + 8)
        characters = np.frombuffer(text, np.uint8)
        newlines = np.flatnonzero(characters == _NEWLINE)
        self.starts = np.concatenate([np.zeros(1, np.int64), newlines[:-1] + 1])[: len(newlines)]
        # A line ends before its newline, and before the return that some put there.
        returns = (newlines > self.starts) & (characters[newlines - 1] == _RETURN)
        self.ends = newlines - returns

    def line(self, number: int) -> bytes:
        return self._text[self.starts[number] : self.ends[number]]

    def lines(self, numbers: Positions, length: int) -> "_Lines":
        """Lines of this length, at most _LONGEST."""
        words = -(-length // 8)
        # Overlapping pieces of so many words, one from each place of the text on.
        pieces = np.ndarray((len(self._text),), dtype=f"V{8 * words}", buffer=self._padded, strides=(1,))
        return _Lines(numbers, pieces[self.starts[numbers]].view("<u8").reshape(len(numbers), words))


@dataclass(frozen=True)
class _Lines:
    """Lines of the same length.

    :ivar words: a row a line; what the last word has behind the line's end means nothing.
    """

    numbers: Positions
    words: npt.NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, rows: Flags | slice) -> "_Lines":
        return _Lines(self.numbers[rows], self.words[rows])

    def digits(self, begin: int, end: int) -> Numbers:
        """Of each line the up to eight digits at this place, for :mod:`mmiotap.formats.digits`."""
        row = self.words.strides[0]
        words: Numbers = np.ndarray((len(self),), "<u8", self.words.data, offset=end - 8, strides=(row,))
        return digits.digits(words, end - begin)


class _Kind:
    """A kind of line, as its first one shows it."""

    def __init__(self, line: bytes, record: Record) -> None:
        self.record = record
        self._line = line
        self._places: Places = qemu_lines.places(line)
        self._seconds: dict[int, int] = {}
        fixed = bytearray(b"\xff" * len(line))
        for place in (self._places.address, self._places.value, self._places.second, self._places.micros):
            if place:
                fixed[slice(*place)] = bytes(place[1] - place[0])
        padding = bytes(-len(line) % 8)
        self._mask = np.frombuffer(bytes(fixed) + padding, "<u8")
        self._words = np.frombuffer(line + padding, "<u8") & self._mask

    def find(self, lines: _Lines) -> tuple[Flags, Positions, Numbers, Numbers]:
        """Which of these lines, all as long as this, are of this kind; and for each line time, address and value."""
        differ = lines.words & self._mask
        differ ^= self._words
        ok = np.bitwise_or.reduce(differ, axis=1) == 0
        time_ns, timed = self._times(lines)
        address, addressed = _hexadecimal(lines, *self._places.address)
        value, valued = _hexadecimal(lines, *self._places.value)
        bits = 8 * min(self.record.width, 8)
        return ok & timed & addressed & valued, time_ns, address, value & _U((1 << bits) - 1)

    def _times(self, lines: _Lines) -> tuple[Positions, Flags | bool]:
        if not self._places.second or not self._places.micros:
            time_ns = -1 if self.record.time_ns is None else self.record.time_ns
            return np.full(len(lines), time_ns, np.int64), True
        micros, ok = digits.decimal(lines.digits(*self._places.micros))
        words = lines.digits(*self._places.second)
        # Most are of the same second as the line before.
        heads = np.flatnonzero(np.append(True, words[1:] != words[:-1])[: len(words)])
        told = np.array([self._second(word) for word in words[heads].tolist()], np.int64)
        seconds = np.repeat(told, np.diff(np.append(heads, len(words))))
        return seconds + micros.astype(np.int64) * 1000, ok & (seconds >= 0)

    def _second(self, word: int) -> int:
        """What a line of this kind with these eight digits of time, and no microseconds, says; −1: nothing."""
        if word not in self._seconds:
            line = bytearray(self._line)
            assert self._places.second
            assert self._places.micros
            line[slice(*self._places.second)] = digits.characters(word)
            line[slice(*self._places.micros)] = b"000000"
            told = qemu_lines.parse(bytes(line))
            self._seconds = {word: -1 if told is None or told.time_ns is None else told.time_ns}
        return self._seconds[word]


def _hexadecimal(lines: _Lines, begin: int, end: int) -> tuple[Numbers, Flags]:
    number, ok = digits.hexadecimal(lines.digits(max(begin, end - 8), end))
    if end - begin > 8:
        high, good = digits.hexadecimal(lines.digits(begin, end - 8))
        number, ok = number | high << _U(32), ok & good
    return number, ok


class _Reading:
    """One block, while it is read."""

    def __init__(self, text: _Text, kinds: dict[int, list[_Kind]]) -> None:
        self._text = text
        self._kinds = kinds
        count = len(text.starts)
        #: The kind of each line, as an index into ``_records``; or one of these:
        self._which = np.full(count, _OTHER, np.int32)
        self._records: list[Record] = []
        self._firsts: list[int] = []
        self._time_ns = np.empty(count, np.int64)
        self._address = np.empty(count, np.uint64)
        self._value = np.empty(count, np.uint64)

    def block(self) -> Block:
        for length, numbers in self._lengths():
            if length <= _LONGEST:
                numbers = self._known(length, self._text.lines(numbers, length)).numbers
            self._unknown(length, numbers)
        line = np.flatnonzero(self._which >= 0)
        which = self._which[line]
        records = self._records
        regions: dict[Region, int] = {}
        for _, record in sorted(zip(self._firsts, records, strict=True), key=lambda one: one[0]):
            regions.setdefault(record.region, len(regions))

        accesses = Accesses(
            line=line,
            time_ns=self._time_ns[line],
            kind=np.array([record.kind for record in records], np.int8)[which],
            width=np.array([record.width for record in records], np.uint16)[which],
            region=np.array([regions[record.region] for record in records], np.int32)[which],
            address=self._address[line],
            value=self._value[line],
            tid=np.array([record.tid for record in records], np.int32)[which],
            cpu=np.array([record.cpu for record in records], np.int16)[which],
        )
        unread = np.flatnonzero(self._which == _UNREAD).tolist()
        return Block(len(self._which), list(regions), accesses, unread, np.flatnonzero(self._which == _OTHER))

    def _lengths(self) -> Iterator[tuple[int, Positions]]:
        """Lines that may have an event, those of a length together."""
        lengths = self._text.ends - self._text.starts
        order = np.argsort(np.minimum(lengths, _LONGEST + 1).astype(np.uint16), kind="stable")
        order = order[np.searchsorted(lengths[order], qemu_lines.SHORTEST) :]
        edges = np.flatnonzero(np.diff(lengths[order])) + 1
        for rows in np.split(order, edges) if len(order) else []:
            yield int(lengths[rows[0]]), rows

    def _known(self, length: int, lines: _Lines) -> _Lines:
        """Take the lines of kinds that are known. Returns the others."""
        kinds = self._kinds.get(length, [])
        for kind in list(kinds):
            rest = self._take(kind, lines)
            if len(rest) < len(lines):
                kinds.remove(kind)
                kinds.insert(0, kind)
            lines = rest
            if not len(lines):
                break
        return lines

    def _unknown(self, length: int, numbers: Positions) -> None:
        """Read one by one, and take at once what is of the same kind, as long as that pays."""
        kinds = self._kinds.setdefault(length, [])
        tries = _KINDS if length <= _LONGEST else 0
        at = 0
        while at < len(numbers):
            number = int(numbers[at])
            line = self._text.line(number)
            at += 1
            if qemu_lines.EVENT.search(line) is None:
                continue
            record = qemu_lines.parse(line)
            if record is None:
                self._which[number] = _UNREAD
                continue
            time_ns = -1 if record.time_ns is None else record.time_ns
            self._put(record, number, time_ns, record.address, record.value)
            if tries:
                tries -= 1
                kind = _Kind(line, record)
                kinds.insert(0, kind)
                del kinds[_KINDS:]
                if at < len(numbers):
                    numbers, at = self._take(kind, self._text.lines(numbers[at:], length)).numbers, 0

    def _take(self, kind: _Kind, lines: _Lines) -> _Lines:
        """Take the lines of this kind. Returns the others."""
        ok, time_ns, address, value = kind.find(lines)
        if ok.all():
            self._put(kind.record, lines.numbers, time_ns, address, value)
            return lines[:0]
        if ok.any():
            self._put(kind.record, lines.numbers[ok], time_ns[ok], address[ok], value[ok])
            return lines[~ok]
        return lines

    def _put(
        self,
        record: Record,
        lines: Positions | int,
        time_ns: Positions | int,
        address: Numbers | int,
        value: Numbers | int,
    ) -> None:
        self._which[lines] = len(self._records)
        self._records.append(record)
        self._firsts.append(lines if isinstance(lines, int) else int(lines[0]))
        self._time_ns[lines] = time_ns
        self._address[lines] = address
        self._value[lines] = value
