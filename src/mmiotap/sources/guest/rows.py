"""QEMU's log as it comes, made into the parts of a trace: times, mappings, and what is left out."""

import fnmatch
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmiotap.formats import qemu, qemu_block
from mmiotap.formats.qemu_block import Accesses
from mmiotap.formats.qemu_lines import Region
from mmiotap.sources.guest.machine import Machine
from mmiotap.sources.guest.regions import Bar, Inventory, Place
from mmiotap.trace import layout
from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.model import Mapping, Process
from mmiotap.trace.schema import EVENTS, KINDS
from mmiotap.trace.writer import TraceWriter

#: A part is written when so many rows wait, or the first of them has waited so long.
PART_ROWS = 1 << 18
PART_SECONDS = 2.0
_LINE = 1 << 16


class Rows:
    """The trace that is made. Only one thread may use it."""

    def __init__(
        self, folder: Path, info: dict[str, Any], machine: Machine, devices: Sequence[str], *, force: bool
    ) -> None:
        self.writer = TraceWriter.create(folder, info, force=force)
        self.writer.dir.live.mkdir(mode=0o700)
        self.mappings = 0
        self.cpus: set[int] = set()
        self.unread = 0
        self.not_selected: dict[str, None] = {}
        self._machine = machine
        self._devices = devices
        self._inventory = Inventory()
        self._reader = qemu_block.Reader()
        self._known: dict[Region, list[_Known]] = {}
        self._waiting: list[pa.Table] = []
        self._since = 0.0
        self._rest = b""
        self._time_ns = 0
        self._ids = 0

    @property
    def events(self) -> int:
        """So far, in parts or not."""
        return self.writer.events + sum(one.num_rows for one in self._waiting)

    def start(self) -> None:
        """The machine can be asked."""
        pid = self._machine.pid
        self.writer.add_processes([Process(pid, _parent(pid), _executable(pid))])

    def add(self, data: bytes, say: Callable[[bytes], None] | None) -> None:
        """More of the log. Raises DiskError."""
        whole, newline, tail = data.rpartition(b"\n")
        if newline:
            text = self._rest + whole + newline
            self._rest = b""
            self._add_lines(text, say)
        self._rest = (self._rest + tail)[:_LINE]
        if self._waiting and time.monotonic() - self._since > PART_SECONDS:
            self.flush()

    def mark(self, time_ns: int, text: str) -> None:
        # What came before it in the log, and will be read later, has an earlier time of its own.
        row = dict.fromkeys(EVENTS.names, 0) | {"time_ns": time_ns, "kind": KINDS[layout.MARK], "text": text}
        row |= {"duration_ns": None, "data": None, "pid": os.getpid(), "tid": os.getpid(), "cpu": -1}
        self._wait(pa.Table.from_pylist([row], schema=EVENTS))

    def flush(self) -> None:
        """All that was read is in parts."""
        if self._waiting:
            table = pa.concat_tables(self._waiting)
            self._waiting = []
            self.writer.append(table)

    def _wait(self, table: pa.Table) -> None:
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting.append(table)
        if sum(one.num_rows for one in self._waiting) >= PART_ROWS:
            self.flush()

    def _add_lines(self, text: bytes, say: Callable[[bytes], None] | None) -> None:
        block = self._reader.parse(text)
        self.unread += len(block.unread)
        if say and len(block.others):
            lines = text.split(b"\n")
            for number in block.others.tolist():
                say(lines[number])
        if len(block.accesses.line):
            self._add_accesses(block.regions, block.accesses)

    def _add_accesses(self, regions: list[Region], accesses: Accesses) -> None:
        time_ns = self._times(accesses.time_ns)
        map_id = np.zeros(len(time_ns), np.int32)
        base = np.zeros(len(time_ns), np.uint64)
        asked = False
        for number, region in enumerate(regions):
            rows = np.flatnonzero(accesses.region == number)
            known = self._known.setdefault(region, [])
            for one in known:
                self._place(one, rows, accesses, map_id, base)
            while len(rows := rows[map_id[rows] == 0]):
                first = int(accesses.address[rows[0]])
                if not asked and self._inventory.find(_name(region), first) is None:
                    self._ask()
                    asked = True
                known.append(self._new(region, first, int(accesses.width[rows[0]]), int(time_ns[rows[0]])))
                self._place(known[-1], rows, accesses, map_id, base)
        if (map_id < 0).any():
            chosen = map_id > 0
            accesses = Accesses(**{name: column[chosen] for name, column in vars(accesses).items()})
            time_ns, map_id, base = time_ns[chosen], map_id[chosen], base[chosen]
        self.cpus.update(np.unique(accesses.cpu).tolist())
        if len(time_ns):
            self._wait(qemu.table(accesses, time_ns, map_id, accesses.address - base, self._machine.pid))

    def _times(self, logged: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """CLOCK_MONOTONIC of lines: by their own times, or else of now. The log's order is that of the accesses."""
        now = time.monotonic_ns()
        times = np.where(logged >= 0, logged - (time.time_ns() - now), now)
        times = np.maximum.accumulate(np.maximum(times, self._time_ns))
        self._time_ns = int(times[-1])
        return times

    @staticmethod
    def _place(
        one: "_Known",
        rows: npt.NDArray[np.int64],
        accesses: Accesses,
        map_id: npt.NDArray[np.int32],
        base: npt.NDArray[np.uint64],
    ) -> None:
        address = accesses.address[rows]
        inside = rows[(address >= np.uint64(one.first)) & (address <= np.uint64(one.last)) & (map_id[rows] == 0)]
        map_id[inside] = one.map_id
        base[inside] = one.first

    def _ask(self) -> None:
        """What the machine has now. One that has ended has what it had."""
        try:
            self._inventory = self._machine.inventory()
        except MmiotapError:
            return
        devices = [device.to_json() for device in self._inventory.devices]
        if devices != self.writer.info.get("pci_devices"):
            self.writer.update(pci_devices=devices)

    def _new(self, region: Region, address: int, width: int, time_ns: int) -> "_Known":
        place = self._inventory.find(_name(region), address)
        if place is None:
            # Moved since, or gone: all that is known is what its accesses tell.
            span = qemu.Span(address, min(address + width, 1 << 64), time_ns)
            mapping = qemu.mapping(0, region, span, self._machine.pid)
            bar = None
        else:
            bar = self._inventory.bar(place)
            mapping = _mapping(place, bar, self._machine.pid, time_ns)
        last = mapping.address + mapping.length - 1
        if not self._selected(mapping, bar):
            self.not_selected[mapping.path] = None
            return _Known(mapping.address, last, -1)
        self._ids += 1
        self.mappings += 1
        self.writer.add_mappings([Mapping.from_json(mapping.to_json() | {"map_id": self._ids})])
        return _Known(mapping.address, last, self._ids)

    def _selected(self, mapping: Mapping, bar: Bar | None) -> bool:
        names = [mapping.path, mapping.path.removeprefix("ioports:")]
        if bar:
            names += [bar.device.name, bar.device.address, bar.qdev_id]
        return not self._devices or any(fnmatch.fnmatchcase(name, glob) for name in names for glob in self._devices)


class _Known:
    """A range of addresses of a region, and the mapping it is; −1: one that is not selected."""

    def __init__(self, first: int, last: int, map_id: int) -> None:
        self.first, self.last, self.map_id = first, last, map_id


def _mapping(place: Place, bar: Bar | None, pid: int, time_ns: int) -> Mapping:
    return Mapping(
        map_id=0,
        pid=pid,
        path=f"ioports:{place.name}" if place.ports else place.name,
        address=place.first,
        length=place.end - place.first,
        file_offset=0,
        prot="rw",
        device=bar.device.name if bar else None,
        bar=bar.number if bar else None,
        physical=place.first,
        time_ns=time_ns,
    )


def _name(region: Region) -> str:
    return region.name.decode(errors="backslashreplace")


def _executable(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/exe").readlink())
    except OSError:
        return ""


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except OSError:
        return 0
