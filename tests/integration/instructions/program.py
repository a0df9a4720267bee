"""Writes the cases as assembly and builds the program that runs them."""

import random
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .case import ARITHMETIC, DIRECTION, FIXED, REGISTERS, TARGET, WINDOW, Case, Patch, Value

HERE = Path(__file__).parent
BASES = {"zero": 0, "region": 1, "side": 2, "stack": 3, "fs": 4}
PATCHES = 10
#: struct state of runner.c
FLAGS, MASK, VECTOR, X87 = 128, 144, 256, 256 + 32 * 64
#: What the mask registers hold at the start; see runner.c.
MASKS = tuple(0x9E3779B97F4A7C15 * (number + 1) & (1 << 64) - 1 for number in range(8))
#: Of gathers and scatters, by their width: some are the same.
INDICES = {4: (0, 3, -5, 100, 7, 7, -200, 31, 40, 41, -60, 12, 300, 12, -9, 55), 8: (0, -3, 50, 11, 90, 90, -40, 25)}
IN_ORDER = [(name, 8 * number) for number, name in enumerate(REGISTERS)]

RUN = """
    .text
    .globl run_case
run_case:
    push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15
    mov %rsp, host_stack(%rip)
{load_mmx}
    fninit
    fldpi; fldl2e; fldl x87_value(%rip)
    ldmxcsr default_mxcsr(%rip)
{load_vectors}
    pushq in_state+{flags}(%rip); popfq
{load_general}
    jmp *case_code(%rip)
case_back:
{store_general}
    mov host_stack(%rip), %rsp
    pushfq; popq out_state+{flags}(%rip)
    cld
    fxsave64 out_state+{x87}(%rip)
    fninit
    ldmxcsr default_mxcsr(%rip)
{store_vectors}
    pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx
    ret

    .bss
    .balign 64
    .globl in_state, out_state, case_code
in_state: .zero {state}
out_state: .zero {state}
case_code: .zero 8
host_stack: .zero 8

    .section .rodata
    .globl content, tests, test_count
content: .incbin "content.bin"
indices32: .long {indices[4]}
indices64: .quad {indices[8]}
x87_value: .double 1234.5
no_addresses: .long 0x37f, 5 << 11, 0x3ff, 0, 0, 0, 0
default_mxcsr: .long 0x1f80
"""


def build(cases: Sequence[Case], processor: frozenset[str], folder: Path) -> Path:
    """Compile the program in this folder. Needs gcc; raises CalledProcessError with gcc's words on standard error."""
    (folder / "content.bin").write_bytes(content())
    (folder / "cases.S").write_text(assembly(cases, processor))
    program = folder / "runner"
    # Only the linker makes an address of this symbol; to the assembler the number would be a displacement.
    target = f"-Wl,--defsym=fixed_target={FIXED + TARGET:#x}"
    sources = [str(HERE / "runner.c"), str(folder / "cases.S")]
    command = ["gcc", "-O2", "-g", "-no-pie", "-Wall", "-Wextra", target, "-o", str(program), *sources]
    subprocess.run(command, cwd=folder, check=True, timeout=120)
    return program


def content() -> bytes:
    """What the window holds at the start of every run."""
    return random.Random(1).randbytes(WINDOW)


def assembly(cases: Sequence[Case], processor: frozenset[str]) -> str:
    load, store = vectors(processor)
    lines = [
        RUN.format(
            flags=FLAGS,
            x87=X87,
            state=X87 + 512,
            indices={width: ", ".join(map(str, values)) for width, values in INDICES.items()},
            load_mmx="\n".join(f"    movq content+{64 * n}(%rip), %mm{n}" for n in range(8)),
            load_vectors=load,
            store_vectors=store,
            load_general="\n".join(f"    mov in_state+{at}(%rip), %{name}" for name, at in IN_ORDER),
            store_general="\n".join(f"    mov %{name}, out_state+{at}(%rip)" for name, at in IN_ORDER),
        )
    ]
    for number, case in enumerate(cases):
        lines += [
            "    .text",
            f"case_{number}: {case.before}",
            f"case_{number}_instruction: {case.instruction.replace('@END', f'case_{number}_end')}",
            f"    {case.after}",
            f"case_{number}_end: jmp case_back",
            "    .section .rodata",
            f'case_{number}_name: .asciz "{case.name}"',
        ]
    lines += ["    .balign 8", f"test_count: .quad {len(cases)}", "tests:"]
    for number, case in enumerate(cases):
        lines += description(number, case)
    return "\n".join([*lines, '    .section .note.GNU-stack,"",@progbits', ""])


def vectors(processor: frozenset[str]) -> tuple[str, str]:
    """Load and store of the vector and mask registers that the processor has."""
    if "avx512bw" in processor:
        move, register, count = "vmovdqu64", "zmm", 32
    elif "avx" in processor:
        move, register, count = "vmovdqu", "ymm", 16
    else:
        move, register, count = "movdqu", "xmm", 16
    load = [f"    {move} in_state+{VECTOR + 64 * n}(%rip), %{register}{n}" for n in range(count)]
    store = [f"    {move} %{register}{n}, out_state+{VECTOR + 64 * n}(%rip)" for n in range(count)]
    if "avx512bw" in processor:
        load += [f"    kmovq in_state+{MASK + 8 * n}(%rip), %k{n}" for n in range(8)]
        store += [f"    kmovq %k{n}, out_state+{MASK + 8 * n}(%rip)" for n in range(8)]
    if "avx" in processor:
        store.append("    vzeroupper")
    return "\n".join(load), "\n".join(store)


def description(number: int, case: Case) -> list[str]:
    """struct test of runner.c."""
    chance = random.Random(case.name)
    flags = case.flags if case.flags is not None else chance.getrandbits(12) & ARITHMETIC
    if case.strings and case.strings.backwards:
        flags |= DIRECTION
    lines = [
        f"    .quad case_{number}_name, case_{number}, case_{number}_instruction, {int(case.fixed)}, {flags:#x}",
    ]
    for name in REGISTERS:
        given = case.registers.get(name, Value(chance.getrandbits(64)))
        value = given if isinstance(given, Value) else Value(given) if isinstance(given, int) else None
        if value is None:
            lines.append(f"    .quad {str(given).replace('@END', f'case_{number}_end')}; .long 0, 0, 1, 0")
        else:
            lines.append(
                f"    .quad {value.constant & (1 << 64) - 1:#x}; .long {BASES[value.plus]}, {BASES[value.minus]}, "
                f"{value.divide}, {value.garbage:#x}"
            )
    for patch in (*case.patches, *[Patch(0, 0, 0)] * (PATCHES - len(case.patches))):
        symbol = str(patch.value).replace("@END", f"case_{number}_end")
        lines.append(f"    .quad {patch.offset}, {patch.width}, {symbol}")
    return lines
