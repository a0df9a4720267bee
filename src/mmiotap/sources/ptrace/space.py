"""An address space that is traced: its memory, its pages that are armed, and system calls made in it.

Several threads share one, and so may a process and the one that vforked it. A forked child has a copy.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from mmiotap.kmmio.probe import Probe
from mmiotap.kmmio.registry import PAGE, Registry
from mmiotap.sources.ptrace import maps
from mmiotap.sources.ptrace.instruction import LONGEST, Instruction, decode
from mmiotap.sources.ptrace.regions import Part, Regions
from mmiotap.sources.ptrace.thread import Thread

#: System call numbers, asm/unistd_64.h.
MMAP, MPROTECT, MUNMAP, MREMAP = 9, 10, 11, 25

_MAP_SHARED, _MAP_PRIVATE, _MAP_ANONYMOUS, _MREMAP_MAYMOVE = 0x1, 0x2, 0x20, 0x1
_SYSCALL = b"\x0f\x05"
_MAX_ERRNO = 4095
_NO_CALL = (1 << 64) - 1

#: One load and one store for each width, between the address in rdi and rax. What is wider goes to or from ordinary
#: memory at rsi by way of the lowest vector register, in two instructions.
_LOADS = {1: "8a07", 2: "668b07", 4: "8b07", 8: "488b07"}
_LOADS |= {16: "0f1007 0f1106", 32: "c5fc1007 c5fc1106", 64: "62f17c481007 62f17c481106"}
_STORES = {1: "8807", 2: "668907", 4: "8907", 8: "488907"}
_STORES |= {16: "0f1006 0f1107", 32: "c5fc1006 c5fc1107", 64: "62f17c481006 62f17c481107"}
#: A locked addition of rax, which then holds what was there.
_ADDS = {1: "f00fc007", 2: "66f00fc107", 4: "f00fc107", 8: "f0480fc107"}
_CODE_SIZE = 16

# Where registers are in the xsave area (SDM volume 1, 13.4): in the legacy part, and AVX's upper halves.
_XMM, _YMM_HIGH = 160, 576


class Faulted(Exception):  # noqa: N818  (as the kernel calls it)
    """An access that we made for the program has faulted, as the program's own would have."""

    def __init__(self, info: object) -> None:
        super().__init__("a fault of the program's own")
        self.info = info


class Space:
    """An address space. ``borrow`` gives a stopped thread of it, in which system calls can be made."""

    def __init__(self, pid: int, registry: Callable[["Pages"], Registry], borrow: Callable[["Space"], Thread]) -> None:
        self.pid = pid
        self.threads: dict[int, Thread] = {}
        self.regions = Regions()
        self.pages = Pages(self)
        self.registry = registry(self.pages)
        self.scratch: Scratch | None = None
        #: Probes that wait until recording is enabled.
        self.waiting: list[Probe] = []
        #: Its mapping calls are followed: not before the program has been started in it.
        self.followed = True
        self._open: set[int] = set()
        self._borrow = borrow
        self._memory = os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        self._syscall_at: int | None = None

    def close(self) -> None:
        os.close(self._memory)

    def read(self, address: int, length: int) -> bytes:
        """Ordinary memory, as much of it as is mapped. Never a device: that would touch it."""
        return os.pread(self._memory, length, address)

    def write(self, address: int, data: bytes) -> None:
        """Ordinary memory, whatever its rights."""
        os.pwrite(self._memory, data, address)

    def instruction_at(self, address: int) -> Instruction:
        """Decoded anew if the code has changed meanwhile."""
        try:
            code = self.read(address, LONGEST)
        except OSError:
            code = b""
        return decode(code, address)

    def call(self, number: int, *arguments: int) -> int:
        """Have a thread of it make a system call. Raises OSError."""
        thread = self._borrow(self)
        before = thread.registers()
        values = before.copy()
        values.rax, values.orig_rax, values.rip = number, _NO_CALL, self.find_syscall()
        for name, value in zip(("rdi", "rsi", "rdx", "r10", "r8", "r9"), arguments, strict=False):
            setattr(values, name, value & _NO_CALL)
        thread.set_registers(values)
        try:
            fault = thread.step()
            result = int(thread.registers().rax)
        finally:
            # orig_rax comes back, too: a system call that the thread was stopped in starts again, as it should.
            thread.set_registers(before)
        if fault is not None:
            raise OSError(0, f"process {self.pid} cannot make a system call: signal {fault.number}")
        if result > _NO_CALL - _MAX_ERRNO:
            code = (1 << 64) - result
            raise OSError(code, os.strerror(code))
        return result

    def find_syscall(self) -> int:
        """A syscall instruction in the process: the vdso has one, and so has whatever makes system calls."""
        if self._syscall_at is None:
            code = [line for line in maps.read(self.pid) if line.prot & maps.EXECUTE and line.path != "[vsyscall]"]
            for line in sorted(code, key=lambda line: line.path != "[vdso]"):
                at = self.read(line.start, line.end - line.start).find(_SYSCALL)
                if at >= 0:
                    self._syscall_at = line.start + at
                    return self._syscall_at
            raise OSError(0, f"process {self.pid} has no syscall instruction that could be used")
        return self._syscall_at

    def find_alias(self, part: Part, shared: bool, descriptor: int | None) -> int | None:
        """Map the same file once more and return where, or None: memory of its own, or a device that allows it once."""
        length = part.end - part.start
        if not shared:
            return None
        try:
            return self.call(MREMAP, part.start, 0, length, _MREMAP_MAYMOVE)  # no file is needed for that
        except OSError:
            pass  # a device: only its file can be mapped anew
        if descriptor is None:
            return None
        try:
            return self.call(MMAP, 0, length, part.prot, _MAP_SHARED, descriptor, part.mapping.file_offset)
        except OSError:
            return None

    def the_scratch(self) -> "Scratch":
        """Made when it is first needed."""
        if self.scratch is None:
            start = self.call(MMAP, 0, Scratch.SIZE, maps.READ | maps.WRITE, _MAP_PRIVATE | _MAP_ANONYMOUS, -1, 0)
            self.call(MPROTECT, start, PAGE, maps.READ | maps.EXECUTE)
            self.scratch = Scratch(self, start)
            self.scratch.fill()
        return self.scratch

    @contextmanager
    def opened(self, pages: Iterable[int]) -> Iterator[None]:
        """Let everybody touch these pages inside, and those that are added by :meth:`open_one_more`."""
        self._open = set(pages)
        for page in self._open:
            self.pages.disarm(page)
        try:
            yield
        finally:
            opened, self._open = self._open, set()
            for page in opened:
                if self.registry.covering(page, PAGE):
                    self.pages.arm(page)

    def is_open(self, page: int) -> bool:
        """Whether an access is being made to it: then it is armed at the end of that, not before."""
        return page in self._open

    def open_one_more(self, page: int) -> None:
        """Inside :meth:`opened`."""
        self._open.add(page)
        self.pages.disarm(page)

    def leave(self) -> None:
        """Make the address space what it would be without us. Nothing may be armed any more."""
        for part in self.regions:
            if part.alias is not None:
                self.call(MUNMAP, part.alias, part.end - part.start)
        if self.scratch:
            self.call(MUNMAP, self.scratch.start, Scratch.SIZE)
            self.scratch = None
        self.regions = Regions()

    def inherit(self, parent: "Space") -> None:
        """A forked child has all that its parent had, armed pages and aliases included.

        But its memory was copied a little before now: what we have mapped in the parent since then it does not have.
        """
        lines = maps.read(self.pid)

        def has(address: int | None) -> bool:
            return address is not None and any(line.start <= address < line.end for line in lines)

        parts = (part if has(part.alias) else replace(part, alias=None) for part in parent.regions)
        self.regions = Regions(parts)
        with self.pages.as_they_are():
            self.registry = parent.registry.fork(self.pages)
        self.waiting = list(parent.waiting)
        if parent.scratch and has(parent.scratch.start):
            self.scratch = Scratch(self, parent.scratch.start)


class Pages:
    """How pages are armed: mprotect(2), made in the process itself, with PROT_NONE or with what the program asked for.

    Many pages in a row become one system call (:meth:`together`).
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        self._waiting: dict[int, bool] | None = None
        self._silent = False
        self.armings = 0  #: how many so far

    def arm(self, page: int) -> None:
        if self._space.regions.at(page) is None:
            raise OSError(0, f"there is no traced mapping at {page:#x}")
        self.armings += 1
        if not self._space.is_open(page):
            self._set(page, True)

    def disarm(self, page: int) -> None:
        if self._space.regions.at(page) is not None:
            self._set(page, False)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Pages that are armed or disarmed inside are, when it ends."""
        if self._waiting is not None:
            yield
            return
        self._waiting = {}
        try:
            yield
        finally:
            waiting, self._waiting = self._waiting, None
            runs = groupby(
                enumerate(sorted(waiting)), lambda item: (item[1] - item[0] * PAGE, self._want(item[1], waiting))
            )
            for (_, prot), items in runs:
                pages = [page for _, page in items]
                self._space.call(MPROTECT, pages[0], len(pages) * PAGE, prot)

    @contextmanager
    def as_they_are(self) -> Iterator[None]:
        """What is armed inside is armed already."""
        self._silent = True
        try:
            yield
        finally:
            self._silent = False

    def _set(self, page: int, armed: bool) -> None:
        if self._silent:
            return
        if self._waiting is not None:
            self._waiting[page] = armed
        else:
            self._space.call(MPROTECT, page, PAGE, self._want(page, {page: armed}))

    def _want(self, page: int, armed: dict[int, bool]) -> int:
        part = self._space.regions.at(page)
        return 0 if armed[page] or part is None else part.prot


class Scratch:
    """A little memory of ours in the process: loads and stores, and room for copies of operands.

    One access is made at a time, so there are as many copies as an instruction has operands.
    """

    SIZE = 2 * PAGE
    COPIES = 4

    def __init__(self, space: Space, start: int) -> None:
        self.start = start
        self._space = space
        self._code = [(kind, width) for kind in (_LOADS, _STORES, _ADDS) for width in kind]

    def fill(self) -> None:
        """Its code, written into memory that the process may only execute."""
        for kind, width in self._code:
            self._space.write(self._at(kind, width), bytes.fromhex(kind[width]))

    def _at(self, kind: dict[int, str], width: int) -> int:
        return self.start + _CODE_SIZE * self._code.index((kind, width))

    def copy_at(self, number: int) -> int:
        """Where the copy of an operand can be, aligned for any."""
        return self.start + PAGE + 64 * number

    @property
    def _wide(self) -> int:
        """Where the value of a wide access is."""
        return self.copy_at(self.COPIES)

    def load(self, thread: Thread, address: int, width: int) -> int:
        """One load of exactly this width, made by the thread. Raises Faulted."""
        return self._run(thread, self._at(_LOADS, width), address, width, None)

    def store(self, thread: Thread, address: int, width: int, value: int) -> None:
        """One store of exactly this width, made by the thread. Raises Faulted."""
        self._run(thread, self._at(_STORES, width), address, width, value)

    def add(self, thread: Thread, address: int, width: int, value: int) -> int:
        """One locked addition, made by the thread; what was there before. Raises Faulted."""
        return self._run(thread, self._at(_ADDS, width), address, width, value)

    def _run(self, thread: Thread, code: int, address: int, width: int, value: int | None) -> int:
        before = thread.registers()
        values = before.copy()
        values.rip, values.rdi, values.rsi, values.orig_rax = code, address, self._wide, _NO_CALL
        vectors = thread.vectors() if width > 8 else None
        if value is not None:
            if vectors is None:
                values.rax = value
            else:
                self._space.write(self._wide, value.to_bytes(width, "little"))
        thread.set_registers(values)
        fault = thread.step()
        if vectors is None:
            result = int(thread.registers().rax)
        else:
            fault = fault or thread.step()
            result = int.from_bytes(self._space.read(self._wide, width), "little")
            thread.set_vectors(vectors)
        thread.set_registers(before)
        if fault is not None:
            raise Faulted(fault)
        return result & ((1 << 8 * width) - 1)


def vector(area: bytearray, number: int, width: int) -> int:
    """The low bytes of a vector register."""
    low = area[_XMM + 16 * number :][:16]
    high = area[_YMM_HIGH + 16 * number :][:16] if width > 16 else b""
    return int.from_bytes((low + high)[:width], "little")


def path_of_descriptor(pid: int, descriptor: int) -> str:
    """As /proc/PID/maps shows a file that is mapped through it. Raises OSError."""
    return os.fspath(Path(f"/proc/{pid}/fd/{descriptor}").readlink())
