"""What mmiotrace and markers leave in the ring buffer, as rows of a trace.

Records of other kinds are left out. Fields and opcodes: kernel/trace/trace_entries.h, include/linux/mmiotrace.h.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmiotap.formats.ftrace import pages
from mmiotap.formats.ftrace.fields import Event, Formats
from mmiotap.formats.ftrace.pages import Records
from mmiotap.formats.pci import PciDevice, place
from mmiotap.trace import layout
from mmiotap.trace.arrays import numbers, scattered, texts
from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.model import Mapping
from mmiotap.trace.schema import EVENTS, KIND_TYPE, KINDS

#: The kinds of record that become rows.
NAMES = ("mmiotrace_rw", "mmiotrace_map", "print")

_COMMON = ("common_type", "common_pid")
_RW = (*_COMMON, "phys", "value", "pc", "map_id", "opcode", "width")
_MAP = (*_COMMON, "phys", "virt", "len", "map_id", "opcode")
#: mmiotrace's opcodes, as layout numbers them; another one is not known.
_OPCODES = {1: layout.READ, 2: layout.WRITE, 3: layout.MAP, 4: layout.UNMAP, 5: layout.UNKNOWN}
_KIND = np.array([_OPCODES.get(opcode, layout.UNKNOWN) for opcode in range(256)], np.int8)
_WORDS = texts(list(KINDS.values()))
_CODE = np.zeros(max(KINDS) + 1, np.int8)
_CODE[list(KINDS)] = range(len(KINDS))
_MASK = np.array([(1 << 8 * width) - 1 if 0 < width < 8 else (1 << 64) - 1 for width in range(256)], np.uint64)
_NOT_SAID = layout.VALUE_UNKNOWN | layout.REASON_NOT_IN_SOURCE << layout.REASON_SHIFT
_OPCODE_BYTES = 3
#: No record is longer than the largest page.
_LONGEST = 1 << 16
#: Payloads begin and end at such multiples.
_WORD = 4
#: Text of a loss that the kernel did not count.
NOT_COUNTED = "the kernel did not say how many"

#: Text of a loss that is only known by the kernel's count at the end.
SOMEWHERE = "lost before this; the kernel did not say where"

_Array = npt.NDArray[Any]


@dataclass
class Decoder:
    """Makes rows of pages, and knows what earlier ones said.

    :ivar devices: PCI devices that mappings are looked up in.
    :ivar needed: kinds of record that the kernel must have; where it does not have another one, there is none.
    :ivar mappings: all that were seen.
    """

    formats: Formats
    devices: Sequence[PciDevice] = ()
    needed: Sequence[str] = NAMES
    mappings: list[Mapping] = field(default_factory=list)
    _latest: dict[int, Mapping] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if missing := [name for name in self.needed if name not in self.formats.events]:
            raise MmiotapError(f"this kernel has no events {', '.join(missing)}: it was built without CONFIG_MMIOTRACE")
        wanted = zip(NAMES, (_RW, _MAP, _COMMON), strict=True)
        self._kinds = {
            name: (self.formats.events[name], dtype(self.formats.events[name], fields))
            for name, fields in wanted
            if name in self.formats.events
        }
        if "print" in self._kinds and "buf" not in self._kinds["print"][0].fields:
            raise MmiotapError("events print of this kernel have no field 'buf'")

    def know(self, mappings: Iterable[Mapping]) -> None:
        """Of mappings that were seen by another."""
        for mapping in mappings:
            self.mappings.append(mapping)
            self._latest[mapping.map_id] = mapping

    def _gather(self, records: Records, name: str) -> dict[str, _Array]:
        if name in self._kinds:
            return gather(records, *self._kinds[name])
        nothing = np.dtype([(field, np.uint64) for field in {*_RW, *_MAP}])
        return {"record": np.zeros(0, nothing), "where": np.zeros(0, np.int64)}

    def table(self, parts: Iterable[tuple[int, bytes]], name: str) -> pa.Table:
        """Rows of whole pages of some CPUs, in the order of their time. ``name`` is what messages call the pages.

        Raises MmiotapError with the byte offset if a page is damaged.
        """
        read = [(cpu, pages.read(data, self.formats.page, name)) for cpu, data in parts]
        said: list[bytes] = []
        blocks = [self._slow(cpu, records, said) for cpu, records in read]  # all mappings, before the accesses
        blocks += [self._accesses(cpu, records, said) for cpu, records in read]
        blocks = [block for block in blocks if len(block["kind"])]
        if not blocks:
            return EVENTS.empty_table()
        columns = blocks[0]
        if len(blocks) > 1:
            columns = {key: np.concatenate([block[key] for block in blocks]) for key in columns}
        # Positions tell the order of what has the same time: within a CPU they are in the order of the buffer.
        position, time_ns = columns.pop("position"), columns["time_ns"]
        if len(blocks) > 1 or (time_ns[1:] < time_ns[:-1]).any():
            order = np.lexsort((position, time_ns))
            columns = {key: column[order] for key, column in columns.items()}
        return _table(columns, said)

    def _accesses(self, cpu: int, records: Records, said: list[bytes]) -> dict[str, _Array]:
        rows = self._gather(records, "mmiotrace_rw")
        record, where = rows["record"], rows["where"]
        kind, width, value = _KIND[record["opcode"]], record["width"], record["value"]
        unknown = kind == layout.UNKNOWN
        saying: _Array | int = 0
        flags: _Array | int = 0
        if unknown.any():
            opcodes: list[bytes | None] = [
                (opcode & 0xFFFFFF).to_bytes(_OPCODE_BYTES, "big") for opcode in value[unknown].tolist()
            ]
            saying = np.zeros(len(kind), np.int32)
            saying[unknown] = _say(opcodes, said)
            width, value = np.where(unknown, 0, width), np.where(unknown, 0, value)
            flags = np.where(unknown, _NOT_SAID, 0)
        map_id = record["map_id"].astype(np.int32)
        return _columns(
            len(kind),
            position=2 * where + 1,
            time_ns=records.time_ns[where],
            kind=kind,
            width=width,
            map_id=map_id,
            offset=record["phys"] - self._bases(map_id),
            value=value & _MASK[width],
            said=saying,
            pc=record["pc"],
            tid=record["common_pid"],
            cpu=cpu,
            flags=flags,
        )

    def _bases(self, map_id: _Array) -> _Array:
        """Physical addresses that mappings begin at; 0 where none was seen. The kernel uses no id twice."""
        if not self._latest:
            return np.zeros(len(map_id), np.uint64)
        ids = np.array(sorted(self._latest), np.int32)
        bases = np.array([self._latest[one].physical or 0 for one in ids.tolist()], np.uint64)
        place = np.minimum(np.searchsorted(ids, map_id), len(ids) - 1)
        return np.where(ids[place] == map_id, bases[place], np.uint64(0))

    def _slow(self, cpu: int, records: Records, said: list[bytes]) -> dict[str, _Array]:
        """Mappings, markers and losses: few, so one by one."""
        rows: list[dict[str, Any]] = []
        for page, count in records.lost:
            first = int(np.searchsorted(records.page, page))
            known = count != pages.UNKNOWN_COUNT
            inside = first < len(records.page) and records.page[first] == page
            when = records.time_ns[first] if inside else records.page_time_ns[page]
            rows.append(
                {
                    "position": 2 * first,
                    "time_ns": when,
                    "kind": layout.LOST,
                    "value": count if known else 0,
                    "text": None if known else NOT_COUNTED,
                }
            )
        rows += self._mapped(records)
        rows += self._printed(records)
        numbers = [key for key in dict.fromkeys(key for row in rows for key in row) if key != "text"]
        given = {key: np.array([row.get(key, 0) for row in rows], _DEFAULTS[key][0]) for key in numbers}
        words = [row.get("text") for row in rows]
        saying = _say([None if word is None else word.encode() for word in words], said)
        return _columns(len(rows), cpu=cpu, said=saying, **given)

    def _mapped(self, records: Records) -> list[dict[str, Any]]:
        found = self._gather(records, "mmiotrace_map")
        rows = []
        for record, where in zip(found["record"], found["where"].tolist(), strict=True):
            kind, map_id, time_ns = int(_KIND[record["opcode"]]), int(record["map_id"]), int(records.time_ns[where])
            mapping = self._latest.get(map_id)
            value, text = 0, None
            if kind == layout.MAP:
                mapping = self._mapping(record, map_id, time_ns)
                self._latest[map_id] = mapping
                self.mappings.append(mapping)
                value, text = mapping.address, json.dumps(mapping.to_json())
            elif mapping is not None:
                value, text = mapping.length, json.dumps(mapping.to_json())
            rows.append(
                {
                    "position": 2 * where + 1,
                    "time_ns": time_ns,
                    "kind": kind,
                    "map_id": map_id,
                    "value": value,
                    "text": text,
                    "tid": int(record["common_pid"]),
                }
            )
        return rows

    def _mapping(self, record: Any, map_id: int, time_ns: int) -> Mapping:
        physical = int(record["phys"])
        path, device, bar = place(physical, self.devices)
        return Mapping(
            map_id=map_id,
            pid=int(record["common_pid"]),
            path=path,
            address=int(record["virt"]),
            length=int(record["len"]),
            file_offset=0,
            prot="rw",
            device=device,
            bar=bar,
            physical=physical,
            time_ns=time_ns,
        )

    def _printed(self, records: Records) -> list[dict[str, Any]]:
        found = self._gather(records, "print")
        rows = []
        for record, where in zip(found["record"], found["where"].tolist(), strict=True):
            start = int(records.start[where])
            begin = start + self._kinds["print"][0].fields["buf"].offset
            text = records.data[begin : start + int(records.length[where])].split(b"\0", 1)[0]
            rows.append(
                {
                    "position": 2 * where + 1,
                    "time_ns": int(records.time_ns[where]),
                    "kind": layout.MARK,
                    "text": text.removesuffix(b"\n").decode(errors="backslashreplace"),
                    "tid": int(record["common_pid"]),
                }
            )
        return rows


def lost_somewhere(count: int, time_ns: int) -> pa.Table:
    """A row for events that were lost, nobody knows where."""
    columns = _columns(1, kind=layout.LOST, time_ns=time_ns, value=count, said=1)
    return _table(columns, [SOMEWHERE.encode()])


def dtype(event: Event, names: Iterable[str]) -> np.dtype[Any]:
    """The fields of a record, where its kernel has them."""
    try:
        fields = [event.fields[name] for name in names]
    except KeyError as error:
        raise MmiotapError(f"events {event.name} of this kernel have no field {error}") from error
    if any(one.size not in (1, 2, 4, 8) or one.offset > _LONGEST for one in fields):
        raise MmiotapError(f"events {event.name} of this kernel have fields of sizes or offsets that are not known")
    return np.dtype(
        {
            "names": [one.name for one in fields],
            "formats": [f"<{'i' if one.signed else 'u'}{one.size}" for one in fields],
            "offsets": [one.offset for one in fields],
            "itemsize": -(-max(one.offset + one.size for one in fields) // _WORD) * _WORD,
        }
    )


def gather(records: Records, event: Event, dtype: np.dtype[Any]) -> dict[str, _Array]:
    """The records of one kind that are long enough for their fields, and which of all they are."""
    kind = event.fields["common_type"]
    words = np.frombuffer(records.data, "<u4")
    where = np.flatnonzero(records.length >= dtype.itemsize)
    start = records.start[where] // _WORD
    number = words[start + kind.offset // _WORD] >> np.uint32(8 * (kind.offset % _WORD))
    same = number & np.uint32((1 << 8 * kind.size) - 1) == event.id
    if not same.all():
        where, start = where[same], start[same]
    # Any word may be the first of a record; copying whole records is much faster than field by field.
    room = max(len(words) - dtype.itemsize // _WORD + 1, 0)
    anywhere: _Array = np.ndarray((room,), f"V{dtype.itemsize}", records.data, strides=(_WORD,))
    return {"record": anywhere[start].view(dtype), "where": where}


#: Columns that a row may leave out, and what then stands there.
_DEFAULTS: dict[str, tuple[Any, Any]] = {
    "position": (np.int64, 0),
    "time_ns": (np.int64, 0),
    "kind": (np.int8, 0),
    "width": (np.uint16, 0),
    "map_id": (np.int32, 0),
    "offset": (np.uint64, 0),
    "value": (np.uint64, 0),
    "pc": (np.uint64, 0),
    "tid": (np.int32, 0),
    "cpu": (np.int16, -1),
    "flags": (np.uint32, 0),
    # Few rows have data or a text; which of those that are said, counted from 1.
    "said": (np.int32, 0),
}


def _columns(count: int, **given: Any) -> dict[str, _Array]:
    columns = {}
    for name, (kind, default) in _DEFAULTS.items():
        value = given.get(name, default)
        columns[name] = value.astype(kind, copy=False) if isinstance(value, np.ndarray) else np.full(count, value, kind)
    return columns


def _say(words: Sequence[bytes | None], said: list[bytes]) -> _Array:
    """Adds to what is said; the numbers of these words, 0 where there is none."""
    numbered = np.zeros(len(words), np.int32)
    for row, word in enumerate(words):
        if word is not None:
            said.append(word)
            numbered[row] = len(said)
    return numbered


def _table(columns: dict[str, _Array], said: list[bytes]) -> pa.Table:
    rows = len(columns["kind"])
    tid = numbers(columns["tid"])
    arrays: dict[str, Any] = {
        name: numbers(columns[name]) for name in ("time_ns", "width", "map_id", "offset", "value", "pc", "cpu")
    }
    arrays |= {
        "duration_ns": pa.nulls(rows, pa.uint32()),
        "kind": pa.DictionaryArray.from_arrays(numbers(_CODE[columns["kind"]]), _WORDS).cast(KIND_TYPE),
        "data": pa.nulls(rows, pa.binary()),
        # The kernel's records name the thread only.
        "pid": tid,
        "tid": tid,
        "flags": numbers(columns["flags"]),
        "text": pa.nulls(rows, pa.string()),
    }
    if said:
        unknown = columns["kind"] == layout.UNKNOWN
        arrays["data"] = _words(columns["said"] * unknown, said, pa.binary())
        arrays["text"] = _words(columns["said"] * ~unknown, said, pa.string())
    return pa.table([arrays[name] for name in EVENTS.names], schema=EVENTS)


def _words(saying: _Array, said: list[bytes], kind: "pa.DataType") -> "pa.Array[Any]":
    where = np.flatnonzero(saying)
    return scattered(len(saying), where, [said[number - 1] for number in saying[where].tolist()], kind)
