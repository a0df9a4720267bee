"""Reading a QEMU log into a trace. What a line becomes stands in docs/formats.md.

What the regions are, and where each begins, is known only when all of a log was read. Until then the accesses wait in a
file of their own.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmiotap.formats import qemu_block, qemu_lines
from mmiotap.formats.compressed import Log
from mmiotap.formats.importing import Ending, Imported, Tables, Writer, make_trace
from mmiotap.formats.qemu_block import Accesses
from mmiotap.formats.qemu_lines import Region
from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.model import Mapping
from mmiotap.trace.schema import EVENTS, KIND_TYPE, KINDS

_BLOCK = 1 << 23
#: A line that is longer than that is no access, and not kept.
_LONGEST_LINE = 1 << 16
#: A PC has memory below this address, and ports; so what is a region there is one of ports.
PORTS_END = 1 << 16
_PAGE = 4096

_CODES: npt.NDArray[np.int8] = np.zeros(max(KINDS) + 1, np.int8)
_CODES[list(KINDS)] = range(len(KINDS))
_WORDS = list(KINDS.values())
#: Columns of accesses, as they wait.
_COLUMNS = {
    name: np.dtype(kind)
    for name, kind in {
        "line": np.int64, "time_ns": np.int64, "kind": np.int8, "width": np.uint16, "region": np.int32,
        "address": np.uint64, "value": np.uint64, "tid": np.int32, "cpu": np.int16,
    }.items()
}  # fmt: skip


@dataclass(frozen=True)
class ImportedQemu(Imported):
    """What came of it.

    :ivar unread: lines that have an access which cannot be read; ``first_unread`` is the first one's number.
    :ivar doubled: lines that tell once more of an access that another line tells of.
    """

    unread: int = 0
    first_unread: int | None = None
    doubled: int = 0


@dataclass
class Span:
    """What of a region is known from its accesses: addresses, and the time of the first one."""

    first: int
    end: int
    time_ns: int

    def add(self, first: int, end: int) -> None:
        self.first, self.end = min(self.first, first), max(self.end, end)


def import_log(raw: BinaryIO, name: str, path: Path, *, force: bool = False) -> ImportedQemu:
    """Make the trace ``path`` of a log. ``name`` is what messages call the log.

    Raises MmiotapError if there is no access in it, it is damaged, or the trace cannot be made; there is no trace then,
    and what ``force`` allows to replace is still there.
    """
    log = Log(raw, name)
    found = make_trace(name, path, "qemu", lambda writer: load(log, writer), force=force)
    told = {key: found.info[key] for key in ("unread", "first_unread", "doubled")}
    return ImportedQemu(**vars(found), **told)


def recognises(head: bytes) -> bool:
    """Whether one of these lines is such an event."""
    return any(qemu_lines.EVENT.search(line) and qemu_lines.parse(line) for line in head.splitlines())


def load(log: Log, writer: Writer) -> Ending:
    """The importer (:mod:`mmiotap.formats.importing`)."""
    kept_rows = 0
    with tempfile.TemporaryFile(dir=writer.dir.path) as waiting:
        found = _Found()
        for text in _blocks(log):
            found.add(text, waiting)
        if not found.spans:
            raise MmiotapError(
                f"{log.name} is no QEMU log with accesses: of {found.lines} lines none is a memory_region_ops or "
                "vfio_region event" + (f" that can be read; line {found.unread[0]} is damaged" if found.unread else "")
            )
        waiting.seek(0)
        kept = found.layers()
        mappings = [mapping(number, *one, pid=0) for number, one in enumerate(found.spans.items())]
        mappings = [one for one, region in zip(mappings, found.spans, strict=True) if region.event in kept]
        rows, tables = _Rows(mappings, timed=found.timed), Tables(writer)
        for accesses in _waiting(waiting):
            table = rows.table(accesses)
            kept_rows += table.num_rows
            tables.add(table)
        tables.flush()
    writer.add_mappings(mappings)
    first_unread = found.unread[0] if found.unread else None
    info = {
        "clock": "unix" if found.timed else "lines",
        "unread": found.unread_count,
        "first_unread": first_unread,
        "doubled": found.accesses - kept_rows,
    }
    notes = (
        (f"line {first_unread}: damaged and left out, as are {found.unread_count - 1} more",) if found.unread else ()
    )
    return Ending(found.lines, notes=notes, info=info)


def mapping(number: int, region: Region, span: Span, pid: int) -> Mapping:
    """The mapping that accesses to a region become, as far as its accesses tell; ids are numbers + 1."""
    name = region.name.decode(errors="backslashreplace")
    if region.event == qemu_lines.VFIO:
        bar = int(region.handle)
        words = {6: "ROM", 7: "config", 8: "VGA"}
        path = f"{name}/{words.get(bar, f'BAR{bar}')}"
        return _mapping(number, pid, path, 0, _pages(span.end), span.time_ns, device=name, bar=bar if bar < 7 else None)
    if region.event != qemu_lines.OPS:
        word = "subpage" if region.event == qemu_lines.SUBPAGE else "ram_device"
        path = f"{word}:{region.handle.decode(errors='backslashreplace')}"
        return _mapping(number, pid, path, 0, _pages(span.end), span.time_ns)
    if span.end <= PORTS_END:
        base, length = _block(span, 1)
        return _mapping(number, pid, f"ioports:{name or f'{base:#x}'}", base, length, span.time_ns)
    base, length = _block(span, _PAGE)
    return _mapping(number, pid, name or f"{base:#x}", base, length, span.time_ns)


def _mapping(number: int, pid: int, path: str, base: int, length: int, time_ns: int, **more: Any) -> Mapping:
    return Mapping(
        map_id=number + 1,
        pid=pid,
        path=path,
        address=base,
        length=length,
        file_offset=0,
        prot="rw",
        physical=None if "device" in more else base,
        time_ns=time_ns,
        **more,
    )


def _block(span: Span, least: int) -> tuple[int, int]:
    """The smallest block aligned to its size that holds all accesses: BARs are such blocks."""
    size = least
    while span.first // size != (span.end - 1) // size:
        size *= 2
    return span.first // size * size, size


def _pages(end: int) -> int:
    return -(-end // _PAGE) * _PAGE


def _blocks(log: Log) -> Iterator[bytes]:
    """The log's text in blocks of whole lines. A last line without its end gets one."""
    rest = b""
    while data := log.read(_BLOCK):
        end = data.rfind(b"\n") + 1
        if end:
            yield b"".join((rest, memoryview(data)[:end]))
            rest = b""
        rest = (rest + data[end:])[:_LONGEST_LINE]
    if rest:
        yield rest + b"\n"


class _Found:
    """What is in the log, as far as it was read."""

    def __init__(self) -> None:
        self.spans: dict[Region, Span] = {}
        self.lines = 0
        self.accesses = 0
        self.timed = False
        self.unread: list[int] = []
        self.unread_count = 0
        self._numbers: dict[Region, int] = {}
        self._reader = qemu_block.Reader()

    def add(self, text: bytes, waiting: IO[bytes]) -> None:
        block = self._reader.parse(text)
        accesses = block.accesses
        place = np.array([self._numbers.setdefault(one, len(self._numbers)) for one in block.regions], np.int32)
        ends = accesses.address + accesses.width
        # An access at the very end of the addresses: its end must not begin again at 0.
        ends = np.where(ends < accesses.address, accesses.address, ends)
        for number, region in enumerate(block.regions):
            rows = np.flatnonzero(accesses.region == number) if len(block.regions) > 1 else slice(None)
            first, end = int(accesses.address[rows].min()), int(ends[rows].max())
            time_ns = max(int(accesses.time_ns[rows][0]), 0)
            self.spans.setdefault(region, Span(first, end, time_ns)).add(first, end)
        if block.unread and not self.unread:
            self.unread.append(self.lines + block.unread[0] + 1)
        self.unread_count += len(block.unread)
        self.timed = self.timed or bool((accesses.time_ns >= 0).any())
        columns = vars(accesses) | {
            "line": accesses.line + self.lines + 1,
            "region": place[accesses.region] if len(place) else accesses.region,
        }
        if len(accesses.line):
            waiting.write(len(accesses.line).to_bytes(8, "little"))
            for name, dtype in _COLUMNS.items():
                waiting.write(columns[name].astype(dtype, copy=False).data)
        self.lines += block.lines
        self.accesses += len(accesses.line)

    def layers(self) -> set[int]:
        """The events that are kept: where QEMU tells of an access as a whole, what is behind it tells of it again."""
        events = {region.event for region in self.spans}
        inner = {qemu_lines.RAM_DEVICE, qemu_lines.VFIO}
        return {qemu_lines.OPS} if qemu_lines.OPS in events else events & inner or events


def _waiting(file: IO[bytes]) -> Iterator[Accesses]:
    file.seek(0)
    while head := file.read(8):
        count = int.from_bytes(head, "little")
        yield Accesses(
            **{name: np.frombuffer(file.read(count * dtype.itemsize), dtype) for name, dtype in _COLUMNS.items()}
        )


class _Rows:
    """Rows of a trace out of accesses, block by block."""

    def __init__(self, mappings: list[Mapping], *, timed: bool) -> None:
        count = max((one.map_id for one in mappings), default=0) + 1
        self._bases = np.zeros(count, np.uint64)
        self._kept = np.zeros(count, bool)
        for one in mappings:
            self._bases[one.map_id] = one.physical or 0
            self._kept[one.map_id] = True
        self._timed = timed
        self._time_ns = 0

    def table(self, accesses: Accesses) -> pa.Table:
        map_id = accesses.region + 1
        # A mapping that is not kept may have an id behind the last one that is.
        kept = self._kept[np.minimum(map_id, len(self._kept) - 1)] & (map_id < len(self._kept))
        if not kept.all():
            accesses = Accesses(**{name: column[kept] for name, column in vars(accesses).items()})
            map_id = accesses.region + 1
        times = accesses.time_ns if self._timed else accesses.line
        time_ns = np.maximum.accumulate(np.maximum(times, self._time_ns)) if len(times) else times
        self._time_ns = int(time_ns[-1]) if len(time_ns) else self._time_ns
        return table(accesses, time_ns, map_id, accesses.address - self._bases[map_id], pid=0)


def table(
    accesses: Accesses,
    time_ns: npt.NDArray[np.int64],
    map_id: npt.NDArray[np.int32],
    offset: npt.NDArray[np.uint64],
    pid: int,
) -> pa.Table:
    """Rows of accesses whose mappings are known."""
    count = len(accesses.line)
    columns = {
        "time_ns": pa.array(time_ns),
        "duration_ns": pa.nulls(count, pa.uint32()),
        "kind": pa.DictionaryArray.from_arrays(pa.array(_CODES[accesses.kind], pa.int8()), _WORDS).cast(KIND_TYPE),
        "width": pa.array(accesses.width),
        "map_id": pa.array(map_id),
        "offset": pa.array(offset),
        "value": pa.array(accesses.value),
        "data": pa.nulls(count, pa.binary()),
        "pc": pa.array(np.zeros(count, np.uint64)),
        "pid": pa.array(np.full(count, pid, np.int32)),
        "tid": pa.array(accesses.tid),
        "cpu": pa.array(accesses.cpu),
        "flags": pa.array(np.zeros(count, np.uint32)),
        "text": pa.nulls(count, pa.string()),
    }
    return pa.table([columns[name] for name in EVENTS.names], schema=EVENTS)
