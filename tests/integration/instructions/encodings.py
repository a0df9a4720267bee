"""Every encoding with a memory operand that the decoder knows, found by asking it: each opcode of each map and prefix.

Left out are those with an XOP prefix and 3DNow!, which no machine at hand has.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from iced_x86 import Code, CpuidFeature, Decoder, Instruction, Mnemonic, OpCodeInfo, OpKind, Register

#: Features that /proc/cpuinfo and the decoder call the same.
UPPERCASE = """
    fpu mmx cmov cx8 fxsr sse sse2 ssse3 sse4_1 sse4_2 sse4a popcnt bmi1 bmi2 adx movbe aes pclmulqdq gfni avx avx2 fma
    f16c vaes vpclmulqdq avx_vnni clflushopt clwb clzero xsave xsaveopt xsavec movdiri movdir64b enqcmd cldemote ptwrite
    avx_ifma avx_vnni_int8 avx_vnni_int16 avx_ne_convert cmpccxadd sm3 sm4
    avx512f avx512cd avx512dq avx512bw avx512vl avx512er avx512pf avx512_bf16 avx512_bitalg avx512_fp16 avx512_vbmi2
    avx512_vnni avx512_vp2intersect avx512_vpopcntdq avx512_4fmaps avx512_4vnniw
""".split()  # noqa: SIM905
#: What the decoder calls a feature, and its flag in /proc/cpuinfo; "" where every x86-64 processor has it.
FEATURES = {
    **dict.fromkeys(("INTEL8086", "INTEL186", "INTEL286", "INTEL386", "INTEL486", "X64", "FPU387"), ""),
    **{flag.upper(): flag for flag in UPPERCASE},
    "SSE3": "pni",
    "LZCNT": "abm",
    "SHA": "sha_ni",
    "AVX512_IFMA": "avx512ifma",
    "AVX512_VBMI": "avx512vbmi",
    "CMPXCHG16B": "cx16",
    "CLFSH": "clflush",
    "PREFETCHW": "3dnowprefetch",
    "MULTIBYTENOP": "nopl",
}


if TYPE_CHECKING:
    from iced_x86 import Code_


def words(kind: object) -> dict[int, str]:
    """The names of one of the decoder's enumerations."""
    return {getattr(kind, name): name for name in dir(kind) if name.isupper()}


CODES, MNEMONICS, CPUID = words(Code), words(Mnemonic), words(CpuidFeature)
IMPLIED = (OpKind.MEMORY_SEG_RSI, OpKind.MEMORY_ESRDI, OpKind.MEMORY_SEG_RDI)
MEMORY = (OpKind.MEMORY, *IMPLIED)


@dataclass(frozen=True)
class Encoding:
    """One of the decoder's codes, with operands: rsi and r9 (or xmm9) make the address, 2 is the first register."""

    code: Code_
    instruction: Instruction

    @property
    def name(self) -> str:
        return CODES[self.code]

    @property
    def mnemonic(self) -> str:
        return MNEMONICS[self.instruction.mnemonic].lower()

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(CPUID[feature] for feature in self.instruction.cpuid_features())

    @property
    def needs(self) -> tuple[str, ...] | None:
        """Flags of /proc/cpuinfo; None where Linux has no word for what it needs."""
        flags = [FEATURES.get(feature) for feature in self.features]
        return None if None in flags else tuple(flag for flag in flags if flag)


@cache
def all_encodings() -> list[Encoding]:
    found: dict[int, Encoding] = {}
    for code in candidates():
        instruction = Decoder(64, code).decode()
        if instruction.code in found or instruction.code == Code.INVALID:
            continue
        if any(instruction.op_kind(op) in MEMORY for op in range(instruction.op_count)) or is_line(instruction):
            found[instruction.code] = Encoding(instruction.code, instruction)
    return sorted(found.values(), key=lambda encoding: encoding.name)


def is_line(instruction: Instruction) -> bool:
    """clzero: a cache line, which rax points to."""
    return instruction.code == Code.CLZEROQ


#: The vector register between the others, inverted: 3; or none, which those with two operands insist on.
THIRD = (12, 15)
#: Opcodes with an EVEX prefix of which the first register's bits are a part.
GROUPS = (0x71, 0x72, 0x73, 0xC6, 0xC7)


def candidates() -> Iterator[bytes]:
    # SIB: base rsi, index 1 of the upper eight, scale 1.
    operand, rest, registers = b"\x0e", bytes(16), (2, 0, 1, 3, 4, 5, 6, 7)
    for prefix, rex, opcode_map in itertools.product(
        (b"", b"\x66", b"\xf2", b"\xf3", b"\x66\xf2", b"\x66\xf3"),
        (b"\x42", b"\x4a"),
        (b"", b"\x0f", b"\x0f\x38", b"\x0f\x3a"),
    ):
        for opcode, register in itertools.product(range(256), registers):
            yield prefix + rex + opcode_map + bytes((opcode, register << 3 | 4)) + operand + rest
    # No operand that is written out, rsi, rdi or rax instead: the second register is 3. moffs: an address of 8 bytes.
    for prefix, wide in itertools.product((b"", b"\x66"), (b"\x40", b"\x48")):
        yield from (prefix + wide + bytes((opcode,)) + rest for opcode in range(0xA0, 0xB0))
        yield prefix + b"\x0f\xf7\xd3" + rest
        yield prefix + b"\x0f\x01\xfc" + rest
    yield b"\xc5\xf9\xf7\xd3" + rest
    # is4: a fourth register, 4.
    rest = b"\x40" + rest
    for vex_map, pp, w, long, third in itertools.product((1, 2, 3), range(4), (0, 1), (0, 1), THIRD):
        for opcode, register in itertools.product(range(256), registers):
            prefix = bytes((0xC4, 0xA0 | vex_map, w << 7 | third << 3 | long << 2 | pp))
            yield prefix + bytes((opcode, register << 3 | 4)) + operand + rest
    # Those that need a mask get k4.
    for evex_map, pp, w, long, third, mask in itertools.product(
        (1, 2, 3, 5, 6), range(4), (0, 1), (0, 1, 2), THIRD, (0, 4)
    ):
        prefix = bytes((0x62, 0xB0 | evex_map, w << 7 | third << 3 | 4 | pp, long << 5 | 8 | mask))
        for opcode in range(256):
            for register in registers if opcode in GROUPS else registers[:1]:
                yield prefix + bytes((opcode, register << 3 | 4)) + operand + rest


#: Why an encoding has no case.
LEFT_OUT = {
    "privileged": "only the kernel may",
    "ports": "moves between memory and a port, which only the kernel may",
    "thread": "loads fs or gs, on which a program's threads stand",
    "address": "is only about the address",
    "invalid": "is there to be invalid",
    "maker": "is not the same on processors of all makers",
    "jump": "jumps or calls: cases that are written by hand",
}


def left_out(encoding: Encoding) -> str | None:
    """Which reason of LEFT_OUT an encoding has."""
    info = OpCodeInfo(encoding.code)
    first = encoding.instruction.op0_register
    if not info.cpl3 or encoding.mnemonic in ("invlpg", "rstorssp"):
        return "privileged"
    if encoding.mnemonic.startswith(("ins", "outs")) and any(
        encoding.instruction.op_kind(op) in IMPLIED for op in range(encoding.instruction.op_count)
    ):
        return "ports"
    if first in (Register.FS, Register.GS) or encoding.mnemonic in ("lfs", "lgs"):
        return "thread"
    if encoding.name == "LSS_R64_M1664":
        return "maker"
    return {"lea": "address", "ud0": "invalid", "ud1": "invalid", "jmp": "jump", "call": "jump"}.get(encoding.mnemonic)
