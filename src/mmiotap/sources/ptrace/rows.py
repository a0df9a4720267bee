"""Writes down what the engine sees: rows in the arena, as the agent writes them (docs/trace-format.md)."""

import os
import struct
import time

from mmiotap.kmmio.registry import PAGE
from mmiotap.sources.ptrace import maps, modules
from mmiotap.sources.ptrace.regions import Part
from mmiotap.sources.ptrace.thread import Thread
from mmiotap.trace import layout
from mmiotap.trace.arena import Arena, ArenaWriter
from mmiotap.trace.model import Module

_MAP_EXTRA = struct.Struct("<QQII")
_MODULE_EXTRA = struct.Struct("<QQI")
_MAP_SHARED, _MAP_PRIVATE = 1, 2
#: How long to wait for the recorder to give a segment back before looking again.
_PAUSE_SECONDS = 0.001


class _Stream(ArenaWriter):
    """The rows of one thread. Nobody else takes segments of this arena, so it takes free ones by itself."""

    lost = 0

    def take_segment(self) -> int | None:
        while True:
            try:
                segment = self.arena.states().index(layout.FREE)
            except ValueError:
                if self.arena.on_full == "drop" or self.arena.closed:
                    return None
                time.sleep(_PAUSE_SECONDS)
                continue
            self.arena.take(segment, self.pid)
            self.arena.see_growth()
            return segment

    def put_down(self, kind: int, **columns: int | bytes) -> None:
        """A row, or one that is counted as lost."""
        if self.lost and self.write(layout.LOST, value=self.lost):
            self.lost = 0
        if not self.write(kind, **columns):  # type: ignore[arg-type]
            self.lost += 1


class Rows:
    """The log of an engine that records."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._streams: dict[tuple[int, int], _Stream] = {}
        self._pages: dict[int, set[int]] = {}  # by process: pages of code that were met
        self._modules: dict[int, set[Module]] = {}  # by process: those that were told of
        self._others: set[str] = set()

    def access(
        self,
        thread: Thread,
        kind: int,
        time_ns: int,
        part: Part,
        address: int,
        width: int,
        value: int,
        pc: int,
        flags: int,
    ) -> None:
        self._about(thread, pc)
        self._of(thread).put_down(
            kind,
            time_ns=time_ns,
            map_id=part.mapping.map_id,
            offset=part.offset(address),
            width=width,
            value=value & 0xFFFFFFFFFFFFFFFF,
            pc=pc,
            flags=flags,
            extra=value.to_bytes(width, "little") if width > 8 and not flags & layout.VALUE_UNKNOWN else b"",
        )

    def unknown(self, thread: Thread, time_ns: int, part: Part, address: int, width: int, pc: int, code: bytes) -> None:
        self._about(thread, pc)
        self._of(thread).put_down(
            layout.UNKNOWN,
            time_ns=time_ns,
            map_id=part.mapping.map_id,
            offset=part.offset(address),
            width=width,
            pc=pc,
            flags=layout.STEPPED,
            extra=code,
        )

    def map(self, thread: Thread, part: Part, shared: bool) -> None:
        """A mapping is traced from now on."""
        self._about(thread, None)
        length, flags = part.end - part.start, _MAP_SHARED if shared else _MAP_PRIVATE
        head = _MAP_EXTRA.pack(length, part.mapping.file_offset, part.prot, flags)
        self._of(thread).put_down(
            layout.MAP,
            time_ns=part.mapping.time_ns,
            map_id=part.mapping.map_id,
            value=part.start,
            extra=head + os.fsencode(part.mapping.path),
        )

    def unmap(self, thread: Thread, part: Part) -> None:
        """A part of a mapping is gone."""
        self._of(thread).put_down(
            layout.UNMAP, map_id=part.mapping.map_id, offset=part.offset(part.start), value=part.end - part.start
        )

    def other(self, thread: Thread, path: str) -> None:
        """A file was mapped that no rule selects."""
        if path not in self._others:
            self._others.add(path)
            self._of(thread).put_down(layout.OTHER, extra=os.fsencode(path))

    def ended(self, thread: Thread) -> None:
        """A thread has ended: its segment can be sealed and given to another."""
        stream = self._streams.pop((thread.pid, thread.tid), None)
        if stream is not None and stream.segment is not None:
            self._arena.set_state(stream.segment, layout.FULL)

    def new_program(self, pid: int) -> None:
        """A process runs another program now."""
        self._pages.pop(pid, None)
        self._modules.pop(pid, None)

    def _of(self, thread: Thread) -> _Stream:
        key = (thread.pid, thread.tid)
        if key not in self._streams:
            self._streams[key] = _Stream(self._arena, pid=thread.pid, tid=thread.tid)
        return self._streams[key]

    def _about(self, thread: Thread, pc: int | None) -> None:
        """Tell of a process before its first row, and of its modules when code is met that may be in a new one."""
        pages = self._pages.get(thread.pid)
        if pages is None:
            pages = self._pages[thread.pid] = set()
            self._modules[thread.pid] = set()
            parent = int(maps.status(thread.pid).get("PPid", "0"))
            self._of(thread).put_down(layout.PROCESS, value=parent, extra=os.fsencode(maps.executable(thread.pid)))
        if pc is None or pc // PAGE in pages:
            return
        pages.add(pc // PAGE)
        told = self._modules[thread.pid]
        if not any(module.start <= pc < module.end for module in told):
            for module in modules.find(thread.pid):
                if module not in told:
                    told.add(module)
                    build_id = bytes.fromhex(module.build_id)
                    head = _MODULE_EXTRA.pack(module.start, module.end, len(build_id))
                    extra = head + build_id + os.fsencode(module.path)
                    self._of(thread).put_down(layout.MODULE, value=module.bias, extra=extra)
