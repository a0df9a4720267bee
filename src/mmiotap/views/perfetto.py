"""A trace as a picture in Perfetto's UI: a track for each device, in it one for each mapping, in it one a thread.

The format is Perfetto's own (protos/perfetto/trace/trace_packet.proto and track_event.proto, by whose names the numbers
of fields below go). An access is an instant, or a slice where its duration was measured; it is named by what it
accesses, and its arguments tell the rest. What repeats is encoded once, and numpy and Arrow put the packets together:
perfetto's own Python package takes a message at a time, which a hundred million events cannot wait for.
"""

from collections.abc import Iterator
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmiotap.analysis.symbols import Symbols
from mmiotap.trace import layout
from mmiotap.trace.model import Mapping
from mmiotap.trace.reader import Trace
from mmiotap.views.lines import flag_words, map_label
from mmiotap.views.protobuf import LEN, VARINT, message, number, padded, tag, text, varint

Ints = npt.NDArray[np.int64]

# Trace, TracePacket
_PACKET = 1
_TIMESTAMP, _SEQUENCE, _TRACK_EVENT, _INTERNED, _FLAGS, _TRACK = 8, 10, 11, 12, 13, 60
_CLEARED, _NEEDS_INTERNED = 1, 2
# TrackDescriptor
_UUID, _TRACK_NAME, _PARENT = 1, 2, 5
# TrackEvent
_ANNOTATION, _TYPE, _TRACK_UUID, _CATEGORY, _NAME = 4, 9, 11, 22, 23
_BEGIN, _END, _INSTANT = 1, 2, 3
# InternedData, and its entries
_ANNOTATION_NAMES, _ANNOTATION_STRINGS, _IID, _STRING = 3, 29, 1, 2
# DebugAnnotation: pointers are shown in hexadecimal
_NAME_IID, _UINT, _TEXT, _POINTER, _TEXT_IID = 1, 3, 6, 7, 17

_ARGUMENTS = ("value", "fields", "offset", "width", "code", "cpu", "flags", "data", "pid", "tid", "count", "text")
_ARGUMENT = {name: number(_NAME_IID, iid) for iid, name in enumerate(_ARGUMENTS, 1)}
#: Bytes of a length, of a time, of a value.
_LENGTH, _TIME, _WORD = 4, 9, 10
_ACCESSES = ("read", "write", "unknown")
_OUR_SEQUENCE = number(_SEQUENCE, 1)
_WHO = ("map_id", "pid", "tid", "kind", "width", "flags", "cpu", "pc")


def write(tables: Iterator[pa.Table], trace: Trace, out: IO[bytes]) -> None:
    """Write events as they come; ``register`` and ``fields`` of a decoder are used where the tables have them."""
    picture = _Picture(trace)
    names = [
        message(_ANNOTATION_NAMES, number(_IID, iid), text(_STRING, name)) for iid, name in enumerate(_ARGUMENTS, 1)
    ]
    out.write(_packet(number(_FLAGS, _CLEARED), message(_INTERNED, *names)))
    for table in tables:
        if table.num_rows:
            out.writelines(picture.of(table))


class _Picture:
    """Turns events into packets; knows the tracks and strings that were told already."""

    def __init__(self, trace: Trace) -> None:
        self._mappings = {mapping.map_id: mapping for mapping in trace.mappings}
        self._programs = {process.pid: process.executable.rpartition("/")[2] for process in trace.processes}
        self._symbols = Symbols(trace.modules, trace.processes)
        self._tracks: dict[object, int] = {}
        self._codes: dict[str, int] = {}
        self._told: list[bytes] = []  # packets that must come before those of the events
        self._earlier: int | None = None

    def of(self, table: pa.Table) -> Iterator[Any]:
        """The packets of some events, as buffers."""
        if self._earlier is None:
            # Perfetto has no times before 0; a trace that was merged with an offset may.
            self._earlier = min(int(table["time_ns"][0].as_py()), 0)
        is_access = pc.is_in(table["kind"].cast(pa.string()), pa.array(_ACCESSES))
        accesses, others = table.filter(is_access), table.filter(pc.invert(is_access))
        packets: list[Any] = [self._other(row) for row in others.to_pylist()]
        if accesses.num_rows:
            packets.append(self._accesses(accesses))
        yield from self._told
        self._told.clear()
        yield from packets

    def _accesses(self, table: pa.Table) -> Any:
        time = self._times(table["time_ns"].to_numpy())
        duration: Any = table["duration_ns"]
        timed = duration.is_valid().to_numpy()
        who, first = _distinct(*(_numbers(table[name]) for name in _WHO), timed.astype(np.int64))
        owners = table.select(_WHO).take(first).to_pylist()
        codes = self._code([one["pid"] for one in owners], [one["pc"] for one in owners])
        heads, ends = [], []
        for row, code, slice_ in zip(owners, codes, timed[first].tolist(), strict=True):
            track = number(_TRACK_UUID, self._thread(row["map_id"], row["pid"], row["tid"]))
            heads.append(number(_TYPE, _BEGIN if slice_ else _INSTANT) + track + _facts(row, code))
            ends.append(_OUR_SEQUENCE + message(_TRACK_EVENT, number(_TYPE, _END), track))
        event = [_taken(heads, who), self._names(table), _values(table), _wide(table), _decoded(table)]
        event_size = sum(pc.binary_length(part).to_numpy().astype(np.int64) for part in event)
        prefix = number(_FLAGS, _NEEDS_INTERNED) + _OUR_SEQUENCE + tag(_TRACK_EVENT, LEN)
        # Everything before the event has the same size in all packets.
        fixed = 1 + _TIME + len(prefix) + _LENGTH
        start = _rows(
            tag(_PACKET, LEN),
            padded(event_size + fixed, _LENGTH),
            tag(_TIMESTAMP, VARINT),
            padded(time, _TIME),
            prefix,
            padded(event_size, _LENGTH),
        )
        pieces: list[Any] = [start, *event]
        if timed.any():
            ended = time + duration.fill_null(0).to_numpy()
            size = np.array([len(end) for end in ends])[who] + 1 + _TIME
            stamp = _rows(tag(_PACKET, LEN), padded(size, _LENGTH), tag(_TIMESTAMP, VARINT), padded(ended, _TIME))
            pieces += [pc.if_else(pa.array(timed), part, b"") for part in (stamp, _taken(ends, who))]
        return _content(pc.binary_join_element_wise(*pieces, b""))

    def _names(self, table: pa.Table) -> Any:
        """``read STATUS``, or ``read 0x8`` where a register has no name."""
        named = table["register"] if "register" in table.schema.names else None
        place, first = _distinct(*(_numbers(table[name]) for name in ("kind", "map_id", "offset", "width")))
        rows = table.select(["kind", "offset", *(["register"] if named is not None else [])]).take(first).to_pylist()
        return _taken(
            [text(_NAME, f"{one['kind']} {one.get('register') or hex(one['offset'])}") for one in rows], place
        )

    def _other(self, row: dict[str, Any]) -> bytes:
        """A mark, a loss, or what became of a mapping."""
        kind = row["kind"]
        arguments = [_argument("pid", _UINT, row["pid"]), _argument("tid", _UINT, row["tid"])]
        if kind == "mark":
            track, name = self._track("marks", "marks"), row["text"] or "mark"
        elif kind == "lost":
            track, name = self._track("lost", "lost events"), f"{row['value']} events lost"
            arguments.append(_argument("count", _UINT, row["value"]))
        else:
            track, name = self._of_mapping(row["map_id"]), kind
            arguments += [message(_ANNOTATION, _ARGUMENT["text"], text(_TEXT, row["text"]))] if row["text"] else []
        event = message(
            _TRACK_EVENT,
            number(_TYPE, _INSTANT),
            number(_TRACK_UUID, track),
            text(_CATEGORY, kind),
            text(_NAME, name),
            *arguments,
        )
        time = int(self._times(np.array([row["time_ns"]], np.int64))[0])
        return _packet(number(_TIMESTAMP, time), number(_FLAGS, _NEEDS_INTERNED), event)

    def _times(self, time_ns: Ints) -> npt.NDArray[np.uint64]:
        assert self._earlier is not None
        return (time_ns - self._earlier).astype(np.uint64)

    def _thread(self, map_id: int, pid: int, tid: int) -> int:
        key = (map_id, pid, tid)
        if key not in self._tracks:
            program = self._programs.get(pid, "process")
            return self._track(key, f"{program} {pid}, thread {tid}", self._of_mapping(map_id))
        return self._tracks[key]

    def _of_mapping(self, map_id: int) -> int:
        if map_id in self._tracks:
            return self._tracks[map_id]
        mapping = self._mappings.get(map_id)
        if mapping is None:
            return self._track(map_id, f"mapping {map_id}")
        device = mapping.device or mapping.path
        return self._track(map_id, _mapping_name(mapping), self._track(("device", device), device))

    def _track(self, key: object, name: str, parent: int | None = None) -> int:
        """The number of a track, which is told when it is first asked for. Track 0 is the one that Perfetto has."""
        if key not in self._tracks:
            self._tracks[key] = uuid = len(self._tracks) + 1
            above = b"" if parent is None else number(_PARENT, parent)
            self._told.append(_packet(message(_TRACK, number(_UUID, uuid), text(_TRACK_NAME, name), above)))
        return self._tracks[key]

    def _code(self, pids: list[int], pcs: list[int]) -> list[int | None]:
        """Numbers of the names of instructions, None where there is no instruction."""
        found: list[int | None] = []
        for name in self._symbols.names(pids, pcs):
            if name and name not in self._codes:
                self._codes[name] = iid = len(self._codes) + 1
                entry = message(_ANNOTATION_STRINGS, number(_IID, iid), text(_STRING, name))
                self._told.append(_packet(message(_INTERNED, entry)))
            found.append(self._codes[name] if name else None)
        return found


def _mapping_name(mapping: Mapping) -> str:
    bar = "" if mapping.bar is None else f" BAR {mapping.bar}"
    return f"{map_label(mapping)}{bar}"


def _facts(row: dict[str, Any], code: int | None) -> bytes:
    """What all accesses of a site by a thread have in common."""
    facts = [text(_CATEGORY, row["kind"]), _argument("width", _UINT, row["width"])]
    if code is not None:
        facts.append(_argument("code", _TEXT_IID, code))
    if row["cpu"] >= 0:
        facts.append(_argument("cpu", _UINT, row["cpu"]))
    if words := flag_words(row["flags"]):
        facts.append(message(_ANNOTATION, _ARGUMENT["flags"], text(_TEXT, words.strip("[]"))))
    return b"".join(facts)


def _values(table: pa.Table) -> Any:
    """Offset and value; no value where none is known, or it is wider than 8 bytes."""
    offset = _annotations("offset", table["offset"].to_numpy())
    unknown = (table["flags"].to_numpy() & np.uint32(layout.VALUE_UNKNOWN)) != 0
    instruction = pc.is_in(table["kind"].cast(pa.string()), pa.array(["unknown"]))
    lacking = pc.or_(pa.array(unknown), pc.or_(table["data"].is_valid(), instruction))
    value = pc.if_else(lacking, b"", _annotations("value", table["value"].to_numpy()))
    return pc.binary_join_element_wise(offset, value, b"")


def _annotations(name: str, values: npt.NDArray[np.uint64]) -> Any:
    inner = _ARGUMENT[name] + tag(_POINTER, VARINT)
    return _rows(tag(_ANNOTATION, LEN), varint(len(inner) + _WORD), inner, padded(values, _WORD))


def _wide(table: pa.Table) -> Any:
    """Whole values of wide accesses, and instructions, in hexadecimal."""
    if table["data"].null_count == table.num_rows:
        return pa.array([b""] * table.num_rows)
    return pa.array(
        [
            b"" if one is None else message(_ANNOTATION, _ARGUMENT["data"], text(_TEXT, one.hex(" ", -4)))
            for one in table["data"].to_pylist()
        ],
        pa.binary(),
    )


def _decoded(table: pa.Table) -> Any:
    """The fields of a register, where a decoder has found some."""
    if "fields" not in table.schema.names:
        return pa.array([b""] * table.num_rows)
    whole: Any = table["fields"].unify_dictionaries().combine_chunks()
    known = [
        message(_ANNOTATION, _ARGUMENT["fields"], text(_TEXT, one)) if one else b""
        for one in whole.dictionary.to_pylist()
    ]
    return pa.array([*known, b""], pa.binary()).take(whole.indices.fill_null(len(known)))


def _argument(name: str, kind: int, value: int) -> bytes:
    return message(_ANNOTATION, _ARGUMENT[name], number(kind, value))


def _packet(*parts: bytes) -> bytes:
    return message(_PACKET, *parts, _OUR_SEQUENCE)


def _numbers(column: Any) -> Any:
    """A column that :func:`_distinct` can take."""
    if pa.types.is_dictionary(column.type):
        return column.unify_dictionaries().combine_chunks().indices.to_numpy(zero_copy_only=False)
    return column.to_numpy()


def _distinct(*columns: npt.NDArray[Any]) -> tuple[Ints, Ints]:
    """The number of each row among the distinct rows of some columns, and the first row of each number."""
    rows = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        encoded: Any = pa.array(column).dictionary_encode()
        # Both are below the number of rows, so their product is within 64 bits.
        mixed = rows * len(encoded.dictionary) + encoded.indices.to_numpy()
        rows = pa.array(mixed).dictionary_encode().indices.to_numpy().astype(np.int64)
    first = np.empty(int(rows.max()) + 1, np.int64)
    first[rows[::-1]] = np.arange(len(rows) - 1, -1, -1)
    return rows, first


def _rows(*parts: "bytes | npt.NDArray[np.uint8]") -> Any:
    """Bytes that all rows have, and some of each row, as one binary column."""
    count = next(len(part) for part in parts if not isinstance(part, bytes))
    columns = [
        np.broadcast_to(np.frombuffer(part, np.uint8), (count, len(part))) if isinstance(part, bytes) else part
        for part in parts
    ]
    whole: Any = np.concatenate(columns, axis=1)
    size = whole.shape[1]
    ends: Any = np.arange(count + 1, dtype=np.int32) * size
    return pa.Array.from_buffers(pa.binary(), count, [None, pa.py_buffer(ends), pa.py_buffer(whole)])


def _taken(values: list[bytes], indices: Ints) -> Any:
    return pa.array(values, pa.binary()).take(indices)


def _content(column: Any) -> Any:
    """All bytes of a binary column, one row behind the other."""
    column = column.combine_chunks()
    offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset :]
    return memoryview(column.buffers()[2])[offsets[0] : offsets[len(column)]]
