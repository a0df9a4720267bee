"""Reading a mmiotrace log into a trace. What a line becomes, column by column, stands in docs/formats.md.

trace.json gets `pci_devices`, a list of the PCIDEV lines, and `mmiotrace`: the `version` and the `lspci` lines.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from mmiotap.formats import mmiotrace_block, mmiotrace_lines
from mmiotap.formats.compressed import Log
from mmiotap.formats.importing import LONGEST_LINE, NOT_SAID, Ending, Imported, Tables, Writer, blocks, make_trace
from mmiotap.formats.mmiotrace_lines import VERSION, Record
from mmiotap.formats.pci import PciDevice, place
from mmiotap.trace import layout
from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.model import Mapping
from mmiotap.trace.schema import EVENTS, KIND_TYPE, KINDS

_NO_TIME = -1
#: No block has so many lines that their numbers need more.
_LINE_BITS = 24
#: More of them than there are addresses on the buses of one domain are no list of a machine's devices.
_MOST_DEVICES = 1 << 16
_WORDS = list(KINDS.values())
_CODE = {kind: index for index, kind in enumerate(KINDS)}


def import_log(raw: BinaryIO, name: str, path: Path, *, force: bool = False) -> Imported:
    """Make the trace ``path`` of a log. ``name`` is what messages call the log.

    Raises what :func:`mmiotap.formats.importing.make_trace` raises, also for what is no mmiotrace log.
    """
    log = Log(raw, name)
    return make_trace(name, path, "mmiotrace", lambda writer: load(log, writer), force=force)


def load(log: Log, writer: Writer) -> Ending:
    """The importer (:mod:`mmiotap.formats.importing`)."""
    reader = Reader(log.name)
    tables = Tables(writer)
    for text in _blocks(log):
        tables.add(reader.table(text))
    tables.flush()
    writer.add_mappings(reader.mappings)
    info = {
        "pci_devices": [device.to_json() for device in reader.devices],
        "mmiotrace": {"version": reader.version, "lspci": reader.lspci},
    }
    return Ending(reader.lines, reader.cut, f"line {reader.lines}: the last line", info=info)


def _blocks(log: Log) -> Iterator[bytes]:
    """Blocks of whole lines, and of whole marks, which may be several: the last mark of a block goes into the next."""
    rest = b""
    for text in blocks(log):
        text = rest + text
        mark = _last_mark(text) if text.endswith(b"\n") else len(text)
        rest = text[mark:]
        if mark:
            yield text[:mark]
    if rest:
        yield rest


def _last_mark(text: bytes) -> int:
    """Where it begins; the end if it is longer than marks are, or there is none."""
    found = text.rfind(b"\nMARK ", -LONGEST_LINE) + 1
    return found if found or (text.startswith(b"MARK ") and len(text) <= LONGEST_LINE) else len(text)


def recognises(head: bytes) -> bool:
    """Whether one of the first lines that are no comments is one of such a log."""
    told = [line for line in head.splitlines()[:1000] if line and not line.startswith(b"#")]
    begins = (b"VERSION ", b"PCIDEV ", b"LSPCI ")
    return any(line.startswith(begins) or mmiotrace_lines.parse(line) for line in told[:2]) or (
        not told and b"tracer: mmiotrace" in head
    )


@dataclass
class Reader:
    """Goes through a log block by block and knows what earlier lines said."""

    name: str
    lines: int = 0
    version: str | None = None
    cut: str | None = None
    devices: list[PciDevice] = field(default_factory=list)
    lspci: list[str] = field(default_factory=list)
    mappings: list[Mapping] = field(default_factory=list)
    _bases: dict[int, int] = field(default_factory=dict)
    _latest: dict[int, Mapping] = field(default_factory=dict)
    _time_ns: int = 0
    _in_mark: bool = False
    _known: bool = False

    def __post_init__(self) -> None:
        self._listed = set(self.devices)

    def table(self, text: bytes) -> pa.Table:
        """The events of one block."""
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n")
        whole = text.endswith(b"\n")
        block = mmiotrace_block.parse(text if whole else text + b"\n")
        # Physical addresses of mappings: the id, and the line from which each holds.
        since = [(map_id, -1, base) for map_id, base in self._bases.items()]
        records: list[tuple[int, Record]] = []
        last = len(block.ends) - 1
        follows = 0
        self._in_mark = False
        # Lines that go on with a mark, by its place among the records.
        continued: dict[int, list[bytes]] = {}
        for number, end, what in block.runs():
            if number != follows:
                self._in_mark = False
            follows = end
            if what == mmiotrace_block.NOTHING:
                self._known = self._known or bool(block.lines(number, end).strip(b"\n"))
                self._in_mark = False
                continue
            line = block.lines(number, end)
            record = mmiotrace_lines.parse(line) if what == mmiotrace_block.OWN else None
            if record is not None:
                if record.kind == layout.MAP:
                    since.append((record.map_id, number, record.physical))
                    self._note_mapping(record)
                elif record.kind == layout.UNMAP:
                    self._note_unmapping(record)
                records.append((number, record))
                self._in_mark = record.kind == layout.MARK
            elif what == mmiotrace_block.FOREIGN or (
                not self._note_other(line, number) and not (number == last and not whole and self._cut_short(line))
            ):
                self._continue_mark(line, number, records, continued)
        for index, more in continued.items():
            mark = records[index][1]
            mark.text = "\n".join([mark.text or "", b"\n".join(more).decode(errors="backslashreplace")])
        table = self._assemble(block, records, since)
        self.lines += len(block.ends)
        return table

    def _note_mapping(self, record: Record) -> None:
        self._bases[record.map_id] = record.physical
        path, device, bar = place(record.physical, self.devices)
        mapping = Mapping(
            map_id=record.map_id,
            pid=record.pid,
            path=path,
            address=record.virtual,
            length=record.length,
            file_offset=0,
            prot="rw",
            device=device,
            bar=bar,
            physical=record.physical,
            time_ns=record.time_ns or 0,
        )
        self.mappings.append(mapping)
        self._latest[mapping.map_id] = mapping
        record.value, record.text = mapping.address, json.dumps(mapping.to_json())

    def _note_unmapping(self, record: Record) -> None:
        """Such a line names a mapping, and says no more of it."""
        mapping = self._latest.get(record.map_id)
        if mapping is not None:
            record.value, record.text = mapping.length, json.dumps(mapping.to_json())

    def _note_other(self, line: bytes, number: int) -> bool:
        """Lines that are no events: header, PCI devices, comments."""
        if line.startswith(b"VERSION "):
            self.version = line[8:].decode(errors="backslashreplace").strip()
            if self.version != VERSION:
                raise self._error(number, f"version {self.version[:40]} of the format is not known, only {VERSION} is")
        elif line.startswith(b"PCIDEV "):
            device = PciDevice.from_line(line)
            if device is None:
                return False
            if device not in self._listed:
                self._listed.add(device)
                self.devices.append(device)
        elif line.startswith(b"LSPCI "):
            self.lspci.append(line.decode(errors="backslashreplace"))
        elif line and not line.startswith(b"#"):
            return False
        if max(len(self.devices), len(self.lspci)) > _MOST_DEVICES:
            raise self._error(number, f"more than {_MOST_DEVICES} PCI devices")
        self._known = self._known or bool(line)
        self._in_mark = False
        return True

    def _cut_short(self, line: bytes) -> bool:
        if not (self._known or self._time_ns):
            return False
        self.cut = line.decode(errors="backslashreplace")
        return True

    def _continue_mark(
        self, text: bytes, number: int, records: list[tuple[int, Record]], continued: dict[int, list[bytes]]
    ) -> None:
        line = text[: text.find(b"\n")] if b"\n" in text else text
        if self._in_mark and records and mmiotrace_lines.is_free(line):
            continued.setdefault(len(records) - 1, []).append(text)
            return
        shown = line[:60].decode(errors="backslashreplace")
        if not self._known and not self._time_ns and number == 0:
            raise self._error(number, f"no mmiotrace log: it begins with {shown!r}")
        raise self._error(
            number,
            f"{shown!r} is not {mmiotrace_lines.expected(line)}; to import the lines before it, cut the log there",
        )

    def _error(self, number: int, what: str) -> MmiotapError:
        """Of a line of the block."""
        return MmiotapError(f"{self.name}, line {self.lines + number + 1}: {what}")

    def _assemble(
        self, block: mmiotrace_block.Block, records: list[tuple[int, Record]], since: list[tuple[int, int, int]]
    ) -> pa.Table:
        fast = block.accesses
        slow = [record for _, record in records]
        lines = np.concatenate([fast.line, np.array([number for number, _ in records], np.int64)])
        order = np.argsort(lines, kind="stable")

        def column(plain: Any, name: str, kind: Any) -> Any:
            others = np.array([getattr(record, name) for record in slow], dtype=kind)
            return np.concatenate([plain.astype(kind), others])[order]

        times = np.array([_NO_TIME if record.time_ns is None else record.time_ns for record in slow], np.int64)
        time_ns = self._filled(np.concatenate([fast.time_ns, times])[order])
        map_id = column(fast.map_id, "map_id", np.int32)
        physical = column(fast.physical, "physical", np.uint64)
        kind = column(fast.kind, "kind", np.int8)
        offset = physical - _bases(map_id, lines[order], since)
        offset[np.isin(kind, (layout.MAP, layout.UNMAP, layout.MARK, layout.LOST))] = 0
        flags = np.where(kind == layout.UNKNOWN, np.uint32(NOT_SAID), np.uint32(0))
        blobs: list[bytes | None] = [None] * len(lines) if records else []
        texts: list[str | None] = [None] * len(lines) if records else []
        for index, number in enumerate(np.flatnonzero(order >= len(fast.line)).tolist() if records else []):
            blobs[number], texts[number] = slow[index].data, slow[index].text
        data = pa.array(blobs, pa.binary()) if records else pa.nulls(len(lines), pa.binary())
        text = pa.array(texts, pa.string()) if records else pa.nulls(len(lines), pa.string())
        pid = pa.array(column(fast.pid, "pid", np.int32))
        cpu = column(np.full(len(fast.line), -1), "cpu", np.int16)
        codes = np.zeros(max(_CODE) + 1, np.int8)
        codes[list(_CODE)] = list(_CODE.values())
        columns = {
            "time_ns": pa.array(time_ns),
            "duration_ns": pa.nulls(len(lines), pa.uint32()),
            "kind": pa.DictionaryArray.from_arrays(pa.array(codes[kind]), _WORDS).cast(KIND_TYPE),
            "width": pa.array(column(fast.width, "width", np.uint16)),
            "map_id": pa.array(map_id),
            "offset": pa.array(offset),
            "value": pa.array(column(fast.value, "value", np.uint64)),
            "data": data,
            "pc": pa.array(column(fast.pc, "pc", np.uint64)),
            "pid": pid,
            "tid": pid,
            "cpu": pa.array(cpu),
            "flags": pa.array(flags),
            "text": text,
        }
        return pa.table([columns[name] for name in EVENTS.names], schema=EVENTS)

    def _filled(self, times: Any) -> Any:
        """A line without a time of its own has that of the line before."""
        known = np.where(times == _NO_TIME, -1, np.arange(len(times)))
        last = np.maximum.accumulate(known) if len(times) else known
        filled = np.where(last >= 0, times[np.maximum(last, 0)], self._time_ns)
        if len(filled):
            self._time_ns = int(filled[-1])
        return filled


def _bases(map_id: Any, lines: Any, since: list[tuple[int, int, int]]) -> Any:
    """For each row the physical address that its mapping begins at; 0 where no line tells."""
    if not since:
        return np.zeros(len(map_id), np.uint64)
    ids, starts, bases = (np.array(column) for column in zip(*since, strict=True))
    keys = ids << _LINE_BITS | starts + 1
    order = np.argsort(keys)
    place = np.searchsorted(keys[order], map_id.astype(np.int64) << _LINE_BITS | lines + 1, side="right") - 1
    latest = order[np.maximum(place, 0)]
    return np.where((place >= 0) & (ids[latest] == map_id), bases.astype(np.uint64)[latest], np.uint64(0))
