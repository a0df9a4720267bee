"""What the program does to its mappings, followed at its system calls, so that rules and probes hold wherever it maps.

They are looked at when they return, before the program knows where its mapping is; but mprotect of an armed page is
changed on its way in, for it would open the page: the alias gets those rights instead, or says that it cannot.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mmiotap.kmmio.probe import Probe
from mmiotap.kmmio.registry import PAGE
from mmiotap.sources.ptrace import maps
from mmiotap.sources.ptrace.calls import SystemCall
from mmiotap.sources.ptrace.maps import EXECUTE, Line
from mmiotap.sources.ptrace.regions import Part
from mmiotap.sources.ptrace.space import MMAP, MPROTECT, MREMAP, MUNMAP, Space, path_of_descriptor
from mmiotap.sources.ptrace.thread import Thread
from mmiotap.trace.model import Mapping

if TYPE_CHECKING:
    from mmiotap.sources.ptrace.engine import Engine

#: System call numbers, asm/unistd_64.h, and linux/sched.h's word for a child that shares the memory.
_CLONE, _FORK, _CLONE3 = 56, 57, 435
_CLONE_VM = 0x100

_MAP_TYPE, _MAP_FIXED, _MAP_ANONYMOUS = 0xF, 0x10, 0x20
#: MAP_SHARED and MAP_SHARED_VALIDATE.
_SHARED_TYPES = (1, 3)
_PROT = ((maps.READ, "r"), (maps.WRITE, "w"), (maps.EXECUTE, "x"))
_MAX_ERRNO = 4095


class Following:
    """Follows the mappings of all address spaces of an engine."""

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self._without_alias: set[str] = set()

    def entering(self, space: Space, thread: Thread, call: SystemCall) -> None:
        """A thread is about to make a system call."""
        if call.number != MPROTECT:
            return
        start, end, prot = call.arguments[0], call.arguments[0] + _up(call.arguments[1]), call.arguments[2]
        parts = space.regions.within(start, end)
        whole = len(parts) == 1 and (parts[0].start, parts[0].end) == (start, end) and not prot & EXECUTE
        if whole and parts[0].alias is not None:
            registers = thread.registers()
            registers.rdi = parts[0].alias
            thread.set_registers(registers)

    def left(self, space: Space, thread: Thread, call: SystemCall, result: int) -> None:
        """A thread has made a system call."""
        if call.number == MPROTECT:
            self._protected(space, thread, call, result)
        elif -_MAX_ERRNO <= result < 0:
            return
        elif call.number == MMAP:
            self._mapped(space, thread, call.arguments, result & ((1 << 64) - 1))
        elif call.number == MUNMAP:
            self.forget(space, thread, call.arguments[0], call.arguments[0] + _up(call.arguments[1]))
        elif call.number == MREMAP:
            self._moved(space, thread, call.arguments, result & ((1 << 64) - 1))

    def take_over_all(self, space: Space) -> None:
        """Take over what is mapped already, by the engine's rules and places. All threads are stopped, or may be."""
        for line in maps.read(space.pid):
            if (
                not line.prot & EXECUTE
                and not line.path.startswith("[v")
                and not space.regions.within(line.start, line.end)
                and not any(part.alias is not None and _is_in(part.alias, line, part) for part in space.regions)
            ):
                self._take_over(
                    space, line, maps.open_file(space.pid, line) if line.shared and line.inode else None, None
                )

    def forget(self, space: Space, thread: Thread, start: int, end: int) -> None:
        """The program has unmapped these addresses, or mapped something else there."""
        for part in space.regions.cut(start, end):
            if part.alias is not None:
                space.call(MUNMAP, part.alias, part.end - part.start)
            if self._engine.log:
                self._engine.log.unmap(thread, part)
        self._engine.cut(space, start, end)

    def _mapped(self, space: Space, thread: Thread, arguments: Sequence[int], address: int) -> None:
        _, length, prot, flags, descriptor, file_offset = arguments
        end = address + _up(length)
        if flags & _MAP_FIXED:
            self.forget(space, thread, address, end)
        descriptor &= 0xFFFFFFFF
        if flags & _MAP_ANONYMOUS or prot & EXECUTE:
            return
        try:
            path = path_of_descriptor(thread.pid, descriptor)
        except OSError:
            return
        shared = flags & _MAP_TYPE in _SHARED_TYPES
        line = Line(address, end, prot & 7, shared, file_offset, "", 0, path)
        self._take_over(space, line, descriptor, thread)

    def _take_over(self, space: Space, line: Line, descriptor: int | None, thread: Thread | None) -> None:
        """Make a mapping a traced one, if anybody wants it."""
        engine = self._engine
        part = Part(line.start, line.end, _mapping(0, space.pid, line), line.prot, None)
        recorded, placed = engine.wanted(space, part)
        who = thread or next(iter(space.threads.values()))
        if not recorded and not placed:
            if engine.log and line.shared and line.path.startswith("/"):
                engine.log.other(who, line.path)
            return
        part = replace(part, mapping=replace(part.mapping, map_id=engine.next_map_id()))
        part = replace(part, alias=space.find_alias(part, line.shared, descriptor))
        space.regions.add(part)
        if engine.log:
            engine.log.map(who, part, line.shared)
        if part.alias is None and engine.needs_aliases and line.path not in self._without_alias:
            self._without_alias.add(line.path)
            engine.report(
                f"{line.path or 'memory'} of process {space.pid} cannot be mapped twice, so its accesses are made the "
                "way 'lock': the other threads stop for each"
            )
        if recorded:
            engine.register(space, Probe(part.start, part.end - part.start, hook=False))
        for one in placed:
            engine.place_in(space, one)

    def _moved(self, space: Space, thread: Thread, arguments: Sequence[int], address: int) -> None:
        """mremap. The new mapping is one of its own, as it is for the agent."""
        old, old_length, new_length = arguments[0], _up(arguments[1]), _up(arguments[2])
        parts = space.regions.within(old, old + max(old_length, PAGE))
        if not parts:
            return
        part, shared = parts[0], any(line.shared for line in maps.read(space.pid) if line.start == address)
        if old_length:
            self.forget(space, thread, old, old + old_length)
        # What was armed has moved as it was: the program's rights first, so that an alias gets them.
        space.call(MPROTECT, address, new_length, part.prot)
        offset = part.mapping.file_offset + part.offset(old)
        line = Line(address, address + new_length, part.prot, shared, offset, "", 0, part.mapping.path)
        self._take_over(space, line, maps.open_file(space.pid, line), thread)

    def _protected(self, space: Space, thread: Thread, call: SystemCall, result: int) -> None:
        """mprotect: remember what the program may do now, and arm again what the call has opened."""
        start, end, prot = call.arguments[0], call.arguments[0] + _up(call.arguments[1]), call.arguments[2]
        registers = thread.registers()
        if registers.rdi != start:  # we have sent it to the alias
            registers.rdi = start
            thread.set_registers(registers)
        if result:
            return
        if prot & EXECUTE:
            self.forget(space, thread, start, end)  # code is left alone
            return
        for part in space.regions.cut(start, end):
            space.regions.add(replace(part, prot=prot & 7))
            if part.alias is not None:
                space.call(MPROTECT, part.alias, part.end - part.start, prot)
            with space.pages.together():
                for page in range(part.start, part.end, PAGE):
                    (space.pages.arm if space.registry.covering(page, PAGE) else space.pages.disarm)(page)


def _mapping(map_id: int, pid: int, line: Line) -> Mapping:
    prot = "".join(letter for bit, letter in _PROT if line.prot & bit)
    return Mapping(
        map_id=map_id,
        pid=pid,
        path=line.path,
        address=line.start,
        length=line.end - line.start,
        file_offset=line.file_offset,
        prot=prot,
        device=None,
        bar=None,
        physical=None,
        time_ns=time.monotonic_ns(),
    )


def _is_in(alias: int, line: Line, part: Part) -> bool:
    """Whether a mapping is the alias of a part."""
    return alias < line.end and line.start < alias + part.end - part.start


def _up(length: int) -> int:
    return -(-length // PAGE) * PAGE


def copies_memory(space: Space, call: SystemCall) -> bool:
    """Whether a system call makes a process with a copy of the memory."""
    if call.number == _CLONE3:
        flags = int.from_bytes(space.read(call.arguments[0], 8), "little")
    else:
        flags = call.arguments[0] if call.number == _CLONE else 0
    return call.number in (_CLONE, _FORK, _CLONE3) and not flags & _CLONE_VM
