"""A case for every encoding that the decoder knows and this processor has, in every form of address that it can have.

What it reads and writes is what the decoder says; what depends on a mask or on what memory holds is said here, from
the SDM.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, cast

from iced_x86 import (
    Encoder,
    EncodingKind,
    Instruction,
    InstructionInfoFactory,
    MemorySizeExt,
    OpAccess,
    OpCodeInfo,
    OpKind,
    Register,
    RegisterExt,
)

from . import program
from .case import FIXED, TARGET, Access, Case, Patch, Value
from .encodings import Encoding, all_encodings, left_out

if TYPE_CHECKING:
    from iced_x86 import Register_


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: rdi's side of string instructions.
SECOND = TARGET + 0x100
GARBAGE = 0xDEADBEEF
NONTEMPORAL = words(
    "movnti movntq movntdq movntps movntpd movntsd movntss movntdqa vmovntdq vmovntps vmovntpd vmovntdqa "
    "maskmovq maskmovdqu vmaskmovdqu"
)
#: Locked, and what was there comes back, or is worked out from one locked addition.
TELLS_OLD = words("add sub adc sbb inc dec xadd xchg cmpxchg cmpxchg8b cmpxchg16b")
MASKED_MOVES = words("vmovdqu8 vmovdqu16 vmovdqu32 vmovdqu64 vmovdqa32 vmovdqa64 vmovups vmovupd vmovaps vmovapd")
#: With a mask they access as many elements as it chooses, one behind the other.
PACKED = words(
    "vexpandps vexpandpd vpexpandb vpexpandw vpexpandd vpexpandq "
    "vcompressps vcompresspd vpcompressb vpcompressw vpcompressd vpcompressq"
)
#: No data is moved, whatever the decoder says.
MOVES_NOTHING = words("clflush clflushopt clwb cldemote")

X87_CONTROL, MXCSR, USER_DATA = 0x37F, 0x1F80, 0x2B
XSTATE = {"rax": 7, "rdx": 0}


@dataclass(frozen=True)
class Form:
    """A way to write an address; ``set`` puts it into an instruction, whose base is rsi and whose index is r9."""

    name: str
    base: Register_ = Register.RSI
    index: Register_ = Register.NONE
    scale: int = 1
    displacement: int = 0
    size: int = 0  #: of the displacement as it is encoded; the encoder finds the shortest, and may need none
    segment: Register_ = Register.NONE
    fixed: bool = False
    registers: dict[str, int | str | Value] = field(default_factory=dict)

    def set(self, instruction: Instruction) -> None:
        instruction.memory_base, instruction.memory_index = self.base, self.index
        instruction.memory_index_scale = self.scale
        instruction.memory_displacement = self.displacement & (1 << 64) - 1
        instruction.memory_displ_size = self.size
        instruction.segment_prefix = self.segment


def region(constant: int, **more: int | str) -> Value:
    return Value(constant + TARGET, plus="region", **more)  # type: ignore[arg-type]


#: A displacement of 8 bits counts multiples of the operand's size where there is an EVEX prefix: up to 64.
FORMS = (
    Form("base", registers={"rsi": region(0)}),
    Form("base index*4 disp8", index=Register.R9, scale=4, displacement=0x40, size=1,
         registers={"rsi": region(-0x40 - 4 * 5), "r9": 5}),
    Form("base disp32", base=Register.R14, displacement=-0x12345, size=8, registers={"r14": region(0x12345)}),
    Form("rip", base=Register.RIP, displacement=FIXED + TARGET, size=8, fixed=True),
    Form("fs base disp8", displacement=0x40, size=1, segment=Register.FS,
         registers={"rsi": Value(TARGET - 0x40, plus="region", minus="fs")}),
    Form("base32 index32*2 disp8", Register.ESI, Register.R9D, scale=2, displacement=0x40, size=1, fixed=True,
         registers={"rsi": region(-0x40 - 2 * 7, garbage=GARBAGE), "r9": Value(7, garbage=GARBAGE)}),
    Form("index*8 disp32", base=Register.NONE, index=Register.R9, scale=8, size=8, fixed=True,
         registers={"r9": Value(TARGET, plus="region", divide=8)}),
)  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """What an EVEX prefix says besides: a mask, zero for what that leaves out, one element for all, upper registers."""

    name: str = ""
    forms: tuple[str, ...] = ()
    mask: Register_ = Register.NONE
    zeroes: bool = False
    broadcasts: bool = False
    upper: bool = False

    def fits(self, instruction: Instruction) -> bool:
        info = OpCodeInfo(instruction.code)
        is_load = instruction.op0_kind == OpKind.REGISTER  # what a store leaves out is left alone
        return (
            instruction.encoding == EncodingKind.EVEX
            and (self.mask == Register.NONE or info.can_use_op_mask_register)
            and (not self.zeroes or (info.can_use_zeroing_masking and is_load))
            and (not self.broadcasts or info.can_broadcast)
        )

    def set(self, instruction: Instruction) -> None:
        if self.mask != Register.NONE:
            instruction.op_mask = self.mask
        instruction.zeroing_masking = self.zeroes
        if self.broadcasts:
            instruction.is_broadcast = True
        if self.upper:
            for op in range(instruction.op_count):
                register = instruction.op_register(op)
                if instruction.op_kind(op) == OpKind.REGISTER and RegisterExt.is_vector_register(register):
                    instruction.set_op_register(op, cast("Register_", register + 16))
            if instruction.is_vsib:
                instruction.memory_index = cast("Register_", instruction.memory_index + 16)


PLAIN = Choice()
#: The lowest bit of k4 is set, that of k1 is not. A gather or scatter gets equal indices by k5.
CHOICES = (
    Choice("{upper}", ("base",), upper=True),
    Choice("{k4}", ("base",), Register.K4),
    Choice("{k1}", ("base index*4 disp8",), Register.K1),
    Choice("{k4}{z}", ("base index*4 disp8",), Register.K4, zeroes=True),
    Choice("{1toN}", ("base", "base index*4 disp8"), broadcasts=True),
    Choice("{1toN}{k1}", ("base",), Register.K1, broadcasts=True),
    Choice("{upper}", ("base vector*4",), upper=True),
    Choice("{k5}", ("base vector*4", "base32 vector*4 disp8"), Register.K5),
)


@cache
def generated(processor: frozenset[str]) -> list[Case]:
    return [case for encoding in supported(processor) for case in cases(encoding)]


def supported(processor: frozenset[str]) -> list[Encoding]:
    return [it for it in all_encodings() if it.needs is not None and processor.issuperset(it.needs)]


def cases(encoding: Encoding) -> Iterator[Case]:
    """None, where it is left out."""
    if left_out(encoding):
        return
    for locked in (False, True) if OpCodeInfo(encoding.code).can_use_lock_prefix else (False,):
        for form, choice, instruction in formed(encoding):
            instruction.has_lock_prefix = locked
            name = f"{'lock ' * locked}{encoding.name.lower()}{choice.name} [{form.name}]"
            yield Case(
                name=name,
                instruction=machine_code(instruction, form.base == Register.RIP),
                accesses=tuple(accesses(encoding, instruction, locked)),
                registers={**registers(encoding), **form.registers},
                patches=patches(encoding),
                needs=encoding.needs or (),
                fixed=form.fixed,
                before=preparation(encoding, instruction),
                code=encoding.name,
                some_of=extent(encoding),
            )


def formed(encoding: Encoding) -> Iterator[tuple[Form, Choice, Instruction]]:
    """The encoding in every form of address, and then with each choice that it has."""
    instruction = encoding.instruction
    if instruction.is_vsib:
        vector = Form("base vector*4", index=instruction.memory_index, scale=4, registers={"rsi": region(0)})
        short = Form("base32 vector*4 disp8", Register.ESI, instruction.memory_index, 4, 8, 1, fixed=True,
                     registers={"rsi": region(-8, garbage=GARBAGE)})  # fmt: skip
        forms: tuple[Form, ...] = (vector, short)
    elif encoding.mnemonic == "xlatb":
        forms = (Form("rbx al", registers={"rbx": region(-0x21), "rax": 0x21}),)
    elif not has_operand(instruction):
        places: dict[str, int | str | Value] = {"rsi": region(0), "rdi": Value(SECOND, plus="region")}
        if not any(instruction.op_kind(op) == OpKind.MEMORY_SEG_RSI for op in range(instruction.op_count)):
            places["rdi"] = region(0)
        forms = (
            Form("implied", registers={**places, **({"rax": region(0)} if encoding.mnemonic == "clzero" else {})}),
        )
    elif "MOFFS" in encoding.name:
        forms = (Form("moffs", Register.NONE, displacement=FIXED + TARGET, size=8, fixed=True),)
    else:
        forms = FORMS
    for choice in (PLAIN, *(choice for choice in CHOICES if choice.fits(instruction))):
        for form in forms:
            if choice is not PLAIN and form.name not in choice.forms:
                continue
            written = instruction.copy()
            if has_operand(instruction) and encoding.mnemonic != "xlatb":
                form.set(written)
            choice.set(written)
            yield form, choice, written


def has_operand(instruction: Instruction) -> bool:
    return any(instruction.op_kind(op) == OpKind.MEMORY for op in range(instruction.op_count))


def machine_code(instruction: Instruction, relative: bool) -> str:
    """As assembly. An address relative to the instruction is the linker's affair."""
    encoder = Encoder(64)
    encoder.encode(instruction, 0)
    code = encoder.take_buffer()
    at = encoder.get_constant_offsets().displacement_offset
    if not relative:
        return f".byte {', '.join(map(str, code))}"
    rest = "".join(f"; .byte {byte}" for byte in code[at + 4 :])
    return f".byte {', '.join(map(str, code[:at]))}; .long fixed_target - 9f{rest}; 9:"


def registers(encoding: Encoding) -> dict[str, int | str | Value]:
    match encoding.mnemonic:
        case "bt" | "bts" | "btr" | "btc":
            return {"rdx": 5}
        case "div" | "idiv":
            return {"rax": 100 if "RM8" in encoding.name else 20001, "rdx": 0}
        case name if name.startswith(("xsave", "xrstor")):
            return {**XSTATE}
    return {}


def patches(encoding: Encoding) -> tuple[Patch, ...]:
    """What must be in memory for an instruction to accept it."""
    name = encoding.name
    size = operand_size(encoding)
    match encoding.mnemonic:
        case "div" | "idiv":
            return (Patch(TARGET, size, 7),)
        case "fldcw":
            return (Patch(TARGET, 2, X87_CONTROL),)
        case "ldmxcsr" | "vldmxcsr":
            return (Patch(TARGET, 4, MXCSR),)
        case "fldenv" | "frstor":
            step = 2 if "M14" in name or "M94" in name else 4
            return tuple(Patch(TARGET + n * step, step, value) for n, value in enumerate((X87_CONTROL, 0, 0xFFFF)))
        case "fxrstor" | "fxrstor64" | "xrstor" | "xrstor64":
            legacy = (Patch(TARGET, 8, X87_CONTROL | 0xFF << 32), Patch(TARGET + 24, 8, MXCSR | 0xFFFF << 32))
            header = tuple(Patch(TARGET + 512 + 8 * n, 8, 0 if n else 7) for n in range(8))
            return legacy + (header if name.startswith("X") else ())
        case "mov" if name.startswith("MOV_SREG"):
            return (Patch(TARGET, 2, USER_DATA),)
        case "lss":
            return (Patch(TARGET + size - 2, 2, USER_DATA),)
    return ()


def operand_size(encoding: Encoding) -> int:
    return MemorySizeExt.size(encoding.instruction.memory_size)


def extent(encoding: Encoding) -> int:
    """Of those that write as much of their operand as they like: its size."""
    if encoding.mnemonic.startswith("xsave"):
        return 512 + 64 + 256
    return 512 if encoding.mnemonic.startswith("fxsave") else 0


def preparation(encoding: Encoding, instruction: Instruction) -> str:
    """Code before it: indices for a gather; no address of an x87 instruction, which processors may forget."""
    if encoding.mnemonic in ("fnstenv", "fnsave"):
        return "fldenv no_addresses(%rip)"
    if not instruction.is_vsib:
        return ""
    index = instruction.memory_index
    move = "vmovdqu64" if instruction.encoding == EncodingKind.EVEX else "vmovdqu"
    letter = VECTOR_SIZES[RegisterExt.size(index)]
    return f"{move} indices{64 if instruction.is_vsib64 else 32}(%rip), %{letter}mm{RegisterExt.number(index)}"


VECTOR_SIZES = {16: "x", 32: "y", 64: "z"}


def vector(number: int) -> bytes:
    """What a vector register holds at the start; see runner.c."""
    content = program.content()
    return bytes(content[(number * 64 + byte) * 3 % len(content)] for byte in range(64))


def accesses(encoding: Encoding, instruction: Instruction, locked: bool) -> Iterator[Access]:
    mnemonic = encoding.mnemonic
    nontemporal = mnemonic in NONTEMPORAL
    if mnemonic in MOVES_NOTHING:
        return
    if chosen := elements(encoding, instruction):
        kind, size, places = chosen
        for offset, value in places:
            yield Access(kind, size, offset, nontemporal=nontemporal, value=value)
        return
    if mnemonic.startswith("xrstor"):
        for offset, size in ((512, 64), (0, 24), (32, 128), (160, 256), (576, 256), (24, 8)):
            yield Access("read", size, TARGET + offset)
        return
    if mnemonic.startswith("xsave") and not mnemonic.startswith("xsavec"):
        yield Access("read", 8, TARGET + 512)
    if extent(encoding):
        return
    if mnemonic == "clzero":
        yield Access("write", 64)
    locked = locked or mnemonic == "xchg"
    known = not locked or mnemonic in TELLS_OLD
    string = instruction.is_string_instruction
    used = [it for it in InstructionInfoFactory().info(instruction).used_memory() if it.base != Register.RSP]
    for memory in sorted(used, key=lambda it: it.access != OpAccess.READ):
        size = MemorySizeExt.size(memory.memory_size)
        offset = SECOND if len(used) == 2 and memory.base in (Register.RDI, Register.EDI) else TARGET
        both = memory.access in (OpAccess.READ_WRITE, OpAccess.READ_COND_WRITE)
        for kind in ("read", "write") if both else ("read" if memory.access in READS else "write",):
            yield Access(kind, size, offset, both, locked, known, nontemporal, string)


READS = (OpAccess.READ, OpAccess.COND_READ)


def elements(encoding: Encoding, instruction: Instruction) -> tuple[str, int, list[tuple[int, int | None]]] | None:
    """Kind and size of the elements that a mask chooses; their places, with their values where places may be equal."""
    kind = "read" if instruction.op0_kind == OpKind.REGISTER else "write"
    chosen: Iterable[int]
    if instruction.is_vsib:
        size, wide = MemorySizeExt.size(instruction.memory_size), 8 if instruction.is_vsib64 else 4
        data = instruction.op_register(1 if kind == "write" else 0)
        count = min(RegisterExt.size(data) // size, RegisterExt.size(instruction.memory_index) // wide)
        chosen = masked(instruction, count) if instruction.has_op_mask else signed(vector(3), size, count)
        stored = vector(RegisterExt.number(data))
        return kind, size, [
            (
                TARGET + 4 * program.INDICES[wide][n],
                int.from_bytes(stored[n * size : (n + 1) * size], "little") if kind == "write" else None,
            )
            for n in chosen
        ]  # fmt: skip
    mnemonic = encoding.mnemonic
    if mnemonic == "maskmovq":
        size, chosen = 1, signed(program.content()[64 * 3 : 64 * 3 + 8], 1, 8)
    elif mnemonic in ("maskmovdqu", "vmaskmovdqu"):
        size, chosen = 1, signed(vector(3), 1, 16)
    elif mnemonic.startswith(("vmaskmov", "vpmaskmov")):
        size = 4 if mnemonic[-1] in "sd" and mnemonic not in ("vmaskmovpd",) else 8
        chosen = signed(vector(3), size, operand_size(encoding) // size)
    elif instruction.has_op_mask and is_chosen(encoding):
        size = MemorySizeExt.element_size(instruction.memory_size)
        chosen = masked(instruction, operand_size(encoding) // size)
        if encoding.mnemonic in PACKED:
            chosen = range(len(chosen))
    else:
        return None
    return kind, size, [(TARGET + n * size, None) for n in chosen]


def is_chosen(encoding: Encoding) -> bool:
    """Whether a mask register chooses which elements are accessed. What else has a mask loads all of its operand."""
    instruction = encoding.instruction
    is_scalar = OpCodeInfo(encoding.code).is_lig and MemorySizeExt.element_count(instruction.memory_size) == 1
    is_store = instruction.op0_kind == OpKind.MEMORY
    return is_store or is_scalar or encoding.mnemonic in MASKED_MOVES | PACKED


def signed(mask: bytes, size: int, count: int) -> list[int]:
    """Which elements a vector chooses by their signs."""
    return [n for n in range(count) if mask[(n + 1) * size - 1] & 0x80]


def masked(instruction: Instruction, count: int) -> list[int]:
    """Which elements its mask register chooses."""
    return [n for n in range(count) if program.MASKS[RegisterExt.number(instruction.op_mask)] >> n & 1]
