"""Rows of the arena, made into a table of events and what belongs beside it."""

import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmiotap.trace import layout
from mmiotap.trace.arena import Chunk, SegmentHeader
from mmiotap.trace.model import Mapping, Module, Process
from mmiotap.trace.schema import EVENTS, KINDS
from mmiotap.trace.sysfs import locate

#: A row as it lies in the arena.
ROW = np.dtype(
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

Rows = npt.NDArray[np.void]

#: What the ``kind`` column says, by the code that it stores; and the code of each kind of row.
_WORDS = pa.array(list(KINDS.values()))
_NO_KIND = -2
_BESIDE = -1  #: no event, but goes to a file beside them
_CODE_OF_KIND = np.full(256, _NO_KIND, np.int8)
_CODE_OF_KIND[list(KINDS)] = np.arange(len(KINDS))
_CODE_OF_KIND[[layout.MODULE, layout.OTHER, layout.PROCESS]] = _BESIDE

#: Rows that mean something even without bytes behind them.
_LOOKED_AT = [layout.MAP, layout.UNMAP]

#: Columns that are in the row as they are.
_PLAIN = ("time_ns", "width", "map_id", "offset", "value", "pc", "cpu", "flags")

#: length, file offset, prot, flags of mmap; start, end, length of the build id.
_MAP_EXTRA = struct.Struct("<QQII")
_MODULE_EXTRA = struct.Struct("<QQI")
#: PROT_ bits of mmap(2), the same on every machine.
_PROT = ((1, "r"), (2, "w"), (4, "x"))

_T = TypeVar("_T", str, bytes)


@dataclass
class Found:
    """What rows hold."""

    events: pa.Table
    mappings: list[Mapping] = field(default_factory=list)
    modules: list[Module] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)
    not_selected: list[str] = field(default_factory=list)


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


def sealed_by(chunks: Iterable[Chunk], sealed: dict[int, int]) -> dict[int, int]:
    """How far the streams are in parts when these chunks are, too."""
    return {chunk.header.stream_id: chunk.end_seq for chunk in sorted(chunks, key=lambda chunk: chunk.end_seq)}


def losses(chunks: Sequence[Chunk], lost_unplaced: int, sealed: dict[int, int], start_ns: int) -> list[Chunk]:
    """A ``lost`` row for each loss that no row tells of: at the end of a stream, and those without a place.

    The row has the sequence number behind the stream's last one, which the thread itself would have given it. For losses
    without a place that is in stream 0 the number of events. So a loss that has been sealed is not told again. The time
    is that of the last row before, or ``start_ns`` if there is none.
    """
    went_on = {(chunk.header.stream_id, chunk.first_seq) for chunk in chunks if len(chunk.rows)}
    found = []
    latest_ns = start_ns
    for chunk in chunks:
        header = chunk.header
        times = chunk.rows["time_ns"][row_starts(chunk.rows)]
        last_ns = int(times[-1]) if len(times) else start_ns
        latest_ns = max(latest_ns, last_ns)
        told = sealed.get(header.stream_id, 0) > header.end_seq or (header.stream_id, header.end_seq) in went_on
        if header.lost_after and not told:
            found.append(Chunk(header, header.end_seq, _lost_row(last_ns, header.lost_after)))
    told_of = sealed.get(0, 0)
    if lost_unplaced > told_of:
        row = _lost_row(latest_ns, lost_unplaced - told_of)
        found.append(Chunk(SegmentHeader(-1, 0, 0, 0, 0, 0, 0), lost_unplaced - 1, row))
    return found


def _lost_row(time_ns: int, events: int) -> Rows:
    row = np.zeros(1, ROW)
    row["time_ns"], row["value"], row["kind"] = time_ns, events, layout.LOST
    row["duration_ns"], row["cpu"] = layout.NO_DURATION, -1
    return row


def row_starts(rows: Rows) -> npt.NDArray[np.bool_]:
    """Which of these are rows; the others are continuation rows, which may hold anything."""
    starts = np.ones(len(rows), np.bool_)
    behind = 0
    extra_rows = rows["extra_rows"]
    for index in np.flatnonzero(extra_rows).tolist():
        if index >= behind:
            behind = index + 1 + int(extra_rows[index])
            starts[index + 1 : behind] = False
    return starts


def convert(chunks: Sequence[Chunk], mappings: dict[int, Mapping]) -> Found:
    """Chunks as events in time order, rows of one stream as they come, and what else they tell.

    ``mappings`` are those found before, by id; new ones are added.
    """
    lengths = [len(chunk.rows) for chunk in chunks]
    blocks = np.concatenate([np.empty(0, ROW), *(chunk.rows for chunk in chunks)])
    pids = np.repeat(np.array([chunk.header.pid for chunk in chunks], np.int32), lengths)
    tids = np.repeat(np.array([chunk.header.tid for chunk in chunks], np.int32), lengths)
    kinds = np.where(row_starts(blocks), _CODE_OF_KIND[blocks["kind"]], _NO_KIND)
    found = Found(EVENTS.empty_table())
    texts, data = _read_extras(blocks, pids, kinds, mappings, found)
    order = np.flatnonzero(kinds >= 0)
    times = blocks["time_ns"][order]
    if np.any(times[1:] < times[:-1]):
        order = order[np.argsort(times, kind="stable")]
    duration = blocks["duration_ns"][order]
    columns = {name: blocks[name][order] for name in _PLAIN} | {
        "duration_ns": pa.array(duration, mask=duration == layout.NO_DURATION),
        "kind": pa.DictionaryArray.from_arrays(kinds[order], _WORDS),
        "data": _sparse(data, order, pa.binary()),
        "pid": pids[order],
        "tid": tids[order],
        "text": _sparse(texts, order, pa.string()),
    }
    found.events = pa.table([pa.array(columns[name]) for name in EVENTS.names], schema=EVENTS)
    return found


def _read_extras(
    blocks: Rows, pids: npt.NDArray[np.int32], kinds: npt.NDArray[np.int8], mappings: dict[int, Mapping], found: Found
) -> tuple[dict[int, str], dict[int, bytes]]:
    """Texts and data of events by the index of their block; the rest goes to ``found``."""
    texts: dict[int, str] = {}
    data: dict[int, bytes] = {}
    unmapped: list[int] = []
    kind_of = blocks["kind"]
    has_more = (blocks["extra_len"] != 0) | np.isin(kind_of, _LOOKED_AT)
    for index in np.flatnonzero((kinds != _NO_KIND) & has_more).tolist():
        row, kind = blocks[index], int(kind_of[index])
        end = index + 1 + int(row["extra_rows"])
        extra = blocks[index + 1 : end].tobytes()[: int(row["extra_len"])]
        if kind in (layout.READ, layout.WRITE, layout.UNKNOWN):
            data[index] = extra
        elif kind == layout.MARK:
            texts[index] = extra.decode("utf-8", "replace")
        elif kind == layout.MAP:
            mapping = _mapping(row, int(pids[index]), extra)
            mappings[mapping.map_id] = mapping
            found.mappings.append(mapping)
            texts[index] = json.dumps(mapping.to_json())
        elif kind == layout.UNMAP:
            unmapped.append(index)
        elif kind == layout.MODULE:
            found.modules.append(_module(row, int(pids[index]), extra))
        elif kind == layout.PROCESS:
            found.processes.append(Process(int(pids[index]), int(row["value"]), _path(extra)))
        elif kind == layout.OTHER:
            found.not_selected.append(_path(extra))
    for index in unmapped:  # its map row may be in the stream of another thread
        mapping_of = mappings.get(int(blocks["map_id"][index]))
        if mapping_of is not None:
            texts[index] = json.dumps(mapping_of.to_json())
    return texts, data


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


def _path(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")


def _sparse(values: dict[int, _T], order: npt.NDArray[np.intp], kind: pa.DataType) -> pa.Array[Any]:
    """A column of the rows in ``order`` with a value for the blocks that have one, and null for the others."""
    if not values:
        return pa.nulls(len(order), kind)
    at = np.array(sorted(values))
    place = np.searchsorted(at, order)
    missing = at[np.minimum(place, len(at) - 1)] != order
    return pa.array([values[index] for index in at.tolist()], kind).take(pa.array(place, pa.int32(), mask=missing))
