"""The instructions of a file that the agent would patch: the rules of decode::classify and thunk::is_possible."""

from dataclasses import dataclass
from pathlib import Path

from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile
from iced_x86 import (
    Decoder,
    EncodingKind,
    Instruction,
    InstructionInfoFactory,
    MemorySizeExt,
    Mnemonic,
    OpAccess,
    OpKind,
    Register,
    Register_,
    RegisterExt,
)

PAGE = 4096
#: Bytes behind a site that a jump from it may consist of: no more than the jump has.
BEHIND = 5


@dataclass(frozen=True)
class Site:
    """An instruction that loads from memory, stores to it, or does both without a lock."""

    offset: int  #: from where the file's first page is mapped
    length: int
    behind: bytes  #: the code that follows it


@dataclass(frozen=True)
class Code:
    """The code of a file, each section taken apart from its start on."""

    sites: list[Site]
    accesses: int  #: instructions that access a memory operand, sites or not


def code_of(path: Path) -> Code:
    """Read an ELF file."""
    sites: list[Site] = []
    accesses = 0
    with path.open("rb") as stream:
        file = ELFFile(stream)
        first = min(segment["p_vaddr"] for segment in file.iter_segments("PT_LOAD")) // PAGE * PAGE
        for section in file.iter_sections("SHT_PROGBITS"):
            if not section["sh_flags"] & SH_FLAGS.SHF_EXECINSTR:
                continue
            code, start = section.data(), section["sh_addr"]
            for instruction in Decoder(64, code, ip=start):
                if not _accesses_memory(instruction):
                    continue
                accesses += 1
                if _is_site(instruction):
                    end = instruction.next_ip - start
                    sites.append(Site(instruction.ip - first, len(instruction), code[end : end + BEHIND]))
    return Code(sites, accesses)


def _is_string_operand(kind: int) -> bool:
    return bool(OpKind.MEMORY_SEG_SI <= kind <= OpKind.MEMORY_ESRDI)


def _accesses_memory(instruction: Instruction) -> bool:
    kinds = [instruction.op_kind(op) for op in range(instruction.op_count)]
    names_memory = any(kind == OpKind.MEMORY or _is_string_operand(kind) for kind in kinds)
    return names_memory and instruction.mnemonic not in (Mnemonic.LEA, Mnemonic.NOP)


_INFO = InstructionInfoFactory()
_OF_THEIR_OWN = (
    Mnemonic.PUSH, Mnemonic.POP, Mnemonic.CALL, Mnemonic.JMP, Mnemonic.XCHG,
    Mnemonic.CLFLUSH, Mnemonic.CLFLUSHOPT, Mnemonic.CLWB, Mnemonic.CLDEMOTE,
    Mnemonic.VMASKMOVPS, Mnemonic.VMASKMOVPD, Mnemonic.VPMASKMOVD, Mnemonic.VPMASKMOVQ,
)  # fmt: skip
_BIT_TESTS = (Mnemonic.BT, Mnemonic.BTS, Mnemonic.BTR, Mnemonic.BTC)
_WIDE_MOVES = (
    Mnemonic.MOVUPS, Mnemonic.MOVUPD, Mnemonic.MOVAPS, Mnemonic.MOVAPD, Mnemonic.MOVDQU, Mnemonic.MOVDQA,
    Mnemonic.LDDQU, Mnemonic.MOVNTPS, Mnemonic.MOVNTPD, Mnemonic.MOVNTDQ, Mnemonic.MOVNTDQA,
    Mnemonic.VMOVUPS, Mnemonic.VMOVUPD, Mnemonic.VMOVAPS, Mnemonic.VMOVAPD, Mnemonic.VMOVDQU, Mnemonic.VMOVDQA,
    Mnemonic.VLDDQU, Mnemonic.VMOVNTPS, Mnemonic.VMOVNTPD, Mnemonic.VMOVNTDQ, Mnemonic.VMOVNTDQA,
)  # fmt: skip


def _is_site(instruction: Instruction) -> bool:
    kinds = [instruction.op_kind(op) for op in range(instruction.op_count)]
    registers = [instruction.op_register(op) for op, kind in enumerate(kinds) if kind == OpKind.REGISTER]
    memory = _INFO.info(instruction).used_memory()
    width = MemorySizeExt.size(instruction.memory_size)
    if (
        kinds.count(OpKind.MEMORY) != 1
        or len(memory) != 1
        or any(map(_is_string_operand, kinds))
        or any(map(_is_stack_pointer, [instruction.memory_base, *registers]))
        or instruction.segment_prefix in (Register.FS, Register.GS)
        or instruction.mnemonic in _OF_THEIR_OWN
        or (instruction.mnemonic in _BIT_TESTS and registers)
        or instruction.is_vsib
        or instruction.has_op_mask
    ):
        return False
    if width in (16, 32):
        return instruction.mnemonic in _WIDE_MOVES and instruction.encoding in (EncodingKind.LEGACY, EncodingKind.VEX)
    if width not in (1, 2, 4, 8):
        return False
    if memory[0].access in (OpAccess.READ_WRITE, OpAccess.READ_COND_WRITE):
        return not instruction.has_lock_prefix and not any(map(_is_vector, registers))
    return memory[0].access in (OpAccess.READ, OpAccess.WRITE)


def _is_stack_pointer(register: Register_) -> bool:
    return RegisterExt.is_gpr(register) and RegisterExt.full_register(register) == Register.RSP


def _is_vector(register: Register_) -> bool:
    return register != Register.NONE and not RegisterExt.is_gpr(register)
