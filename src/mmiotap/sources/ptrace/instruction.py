"""What an instruction does to memory: decoded once, then asked with the registers of a thread that is about to run it.

The forms decide how an access is made (access.py), and how its value is known:

* LOAD, STORE: a move between memory and a register (or from an immediate). The register tells the value;
* PLAIN: anything else that can be run on a copy of its operand: loads, arithmetic, string instructions, x87, …;
* ATOMIC: reads and writes as one thing, so it cannot be taken apart;
* OPAQUE: what it touches is not known from its operands: masked moves, gathers, fxsave, ….
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from iced_x86 import (
    CodeSize,
    Decoder,
    EncodingKind,
    InstructionInfoFactory,
    MemorySizeExt,
    Mnemonic,
    OpAccess,
    OpKind,
    Register,
)
from iced_x86 import Instruction as Decoded
from iced_x86 import RegisterExt as Names

from mmiotap.sources.ptrace.calls import Registers
from mmiotap.trace import layout

#: The longest instruction there is.
LONGEST = 15
ALL = (1 << 64) - 1

_WIDTHS = (1, 2, 4, 8, 16, 32)
_WIDEST = 64  #: which only a processor with AVX-512 can load and store at once
GENERAL = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{number}" for number in range(8, 16)))
#: Our names of the 64-bit registers that an address is made of.
_NAME: Mapping[int, str] = {int(getattr(Register, name.upper())): name for name in GENERAL}
_BASE_OF_SEGMENT: Mapping[int, str] = {int(Register.FS): "fs_base", int(Register.GS): "gs_base"}
_HIGH_BYTES: Mapping[int, str] = {
    int(Register.AH): "rax",
    int(Register.CH): "rcx",
    int(Register.DH): "rdx",
    int(Register.BH): "rbx",
}


def _mnemonics(words: str) -> frozenset[int]:
    return frozenset(int(getattr(Mnemonic, word)) for word in words.split())


_MOVES = _mnemonics(
    "MOV MOVZX MOVSX MOVSXD MOVD MOVQ MOVAPS MOVUPS MOVAPD MOVUPD MOVDQA MOVDQU LDDQU MOVNTDQA MOVNTI MOVNTDQ MOVNTPS "
    "MOVNTPD MOVNTSS MOVNTSD "
    "VMOVD VMOVQ VMOVAPS VMOVUPS VMOVAPD VMOVUPD VMOVDQA VMOVDQU VLDDQU VMOVNTDQA VMOVNTDQ VMOVNTPS VMOVNTPD"
)
#: They touch nothing, though they fault.
HINTS = _mnemonics("CLFLUSH CLFLUSHOPT CLWB")
_NONTEMPORAL = _mnemonics(
    "MOVNTI MOVNTQ MOVNTDQ MOVNTPS MOVNTPD MOVNTSS MOVNTSD MOVNTDQA VMOVNTDQ VMOVNTPS VMOVNTPD VMOVNTDQA"
)
#: With a register as second operand they count bits from the address on, beyond the operand.
_BIT_STRINGS = _mnemonics("BT BTS BTR BTC")

_READS = (OpAccess.READ, OpAccess.COND_READ, OpAccess.READ_WRITE, OpAccess.READ_COND_WRITE)
_WRITES = (OpAccess.WRITE, OpAccess.COND_WRITE, OpAccess.READ_WRITE, OpAccess.READ_COND_WRITE)
_PERHAPS = (OpAccess.COND_READ, OpAccess.COND_WRITE)


class Form(Enum):
    """How an instruction can be run; see above."""

    LOAD = auto()
    STORE = auto()
    PLAIN = auto()
    ATOMIC = auto()
    OPAQUE = auto()


@dataclass(frozen=True)
class Part:
    """A register or a part of one, where a value is. ``vector``: ``name`` is the number of a vector register."""

    name: str
    width: int
    shift: int = 0
    vector: bool = False


@dataclass(frozen=True)
class Operand:
    """A memory operand."""

    base: str | None
    index: str | None
    scale: int
    displacement: int
    segment: str | None  #: the register that holds the base of its segment
    width: int
    reads: bool
    writes: bool
    bit: str | None  #: the register that counts bits from the address on
    handle: str | None  #: the register that can be changed to move the operand elsewhere, and does nothing else
    mask: int = ALL  #: of an address without its segment: addresses may be computed in 32 bits
    index_mask: int = ALL  #: of the index: xlat's is al

    def address(self, registers: Registers) -> int:
        """Where it is for a thread with these registers."""
        address = self.displacement
        if self.base:
            address += getattr(registers, self.base)
        if self.index:
            address += (getattr(registers, self.index) & self.index_mask) * self.scale
        address &= self.mask
        if self.segment:
            address += getattr(registers, self.segment)
        if self.bit:
            size = 8 * self.width
            count = getattr(registers, self.bit) & ((1 << size) - 1)
            count -= (count >> (size - 1)) << size
            address += count // size * self.width
        return address & ALL


@dataclass(frozen=True)
class Instruction:
    """An instruction at an address. Its ``operands`` are those in memory, as the processor touches them."""

    code: bytes
    form: Form
    operands: tuple[Operand, ...]
    flags: int  #: of trace.layout, as they are for each access that it makes
    mnemonic: int
    #: LOAD: where the value goes; STORE: where it comes from, if it is no immediate; ATOMIC: its register operand.
    part: Part | None
    immediate: int
    #: What the instruction writes of a general register: a mask of its bits.
    written: Mapping[str, int]
    #: Its operands' registers are moved on by it.
    string: bool


@functools.lru_cache(maxsize=65536)
def decode(code: bytes, address: int) -> Instruction:
    """The instruction that these bytes begin with. What cannot be decoded is OPAQUE and has no operands."""
    decoded = Decoder(64, code, ip=address).decode()
    own = code[: decoded.len]
    if decoded.is_invalid:
        return Instruction(code, Form.OPAQUE, (), 0, 0, None, 0, {}, False)
    info = InstructionInfoFactory().info(decoded)
    data = _data_registers(decoded)
    string = bool(decoded.is_string_instruction)
    widths = (*_WIDTHS, _WIDEST) if decoded.encoding == EncodingKind.EVEX else _WIDTHS
    operands, clear, placed = [], True, True
    for memory in info.used_memory():
        width = MemorySizeExt.size(memory.memory_size) or MemorySizeExt.size(decoded.memory_size)
        placed &= memory.vsib_size == 0
        clear &= width in widths and (string or memory.access not in _PERHAPS)
        base, index = (_NAME.get(Names.full_register(register)) for register in (memory.base, memory.index))
        wide = memory.address_size == CodeSize.CODE64
        bit = None
        if decoded.mnemonic in _BIT_STRINGS and decoded.op1_kind == OpKind.REGISTER:
            bit = _NAME.get(Names.full_register(decoded.op1_register))
        usable = [name for name in (base, index if memory.scale == 1 else None) if name and wide]
        handle = base if string and wide else next((name for name in usable if data.get(name, True)), None)
        operands.append(
            Operand(
                base,
                index,
                memory.scale,
                memory.displacement,
                _BASE_OF_SEGMENT.get(memory.segment),
                width,
                memory.access in _READS,
                memory.access in _WRITES,
                bit,
                handle,
                ALL if wide else 0xFFFFFFFF,
                (1 << 8 * Names.size(memory.index)) - 1 if index else 0,
            )
        )
    if not placed:
        operands = []
    clear &= bool(operands) and decoded.op_mask == Register.NONE and decoded.mnemonic not in HINTS
    form, part, immediate = _form(decoded, operands) if clear else (Form.OPAQUE, None, 0)
    flags = (layout.LOCKED if form is Form.ATOMIC else 0) | (layout.STRING if string else 0)
    flags |= layout.NONTEMPORAL if decoded.mnemonic in _NONTEMPORAL else 0
    written = _written(decoded)
    return Instruction(own, form, tuple(operands), flags, decoded.mnemonic, part, immediate, written, string)


def _form(decoded: Decoded, operands: list[Operand]) -> tuple[Form, Part | None, int]:
    """Form, part and immediate."""
    if decoded.has_lock_prefix or decoded.mnemonic == Mnemonic.XCHG:
        register = next((k for k in range(decoded.op_count) if decoded.op_kind(k) == OpKind.REGISTER), None)
        return Form.ATOMIC, None if register is None else _part(decoded.op_register(register), operands[0].width), 0
    if decoded.mnemonic in _MOVES and len(operands) == 1 and decoded.op_count == 2:
        operand = operands[0]
        if operand.reads and decoded.op0_kind == OpKind.REGISTER:
            part = _part(decoded.op0_register, operand.width)
            return (Form.LOAD, part, 0) if part else (Form.PLAIN, None, 0)
        if operand.writes and decoded.op1_kind == OpKind.REGISTER:
            part = _part(decoded.op1_register, operand.width)
            return (Form.STORE, part, 0) if part else (Form.PLAIN, None, 0)
        if operand.writes:
            return Form.STORE, None, decoded.immediate(1) & ((1 << 8 * operand.width) - 1)
    return Form.PLAIN, None, 0


def _part(register: Any, width: int) -> Part | None:
    """The low bytes of a register, or None for one that we cannot look into."""
    if register in _HIGH_BYTES:
        return Part(_HIGH_BYTES[register], 1, 8)
    if Names.is_xmm(register) or (Names.is_ymm(register) and width <= 32):
        number = Names.number(register)
        return Part(str(number), width, vector=True) if number < 16 else None
    name = _NAME.get(Names.full_register(register))
    return Part(name, width) if name else None


def _data_registers(decoded: Decoded) -> dict[str, bool]:
    """General registers that the instruction uses for anything but its operand's address: True if it only sets them.

    A register that is only set by the instruction may hold anything before it.
    """
    other = decoded.copy()
    if not decoded.is_string_instruction:
        other.memory_base = other.memory_index = Register.NONE
    found: dict[str, bool] = {}
    for used in InstructionInfoFactory().info(other).used_registers():
        name = _NAME.get(Names.full_register(used.register))
        if name:
            found[name] = found.get(name, True) and used.access == OpAccess.WRITE
    return found


def _written(decoded: Decoded) -> dict[str, int]:
    """What it writes of general registers: masks of their bits."""
    found: dict[str, int] = {}
    for used in InstructionInfoFactory().info(decoded).used_registers():
        name = _NAME.get(Names.full_register(used.register))
        if name and used.access in _WRITES:
            if used.register in _HIGH_BYTES:
                mask = 0xFF00
            else:
                mask = (1 << 8 * Names.size(used.register)) - 1
                mask = ALL if mask > 0xFFFF else mask  # writing 32 bits zeroes the others
            found[name] = found.get(name, 0) | mask
    return found
