"""Accesses out of a block of a mmiotrace log, all lines at once.

A line that is not plainly `R` or `W` with its nine fields is left to :mod:`mmiotap.formats.mmiotrace_lines`.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmiotap.formats.digits import Digits, Flags, Numbers, Positions
from mmiotap.trace import layout

_NEWLINE, _SPACE, _POINT, _ZERO, _X, _R, _W, _HASH = b"\n .0xRW#"
#: "R", then width, time, map id, physical address, value, pc and pid.
_SPACES = 7
#: By width: the bits of a value that belong to the access. Registers may hold more (sign-extended loads).
_MASK = np.array([(1 << 8 * min(width, 8)) - 1 for width in range(256)], np.uint64)


@dataclass(frozen=True)
class Accesses:
    """Columns of the plain accesses of a block. ``physical`` is a bus address."""

    line: Positions
    time_ns: Positions
    kind: npt.NDArray[np.int64]
    width: Numbers
    map_id: Positions
    physical: Numbers
    value: Numbers
    pc: Numbers
    pid: Positions


#: What other lines are, as far as their first characters tell: nothing (empty, or a comment), one that begins as none
#: of the log's own does, or anything else.
NOTHING, FOREIGN, OWN = range(3)
#: Up to eight characters each.
_OWN_WORDS = (
    b"R ", b"R\n", b"W ", b"W\n", b"UNKNOWN", b"MAP", b"UNMAP", b"MARK", b"CPU:", b"PCIDEV", b"VERSION", b"LSPCI",
    b"rw what?", b"map what",
)  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A block of whole lines: the accesses, and which lines are something else."""

    text: bytes
    starts: Positions
    ends: Positions
    accesses: Accesses
    others: Positions

    def lines(self, first: int, end: int) -> bytes:
        """The text of the lines from ``first`` to before ``end``, without the last one's end."""
        return self.text[self.starts[first] : self.ends[end - 1]]

    def runs(self) -> list[tuple[int, int, int]]:
        """The lines that are something else: first, end and what, of lines in a row that are NOTHING or FOREIGN.

        OWN lines, and the last line of all, are each by themselves.
        """
        if not len(self.others):
            return []
        what = np.full(len(self.others), FOREIGN, np.int8)
        padded = self.text + bytes(8)
        words = np.ndarray((len(self.text) + 1,), "<u8", padded, strides=(1,))[self.starts[self.others]]
        for word in _OWN_WORDS:
            what[words & np.uint64((1 << 8 * len(word)) - 1) == int.from_bytes(word, "little")] = OWN
        first = words & np.uint64(0xFF)
        what[(first == _NEWLINE) | (first == _HASH)] = NOTHING
        what[self.others == len(self.ends) - 1] = OWN
        breaks = (what[1:] != what[:-1]) | (what[1:] == OWN) | (np.diff(self.others) != 1)
        begins = np.flatnonzero(np.append(True, breaks))
        ends = np.append(begins[1:], len(what))
        firsts, lasts = self.others[begins], self.others[ends - 1]
        return list(zip(firsts.tolist(), (lasts + 1).tolist(), what[begins].tolist(), strict=True))


def parse(text: bytes) -> Block:
    """``text`` is lines, each with its end."""
    characters = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(characters == _NEWLINE)
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1] + 1])[: len(ends)]
    spaces = np.flatnonzero(characters == _SPACE)
    first_space = np.searchsorted(spaces, starts)
    count = np.diff(np.append(first_space, len(spaces)))
    letter = characters[starts]
    candidates = np.flatnonzero(((letter == _R) | (letter == _W)) & (count == _SPACES))
    accesses, ok = _accesses(text, characters, candidates, starts, ends, spaces, first_space)
    plain = np.zeros(len(ends), bool)
    plain[accesses.line[ok]] = True
    kept = accesses if ok.all() else Accesses(**{name: column[ok] for name, column in vars(accesses).items()})
    return Block(text, starts, ends, kept, np.flatnonzero(~plain))


def _accesses(
    text: bytes,
    characters: npt.NDArray[np.uint8],
    lines: Positions,
    starts: Positions,
    ends: Positions,
    spaces: Positions,
    first_space: Positions,
) -> tuple[Accesses, Flags]:
    digits = Digits(text)
    space = [spaces[first_space[lines] + index] for index in range(_SPACES)]
    edges = [*space, ends[lines]]
    ok = space[0] - starts[lines] == 1

    def decimal(field: int, *, tail: int = 0) -> Numbers:
        nonlocal ok
        end = edges[field] - tail
        numbers, good = digits.decimal(end, end - edges[field - 1] - 1)
        ok = ok & good
        return numbers

    def hexadecimal(field: int) -> Numbers:
        nonlocal ok
        begin = edges[field - 1] + 1
        numbers, good = digits.hexadecimal(edges[field], edges[field] - begin - 2)
        ok = ok & good & (characters[begin] == _ZERO) & (characters[begin + 1] == _X)
        return numbers

    width = decimal(1)
    seconds = decimal(2, tail=7)
    micros, good = digits.decimal(edges[2], np.full(len(lines), 6))
    ok = ok & good & (characters[edges[2] - 7] == _POINT) & (width < len(_MASK))
    columns = Accesses(
        line=lines,
        time_ns=((seconds * np.uint64(1_000_000) + micros) * np.uint64(1000)).astype(np.int64),
        kind=np.where(characters[starts[lines]] == _R, layout.READ, layout.WRITE),
        width=width,
        map_id=decimal(3).astype(np.int64),
        physical=hexadecimal(4),
        value=hexadecimal(5) & _MASK[np.minimum(width, len(_MASK) - 1).astype(np.int64)],
        pc=hexadecimal(6),
        pid=decimal(7).astype(np.int64),
    )
    return columns, ok
