"""One access of the program, from its fault to its end: kmmio's algorithm, in order.

1. The fault is ours if the registry knows the page, and if the program itself may do what it wants to do there.
2. The **way** makes the device reachable (ways.py): at another address, the alias, or by opening the page.
3. The access is made, in one of two manners:

   * *in one*: the program's own instruction is run for one step, its operand moved to where the device is reachable;
   * *taken apart*: a load of ours, the instruction on a copy of its operand, a store of ours. So the value is known of
     any instruction, before it is written and before the program has it, and that is what handlers need.

   Either way the device sees what the program meant: each read once, each write once, of exactly its width.
4. The way is closed, and the registry arms again what is still probed.

The registers that moved an operand are put right before anybody can see them.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from iced_x86 import Mnemonic

from mmiotap.kmmio.access import Access, Phase, Verdict
from mmiotap.kmmio.probe import Probe
from mmiotap.sources.ptrace.calls import Registers, SignalInfo
from mmiotap.sources.ptrace.instruction import ALL, GENERAL, HINTS, Form, Instruction, Operand
from mmiotap.sources.ptrace.instruction import Part as RegisterPart
from mmiotap.sources.ptrace.maps import READ, WRITE
from mmiotap.sources.ptrace.regions import Part
from mmiotap.sources.ptrace.space import Faulted, Space, vector
from mmiotap.sources.ptrace.thread import Thread
from mmiotap.trace import layout

_LOCKED_UNKNOWN = layout.VALUE_UNKNOWN | layout.REASON_LOCKED << layout.REASON_SHIFT
_STEPPED_UNKNOWN = layout.VALUE_UNKNOWN | layout.REASON_STEPPED << layout.REASON_SHIFT
_RFLAGS_ZERO = 0x40
#: What they write is what was there plus something that does not depend on it.
_ADDITIONS = (Mnemonic.ADD, Mnemonic.ADC, Mnemonic.SUB, Mnemonic.SBB, Mnemonic.INC, Mnemonic.DEC)
_NAMES = (*GENERAL, "rip")


class Log(Protocol):
    """Who writes down what was seen."""

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
        """A read or a write. ``value`` may be as wide as ``width``."""

    def unknown(self, thread: Thread, time_ns: int, part: Part, address: int, width: int, pc: int, code: bytes) -> None:
        """An instruction that is not taken apart."""

    def map(self, thread: Thread, part: Part, shared: bool) -> None:
        """A mapping is traced from now on."""

    def unmap(self, thread: Thread, part: Part) -> None:
        """A part of a mapping is gone."""

    def other(self, thread: Thread, path: str) -> None:
        """A file was mapped that nobody wants."""

    def ended(self, thread: Thread) -> None:
        """A thread is not traced any more."""

    def new_program(self, pid: int) -> None:
        """A process runs another program now."""


@dataclass(frozen=True)
class Touched:
    """An operand that lies in a traced mapping."""

    operand: Operand
    address: int
    part: Part
    probes: tuple[Probe, ...]  #: none: a neighbour of what is probed, of which nobody is told

    @property
    def hooks(self) -> tuple[Probe, ...]:
        return tuple(probe for probe in self.probes if probe.hook and (probe.pre or probe.post))


def touched(space: Space, instruction: Instruction, registers: Registers) -> list[tuple[Operand, int, Part]]:
    """The operands of an instruction that lie in traced mappings, what is read before what is written."""
    found = []
    for operand in instruction.operands:
        address = operand.address(registers)
        part = space.regions.at(address) or space.regions.at((address + operand.width - 1) & ALL)
        if part is not None:
            found.append((operand, address, part))
    return sorted(found, key=lambda item: item[0].writes)


def allowed(operand: Operand, part: Part) -> bool:
    """Whether the program may do that there, if nothing were armed. (On x86 what may be written may be read.)"""
    return bool(part.prot & WRITE if operand.writes else part.prot & (READ | WRITE))


class Making:
    """An access that is being made. ``before``: the thread's registers at its fault."""

    def __init__(
        self, thread: Thread, space: Space, instruction: Instruction, before: Registers, targets: Sequence[Touched]
    ) -> None:
        self.thread = thread
        self.instruction = instruction
        self.targets = targets
        self.time_ns = time.monotonic_ns()
        self._space = space
        self._before = before
        self._after = before

    @property
    def movable(self) -> bool:
        """Whether all that it touches can be elsewhere for it."""
        return self.instruction.form is not Form.OPAQUE and all(
            target.operand.handle and target.address + target.operand.width <= target.part.end
            for target in self.targets
        )

    @property
    def taken_apart(self) -> bool:
        """Whether it has to be, and can be."""
        hooked = any(target.hooks for target in self.targets)
        return self.movable and (self.instruction.form is Form.PLAIN or self._adds or hooked)

    @property
    def _adds(self) -> bool:
        return self.instruction.form is Form.ATOMIC and self.instruction.mnemonic in _ADDITIONS

    def make(self, deltas: Sequence[int], engine: "Answers", opened: bool) -> SignalInfo | None:
        """Make it, where the device is reachable ``deltas`` further for each target. None: done. Else the fault it met.

        After a fault the thread is as before the instruction, but for what the device has been told already.
        """
        flags = layout.STEPPED if opened else 0
        try:
            if self.taken_apart:
                self._apart(deltas, engine, flags)
            else:
                self._in_one(deltas, engine, flags)
        except Faulted as fault:
            self.thread.set_registers(self._before)
            info = fault.info
            assert isinstance(info, SignalInfo)
            for target, delta in zip(self.targets, deltas, strict=True):
                if 0 <= info.address - target.address - delta < target.operand.width:
                    info.address -= delta
            return info
        return None

    # In one

    def _in_one(self, deltas: Sequence[int], engine: "Answers", flags: int) -> None:
        self._run(deltas, engine)
        for target in self.targets:
            for kind, value, more in self._values(target):
                self._tell(engine, target, kind, value, flags | more)

    def _values(self, target: Touched) -> list[tuple[int, int | None, int]]:
        """Kind, value and flags of each half of an access that was made in one."""
        form, part, width = self.instruction.form, self.instruction.part, target.operand.width
        if form is Form.OPAQUE:
            return [] if self.instruction.mnemonic in HINTS else [(layout.UNKNOWN, None, 0)]
        if form is Form.LOAD:
            value = self._part_value(part, self._after) if part else None
            return [(layout.READ, value, 0)]
        if form is Form.STORE:
            value = self._part_value(part, self._before) if part else self.instruction.immediate
            return [(layout.WRITE, value, 0)]
        kinds = [layout.READ] * target.operand.reads + [layout.WRITE] * target.operand.writes
        if form is Form.ATOMIC:
            values = self._atomic_values(width)
            unknown = 0 if values else _LOCKED_UNKNOWN
            return [(kind, values[n] if values else None, unknown) for n, kind in enumerate(kinds)]
        return [(kind, None, _STEPPED_UNKNOWN) for kind in kinds]

    def _atomic_values(self, width: int) -> tuple[int, int] | None:
        """What was there and what was written, where the registers tell."""
        part, mask = self.instruction.part, (1 << 8 * width) - 1
        if self.instruction.mnemonic in (Mnemonic.CMPXCHG8B, Mnemonic.CMPXCHG16B):
            half = 4 * width
            succeeded = self._after.eflags & _RFLAGS_ZERO
            old = _pair(self._before if succeeded else self._after, "rdx", "rax", half)
            return old, _pair(self._before, "rcx", "rbx", half) if succeeded else old
        if part is None:
            return None
        given, got = self._part_value(part, self._before), self._part_value(part, self._after)
        match self.instruction.mnemonic:
            case Mnemonic.XCHG:
                return got, given
            case Mnemonic.XADD:
                return got, (got + given) & mask
            case Mnemonic.CMPXCHG:
                succeeded = self._after.eflags & _RFLAGS_ZERO
                old = (self._before.rax if succeeded else self._after.rax) & mask
                return old, given if succeeded else old
        return None

    def _part_value(self, part: RegisterPart, registers: Registers) -> int:
        if part.vector:  # a move changes no vector register that it stores
            return vector(self.thread.vectors(), int(part.name), part.width)
        return int(getattr(registers, part.name)) >> part.shift & ((1 << 8 * part.width) - 1)

    # Taken apart

    def _apart(self, deltas: Sequence[int], engine: "Answers", flags: int) -> None:
        scratch = self._space.the_scratch()
        copies = [scratch.copy_at(number) for number in range(len(self.targets))]
        if self._adds and not any(target.hooks for target in self.targets):
            self._add(deltas, engine, flags)
            return
        for target, delta, copy in zip(self.targets, deltas, copies, strict=True):
            if target.operand.reads:
                access = self._access(target, "read", None, flags, engine.name_of)
                engine.before(target.hooks, access)
                if access.verdict is Verdict.ANSWER:
                    value = access.value or 0
                else:
                    value = scratch.load(self.thread, target.address + delta, target.operand.width)
                access.made(value)
                engine.after(target.hooks, access)
                value = value if access.value is None else access.value
                self._space.write(copy, value.to_bytes(target.operand.width, "little"))
                self._tell(engine, target, layout.READ, value, flags)
        self._run([copy - target.address for target, copy in zip(self.targets, copies, strict=True)], engine)
        for target, delta, copy in zip(self.targets, deltas, copies, strict=True):
            if target.operand.writes:
                value = int.from_bytes(self._space.read(copy, target.operand.width), "little")
                access = self._access(target, "write", value, flags, engine.name_of)
                engine.before(target.hooks, access)
                value = value if access.value is None else access.value
                if access.verdict is not Verdict.SWALLOW:
                    scratch.store(self.thread, target.address + delta, target.operand.width, value)
                access.made(value)
                engine.after(target.hooks, access)
                self._tell(engine, target, layout.WRITE, value, flags)

    def _add(self, deltas: Sequence[int], engine: "Answers", flags: int) -> None:
        """A locked addition: run on a copy of zero it tells what it adds, and a locked xadd of ours what was there."""
        [target], [delta], scratch = self.targets, deltas, self._space.the_scratch()
        width, copy = target.operand.width, scratch.copy_at(0)
        self._space.write(copy, bytes(width))
        self._run([copy - target.address], engine)
        added = int.from_bytes(self._space.read(copy, width), "little")
        old = scratch.add(self.thread, target.address + delta, width, added)
        self._space.write(copy, old.to_bytes(width, "little"))
        self.thread.set_registers(self._before)
        self._run([copy - target.address], engine)  # for its registers and flags
        self._tell(engine, target, layout.READ, old, flags)
        self._tell(engine, target, layout.WRITE, (old + added) & ((1 << 8 * width) - 1), flags)

    # Both

    def _run(self, deltas: Sequence[int], engine: "Answers") -> None:
        """Run the instruction with its operands moved, and put right what moved them. Raises Faulted."""
        moved = [
            (target.operand.handle or "", delta) for target, delta in zip(self.targets, deltas, strict=True) if delta
        ]
        values = self._before
        if moved:
            values = self._before.copy()
            for name, delta in moved:
                setattr(values, name, (getattr(values, name) + delta) & ALL)
            self.thread.set_registers(values)
        while (fault := self.thread.step()) is not None:
            if not engine.one_more_page(self.thread, fault):
                raise Faulted(fault)
        self._after = self.thread.registers()
        if moved:
            for name, delta in moved:
                setattr(self._after, name, self._put_right(name, delta))
            self.thread.set_registers(self._after)

    def _put_right(self, name: str, delta: int) -> int:
        """What a register that moved an operand must be after the instruction."""
        now = int(getattr(self._after, name))
        if self.instruction.string:
            return (now - delta) & ALL  # it has gone on to the next element
        written = self.instruction.written.get(name, 0)
        return (int(getattr(self._before, name)) & ~written | now & written) & ALL

    def _access(
        self, target: Touched, kind: str, value: int | None, flags: int, name_of: Callable[[int, int], str] | None
    ) -> Access:
        return Access(
            kind,
            target.address,
            target.part.offset(target.address),
            target.operand.width,
            value,
            self._before.rip,
            self.thread.pid,
            self.thread.tid,
            self.time_ns,
            target.part.mapping.map_id,
            target.part.mapping.path,
            flags | self._flags(target),
            Phase.PRE,
            self._named_registers,
            name_of,
        )

    def _named_registers(self) -> dict[str, int]:
        return {name: getattr(self._before, name) for name in _NAMES} | {"rflags": self._before.eflags}

    def _flags(self, target: Touched) -> int:
        both = target.operand.reads and target.operand.writes
        return self.instruction.flags | (layout.RMW if both else 0)

    def _tell(self, engine: "Answers", target: Touched, kind: int, value: int | None, flags: int) -> None:
        """Write it down, and tell those who only observe."""
        if not target.probes:
            return
        flags |= self._flags(target)
        if engine.log:
            where = (self.time_ns, target.part, target.address, target.operand.width)
            if kind == layout.UNKNOWN:
                engine.log.unknown(self.thread, *where, self._before.rip, self.instruction.code)
            else:
                engine.log.access(self.thread, kind, *where, value or 0, self._before.rip, flags)
        observers = [probe for probe in target.probes if probe.pre or probe.post]
        if observers := [probe for probe in observers if not probe.hook or not self.taken_apart]:
            word = {layout.READ: "read", layout.WRITE: "write"}.get(kind, "unknown")
            access = self._access(target, word, value, flags, engine.name_of)
            access.phase = Phase.OVER
            engine.observed(observers, access)


def _pair(registers: Registers, high: str, low: str, bits: int) -> int:
    """A value in two registers."""
    mask = (1 << bits) - 1
    return (int(getattr(registers, high)) & mask) << bits | int(getattr(registers, low)) & mask


class Answers(Protocol):
    """What an access needs of the engine while it is being made."""

    log: Log | None
    name_of: Callable[[int, int], str] | None

    def before(self, probes: Sequence[Probe], access: Access) -> None: ...

    def after(self, probes: Sequence[Probe], access: Access) -> None: ...

    def observed(self, probes: Sequence[Probe], access: Access) -> None: ...

    def one_more_page(self, thread: Thread, fault: SignalInfo) -> bool:
        """The instruction has met another page of ours that is not open. True: now it is."""
