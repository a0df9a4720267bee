"""Finding the records in pages of the kernel's ring buffer.

A page is a time, how many bytes are used, and records: a word with the kind (5 bits) and the time since the record
before (27 bits), then what the kind says (kernel/trace/ring_buffer.c; ``events/header_event`` in tracefs). Records can
only be found one after the other. But most are as long as those before: as long as all before it are, a record is
where a multiplication says. All pages are walked side by side: such records of each, then one that may be anything.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmiotap.formats.ftrace.fields import PageLayout
from mmiotap.trace.errors import MmiotapError

_KIND_BITS = 5
_KIND = (1 << _KIND_BITS) - 1
_DELTA_BITS = 27
_PADDING = 29
_TIME_EXTEND = 30
_TIME_STAMP = 31
_WORD = 4
#: Of a page's ``commit``: the bytes in use, and what is known of events lost before it.
_USED = (1 << _DELTA_BITS) - 1
_MISSED = 1 << 31
_MISSED_STORED = 1 << 30
#: Absolute times have 59 bits; the others are those of the page.
_TIME_TOP = np.uint64(0xF8 << 56)

Positions = npt.NDArray[np.int64]
#: Of some records: page, time, start and length, in words.
_Found = tuple[Positions, npt.NDArray[np.uint64], Positions, Positions]

#: A loss of which the kernel did not say how much it was.
UNKNOWN_COUNT = -1


@dataclass(frozen=True)
class Records:
    """The records of some pages, in their order.

    :ivar data: the pages.
    :ivar page: the number of its page, for each record.
    :ivar time_ns: by the trace's clock.
    :ivar start: where its payload begins in ``data``; ``length`` is the payload's, in bytes, rounded up to 4.
    :ivar lost: pages before which events were lost, and how many or UNKNOWN_COUNT.
    :ivar page_time_ns: for each page.
    """

    data: bytes
    page: Positions
    time_ns: Positions
    start: Positions
    length: Positions
    lost: list[tuple[int, int]]
    page_time_ns: Positions


def read(data: bytes, layout: PageLayout, name: str) -> Records:
    """The records in ``data``, which is whole pages. ``name`` is what messages call them.

    Raises MmiotapError with the byte offset if they are damaged.
    """
    if len(data) % layout.size:
        raise MmiotapError(f"{name}, byte {len(data) - len(data) % layout.size}: the last page is cut short")
    words = np.frombuffer(data, "<u4")
    begins = np.arange(0, len(data), layout.size)
    commits = words[(begins + layout.commit) // _WORD].astype(np.int64)
    times = np.frombuffer(data, "<u8")[(begins + layout.timestamp) // 8]
    used = commits & _USED
    if (bad := begins[used > layout.size - layout.data]).size:
        raise MmiotapError(f"{name}, byte {bad[0] + layout.commit}: a page that says it holds more than its size")

    at = (begins + layout.data) // _WORD
    end = at + (used + _WORD - 1) // _WORD
    page = np.arange(len(begins))
    clock = times.copy()
    found: list[_Found] = []
    while True:
        inside = at < end
        if not inside.all():
            at, end, page, clock = at[inside], end[inside], page[inside], clock[inside]
        if not at.size:
            break
        alike, at, clock = _alike(words, page, at, end, clock)
        found.append(alike)
        inside = at < end
        if not inside.all():
            at, end, page, clock = at[inside], end[inside], page[inside], clock[inside]
        head = words[at]
        kind = head & _KIND
        delta = (head >> _KIND_BITS).astype(np.uint64)
        follows = words[np.minimum(at + 1, len(words) - 1)].astype(np.uint64)
        # Words of the payload. Kind 0 says its bytes in the next word, that one included; so does padding, without it.
        words_told = ((follows + np.uint64(_WORD - 1)) // np.uint64(_WORD)).astype(np.int64)
        payload = kind.astype(np.int64)
        skip = np.ones(len(at), np.int64)
        long = kind == 0
        payload[long] = words_told[long] - 1
        skip[long] = 2
        padding = kind == _PADDING
        payload[padding] = words_told[padding]
        rest = padding & (delta == 0)
        payload[rest] = (end - at)[rest] - 1
        payload[kind >= _TIME_EXTEND] = 1
        wrong = (payload < 0) | (at + skip + payload > end)
        if wrong.any():
            raise MmiotapError(f"{name}, byte {at[wrong][0] * _WORD}: a record that is longer than its page")

        absolute = kind == _TIME_STAMP
        upper = np.where(kind >= _TIME_EXTEND, follows << np.uint64(_DELTA_BITS), np.uint64(0)) + delta
        clock = np.where(absolute, upper & ~_TIME_TOP | clock & _TIME_TOP, clock + upper)
        event = kind < _PADDING
        found.append((page[event], clock[event], (at + skip)[event], payload[event]))
        at = at + skip + payload

    pages, clocks, starts, lengths = (np.concatenate(column) for column in zip(*found, strict=True)) if found else _NONE
    if (starts[1:] < starts[:-1]).any():
        order = np.argsort(starts, kind="stable")
        pages, clocks, starts, lengths = pages[order], clocks[order], starts[order], lengths[order]
    return Records(
        data=data,
        page=pages,
        time_ns=clocks.astype(np.int64),
        start=starts * _WORD,
        length=lengths * _WORD,
        lost=_losses(data, layout, commits),
        page_time_ns=times.astype(np.int64),
    )


_NONE: _Found = (np.zeros(0, np.int64), np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0, np.int64))


def _alike(
    words: npt.NDArray[np.uint32], page: Positions, at: Positions, end: Positions, clock: npt.NDArray[np.uint64]
) -> tuple[_Found, Positions, npt.NDArray[np.uint64]]:
    """The records that each page goes on with, as long as most are; where it is behind them, and when."""
    common = int(np.bincount(words[at] & _KIND).argmax())
    length = common if 0 < common < _PADDING else _PADDING - 1
    stride = length + 1
    number = np.arange(int((end - at).max()) // stride)
    heads = words[np.minimum(at[:, None] + number * stride, len(words) - 1)]
    same = (heads & _KIND == length) & ((number + 1) * stride <= (end - at)[:, None])
    taken = np.logical_and.accumulate(same, axis=1)
    clocks = clock[:, None] + np.cumsum(heads >> _KIND_BITS, axis=1, dtype=np.uint64)
    row, which = np.nonzero(taken)
    found = page[row], clocks[taken], at[row] + which * stride + 1, np.full(len(row), length)
    count = taken.sum(axis=1)
    some = count > 0
    later = clock.copy()
    later[some] = clocks[some, count[some] - 1]
    return found, at + count * stride, later


def _losses(data: bytes, layout: PageLayout, commits: Positions) -> list[tuple[int, int]]:
    """Where a page has room behind its records, the count of a loss stands there."""
    losses = []
    for page in np.flatnonzero(commits & _MISSED).tolist():
        count = UNKNOWN_COUNT
        behind = page * layout.size + layout.data + int(commits[page] & _USED)
        if commits[page] & _MISSED_STORED and behind + 8 <= (page + 1) * layout.size:
            count = int.from_bytes(data[behind : behind + 8], "little")
        losses.append((page, count))
    return losses
