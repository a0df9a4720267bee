"""Rows of the arena, made into a table of events and what belongs beside it. No Python loop over accesses."""

import json
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmiotap.trace import layout
from mmiotap.trace.arena import Chunk, SegmentHeader
from mmiotap.trace.arrays import Column, numbers, texts, values
from mmiotap.trace.model import SITE_REASONS, SITE_STATES, Mapping, Module, Process, Site
from mmiotap.trace.schema import EVENTS, KINDS
from mmiotap.trace.sysfs import locate

#: The fields of a row.
FIELDS = np.dtype(
    {
        "names": [
            "time_ns", "value", "offset", "pc", "flags", "map_id", "duration_ns", "width", "cpu", "kind",
            "extra_rows", "extra_len",
        ],
        "formats": ["<i8", "<u8", "<u8", "<u8", "<u4", "<i4", "<u4", "<u2", "<i2", "u1", "u1", "<u2"],
        "offsets": [
            layout.R_TIME_NS, layout.R_VALUE, layout.R_OFFSET, layout.R_PC, layout.R_FLAGS, layout.R_MAP_ID,
            layout.R_DURATION_NS, layout.R_WIDTH, layout.R_CPU, layout.R_KIND, layout.R_EXTRA_ROWS, layout.R_EXTRA_LEN,
        ],
        "itemsize": layout.ROW_SIZE,
    }
)  # fmt: skip

#: Rows and continuation rows as they lie in the arena, 8 words each. (numpy copies records field by field, which is
#: slow and forgets the bytes that no field names.)
Rows = npt.NDArray[np.uint64]

#: Segments in a part, at most: 512 × 1023 rows.
PART_SEGMENTS = 512

#: What the ``kind`` column says, by the code that it stores; and the code of each kind of row.
_WORDS = texts(list(KINDS.values()))
#: Negative: no event.
_CODE_OF_KIND = np.full(256, -1, np.int8)
_CODE_OF_KIND[list(KINDS)] = np.arange(len(KINDS))

_HAVE_DATA = [layout.READ, layout.WRITE, layout.UNKNOWN]
_ABOUT_THE_PROCESS = [layout.MAP, layout.UNMAP, layout.MODULE, layout.PROCESS, layout.OTHER, layout.SITE]

#: Columns that are in the row as they are.
_PLAIN = ("time_ns", "width", "map_id", "offset", "value", "pc", "cpu", "flags")

#: length, file offset, prot, flags of mmap; start, end, length of the build id.
_MAP_EXTRA = struct.Struct("<QQII")
_MODULE_EXTRA = struct.Struct("<QQI")
#: PROT_ bits of mmap(2), the same on every machine.
_PROT = ((1, "r"), (2, "w"), (4, "x"))


@dataclass
class Found:
    """What rows hold."""

    events: pa.Table
    mappings: list[Mapping] = field(default_factory=list)
    modules: list[Module] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)
    sites: list[Site] = field(default_factory=list)
    not_selected: list[str] = field(default_factory=list)


class Scratch:
    """Memory for columns that is used again: to get fresh pages takes longer than to fill them."""

    def __init__(self) -> None:
        self._arrays: dict[str, npt.NDArray[Any]] = {}

    def array(self, name: str, length: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """The array of this name, with anything in it; good until it is asked for again."""
        if name not in self._arrays or length > len(self._arrays[name]):
            self._arrays[name] = np.empty(length, dtype)
        return self._arrays[name][:length]

    def take(self, name: str, values: npt.NDArray[Any], order: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
        """``values[order]``."""
        return np.take(values, order, out=self.array(name, len(order), values.dtype), mode="clip")


def fields(rows: Rows) -> npt.NDArray[np.void]:
    """The same rows as records; no copy."""
    return rows.view(FIELDS)[:, 0]


def unsealed(chunks: Iterable[Chunk], sealed: dict[int, int]) -> list[Chunk]:
    """The rows that are in no part: of each stream all from where its parts end, in order, a stream after the other.

    A snapshot is not made in one moment, so it may have caught a thread in a new segment and not its last rows in the
    one before. What comes after such a gap is left for the next snapshot.
    """
    whole = []
    upto = dict(sealed)
    for chunk in sorted(chunks, key=lambda chunk: (chunk.header.stream_id, chunk.first_seq)):
        stream = chunk.header.stream_id
        rest = chunk.since(upto.get(stream, 0))
        if len(rest.rows) and rest.first_seq == upto.get(stream, 0):
            whole.append(rest)
            upto[stream] = rest.end_seq
    return whole


def losses(chunks: Sequence[Chunk], lost_unplaced: int, sealed: dict[int, int], end_ns: int) -> list[Chunk]:
    """A ``lost`` row for each loss that no row tells of: at the end of a stream, and those without a place.

    The row has the sequence number behind the stream's last one, which the thread itself would have given it. For
    losses without a place that is, in stream 0, the number of events. So a loss that is in a part is not told again.
    Its time is that of the last row before it; without a place ``end_ns``.
    """
    went_on = {(chunk.header.stream_id, chunk.first_seq) for chunk in chunks if len(chunk.rows)}
    found = []
    for chunk in chunks:
        header = chunk.header
        told = sealed.get(header.stream_id, 0) > header.end_seq or (header.stream_id, header.end_seq) in went_on
        if header.lost_after and not told:
            time_ns = _last_ns(chunk) if len(chunk.rows) else end_ns
            found.append(Chunk(header, header.end_seq, _lost_row(time_ns, header.lost_after)))
    told_of = sealed.get(0, 0)
    if lost_unplaced > told_of:
        nobody = SegmentHeader(-1, 0, 0, 0, 0, 0, 0)
        found.append(Chunk(nobody, lost_unplaced - 1, _lost_row(end_ns, lost_unplaced - told_of)))
    return found


def _lost_row(time_ns: int, events: int) -> Rows:
    rows = np.zeros((1, layout.ROW_SIZE // 8), np.uint64)
    row = fields(rows)
    row["time_ns"], row["value"], row["kind"] = time_ns, events, layout.LOST
    row["duration_ns"], row["cpu"] = layout.NO_DURATION, -1
    return rows


def latest_ns(chunks: Iterable[Chunk]) -> int:
    """The time of the latest row that is the last of its stream; 0 if there is none. A stream's chunks are in order."""
    last = {chunk.header.stream_id: chunk for chunk in chunks if len(chunk.rows)}
    return max(map(_last_ns, last.values()), default=0)


def _last_ns(chunk: Chunk) -> int:
    rows = fields(chunk.rows)
    return int(rows["time_ns"][row_starts(rows["extra_rows"], [len(rows)])][-1])


def count(chunks: Sequence[Chunk]) -> tuple[int, int]:
    """How many events these rows hold, and how many more they say are lost."""
    events = lost = 0
    for first in range(0, len(chunks), PART_SEGMENTS):
        rows, starts = _columns(chunks[first : first + PART_SEGMENTS], ["kind", "value", "extra_rows"], Scratch())
        events += int(np.count_nonzero(starts & (_CODE_OF_KIND[rows["kind"]] >= 0)))
        lost += int(rows["value"][starts & (rows["kind"] == layout.LOST)].sum())
    return events, lost


def count_flag(events: pa.Table, flag: int) -> int:
    """How many of these events have this flag."""
    return int(np.count_nonzero(values(events.column("flags")) & np.uint32(flag)))


def in_parts(chunks: Iterable[Chunk]) -> Iterator[list[Chunk]]:
    """The chunks for one part after the other, so that parts follow each other in time, and so do a stream's rows."""
    begin: dict[int, int] = {}
    keys = []
    for chunk in sorted(chunks, key=lambda chunk: (chunk.header.stream_id, chunk.first_seq)):
        stream = chunk.header.stream_id
        begin[stream] = max(begin.get(stream, 0), int(fields(chunk.rows)["time_ns"][0]))
        keys.append((begin[stream], stream, chunk.first_seq, chunk))
    keys.sort(key=lambda key: key[:3])
    for first in range(0, len(keys), PART_SEGMENTS):
        yield [key[3] for key in keys[first : first + PART_SEGMENTS]]


def sealed_by(chunks: Iterable[Chunk]) -> dict[int, int]:
    """How far the streams are in parts when these chunks are, too."""
    return {chunk.header.stream_id: chunk.end_seq for chunk in sorted(chunks, key=lambda chunk: chunk.end_seq)}


def row_starts(extra_rows: npt.NDArray[np.uint8], lengths: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Which of these are rows; the others are continuation rows, which may hold anything.

    ``lengths`` are those of the chunks that are one behind the other. A row is known as one only from the row before
    it, so this walks through all chunks at once, from each row that has more behind it to the next one.
    """
    candidates = np.flatnonzero(extra_rows)
    if not len(candidates):
        return np.ones(len(extra_rows), np.bool_)
    ends = np.cumsum(lengths)
    behind = np.minimum(candidates + 1 + extra_rows[candidates], np.repeat(ends, lengths)[candidates])
    following = np.searchsorted(candidates, behind)
    at = np.searchsorted(candidates, ends - lengths)
    stop = np.searchsorted(candidates, ends)
    is_row = np.zeros(len(candidates), np.bool_)
    while len(at):
        inside = at < stop
        at, stop = at[inside], stop[inside]
        is_row[at] = True
        at = following[at]
    step = np.zeros(len(extra_rows) + 1, np.int8)
    step[candidates[is_row] + 1] += 1
    step[behind[is_row]] -= 1
    return np.logical_not(np.cumsum(step[:-1], dtype=np.int8))


def convert(chunks: Sequence[Chunk], mappings: dict[int, Mapping], scratch: Scratch) -> Found:
    """Chunks as events in time order, rows of one stream as they come, and what else they tell.

    ``mappings`` are those found before, by id; new ones are added. The table is good until ``scratch`` is used again.
    """
    rows, starts = _columns(chunks, [*_PLAIN, "duration_ns", "kind", "extra_rows"], scratch)
    kinds = rows["kind"]
    # Accesses of up to 8 bytes are nearly all there is, and need no second look.
    special = np.flatnonzero((rows["extra_rows"] != 0) | (kinds > layout.WRITE))
    special = special[starts[special]]
    others = special[np.isin(kinds[special], _ABOUT_THE_PROCESS)]
    marks = special[kinds[special] == layout.MARK]
    with_data = special[(rows["extra_rows"][special] != 0) & np.isin(kinds[special], _HAVE_DATA)]
    found = Found(pa.Table.from_batches([], EVENTS))
    blocks = _joined(chunks) if len(others) + len(marks) + len(with_data) else _joined([])
    lengths = [len(chunk.rows) for chunk in chunks]
    pids = np.repeat(np.array([chunk.header.pid for chunk in chunks], np.int32), lengths)
    tids = np.repeat(np.array([chunk.header.tid for chunk in chunks], np.int32), lengths)
    spoken = _read_others(blocks, others, pids, mappings, found)

    codes = _CODE_OF_KIND[kinds]
    order = np.flatnonzero(starts & (codes >= 0))
    times = scratch.take("times", rows["time_ns"], order)
    if np.any(times[1:] < times[:-1]):
        order = order[np.argsort(times, kind="stable")]
    duration = scratch.take("sorted duration_ns", rows["duration_ns"], order)
    columns = {name: numbers(scratch.take(f"sorted {name}", rows[name], order)) for name in _PLAIN} | {
        "duration_ns": numbers(duration, duration == layout.NO_DURATION),
        "kind": pa.DictionaryArray.from_arrays(numbers(codes[order]), _WORDS),
        "data": _placed(_extras(blocks, with_data), with_data, order),
        "pid": numbers(scratch.take("sorted pid", pids, order)),
        "tid": numbers(scratch.take("sorted tid", tids, order)),
        "text": _placed(
            pa.concat_arrays([_as_text(_extras(blocks, marks)), texts(list(spoken.values()))]),
            np.concatenate([marks, np.array(list(spoken), np.intp)]),
            order,
        ),
    }
    found.events = pa.table([columns[name] for name in EVENTS.names], schema=EVENTS)
    return found


def _columns(
    chunks: Sequence[Chunk], names: Sequence[str], scratch: Scratch
) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[np.bool_]]:
    """These fields of all blocks, and which blocks are rows. ``extra_rows`` must be one of the fields."""
    lengths = [len(chunk.rows) for chunk in chunks]
    columns = {name: scratch.array(name, sum(lengths), FIELDS[name]) for name in names}
    end = 0
    for chunk in chunks:  # chunk by chunk: one is small enough to stay in the cache while its fields are picked
        rows = fields(chunk.rows)
        begin, end = end, end + len(rows)
        for name, column in columns.items():
            column[begin:end] = rows[name]
    return columns, row_starts(columns["extra_rows"], lengths)


def _joined(chunks: Sequence[Chunk]) -> Rows:
    """The blocks of all chunks, one behind the other."""
    return np.concatenate([np.empty((0, layout.ROW_SIZE // 8), np.uint64), *(chunk.rows for chunk in chunks)])


def _extras(blocks: Rows, at: npt.NDArray[np.intp]) -> Column:
    """The bytes in the continuation rows of each of these rows."""
    heads = fields(blocks[at])
    counts = heads["extra_rows"].astype(np.intp)
    first = np.cumsum(counts) - counts
    owner = np.repeat(np.arange(len(at)), counts)
    nth = np.arange(len(owner)) - first[owner]
    behind = np.minimum(at[owner] + 1 + nth, len(blocks) - 1)
    used = np.clip(heads["extra_len"][owner].astype(np.intp) - nth * layout.ROW_SIZE, 0, layout.ROW_SIZE)
    raw = blocks[behind].view(np.uint8)
    data = raw[np.arange(layout.ROW_SIZE) < used[:, np.newaxis]]
    offsets = np.zeros(len(at) + 1, np.int32)
    np.cumsum(np.minimum(heads["extra_len"], counts * layout.ROW_SIZE), out=offsets[1:])
    buffers = [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(data.tobytes())]
    return pa.Array.from_buffers(pa.binary(), len(at), buffers)


def _as_text(raw: Column) -> Column:
    """UTF-8 as the agent wrote it; what is none becomes U+FFFD."""
    try:
        checked: Column = raw.cast(pa.string())
        return checked
    except pa.ArrowInvalid:
        return texts([(text or b"").decode("utf-8", "replace") for text in raw.to_pylist()])


def _placed(values: Column, at: npt.NDArray[np.intp], order: npt.NDArray[np.intp]) -> Column:
    """A column for the blocks in ``order``: of those in ``at`` the value, of all others null."""
    placed: Column = pa.nulls(len(order), values.type)
    if len(at):
        by_block = np.argsort(at)
        index = by_block[np.minimum(np.searchsorted(at, order, sorter=by_block), len(at) - 1)]
        indices: Column = numbers(index, at[index] != order)
        placed = values.take(indices)
    return placed


def _read_others(
    blocks: Rows,
    at: npt.NDArray[np.intp],
    pids: npt.NDArray[np.int32],
    mappings: dict[int, Mapping],
    found: Found,
) -> dict[int, str]:
    """Rows that tell of the process: the texts of those that are events, by block; the rest goes to ``found``."""
    spoken: dict[int, str] = {}
    unmapped: list[tuple[int, int]] = []
    extras: list[bytes] = [extra or b"" for extra in _extras(blocks, at).to_pylist()]
    for index, extra in zip(at.tolist(), extras, strict=True):
        row, pid = fields(blocks[index : index + 1])[0], int(pids[index])
        match int(row["kind"]):
            case layout.MAP:
                mapping = _mapping(row, pid, extra)
                mappings[mapping.map_id] = mapping
                found.mappings.append(mapping)
                spoken[index] = json.dumps(mapping.to_json())
            case layout.UNMAP:
                unmapped.append((index, int(row["map_id"])))
            case layout.MODULE:
                found.modules.append(_module(row, pid, extra))
            case layout.PROCESS:
                found.processes.append(Process(pid, int(row["value"]), _path(extra)))
            case layout.SITE:
                found.sites.append(_site(row, pid, extra))
            case layout.OTHER:
                found.not_selected.append(_path(extra))
    for index, map_id in unmapped:  # its map row may be in the stream of another thread
        if map_id in mappings:
            spoken[index] = json.dumps(mappings[map_id].to_json())
    return spoken


def _mapping(row: np.void, pid: int, extra: bytes) -> Mapping:
    length, file_offset, prot, _ = _MAP_EXTRA.unpack_from(extra.ljust(_MAP_EXTRA.size, b"\0"))
    path = _path(extra[_MAP_EXTRA.size :])
    place = locate(path, file_offset)
    return Mapping(
        map_id=int(row["map_id"]),
        pid=pid,
        path=path,
        address=int(row["value"]),
        length=length,
        file_offset=file_offset,
        prot="".join(letter for bit, letter in _PROT if prot & bit),
        device=place.device,
        bar=place.bar,
        physical=place.physical,
        time_ns=int(row["time_ns"]),
    )


def _module(row: np.void, pid: int, extra: bytes) -> Module:
    start, end, length = _MODULE_EXTRA.unpack_from(extra.ljust(_MODULE_EXTRA.size, b"\0"))
    rest = extra[_MODULE_EXTRA.size :]
    return Module(pid, _path(rest[length:]), start, end, int(row["value"]), rest[:length].hex())


def _site(row: np.void, pid: int, extra: bytes) -> Site:
    state, reason = int(row["flags"]) & 0xFF, int(row["flags"]) >> layout.WHY_SHIFT & 0xFF
    return Site(
        pid=pid,
        pc=int(row["pc"]),
        width=int(row["width"]),
        state=SITE_STATES.get(state, str(state)),
        traps=int(row["value"]),
        bytes=extra.hex(),
        time_ns=int(row["time_ns"]),
        reason=None if reason == layout.WHY_NONE else SITE_REASONS.get(reason, str(reason)),
    )


def _path(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")
