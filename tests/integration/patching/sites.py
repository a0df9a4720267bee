"""The sites of toggle.c: plain loads and stores of 2 to 15 bytes, inside of cache lines, across them and across pages.

A chunk is one or several sites in a row, behind them an instruction that adds STEP to %r11, and a jump back to visit.S.
It may be entered at each of its sites, and right behind the last one. What a site does to memory and registers is in a
table that goes into the program too.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

REGISTERS = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)))
#: Numbers of registers in the table: general ones from 0, xmm ones from 16.
XMM, NONE = 16, 255
LINE, PAGE = 64, 4096
STEP = 0x11
#: What a load does to the rest of its register.
MERGE, ZERO, SIGN = 0, 1, 2

#: Length in bytes, width of the access, instruction; `ds` is a redundant prefix. No operand uses %r11.
FORMS = (
    (2, 4, "mov %eax,(%rdx)"),
    (2, 1, "mov %cl,(%rbx)"),
    (2, 4, "mov (%rsi),%edi"),
    (2, 1, "mov (%rdx),%al"),
    (3, 8, "mov %rax,(%rdx)"),
    (3, 4, "mov %ebp,0x10(%rcx)"),
    (3, 2, "mov %dx,(%rbx)"),
    (3, 4, "mov %edi,(%rsp,%rcx,1)"),
    (3, 16, "movups %xmm2,(%rdi)"),
    (3, 8, "mov (%rbx),%rcx"),
    (3, 1, "movzbl (%rdx),%eax"),
    (3, 4, "movslq (%rsi),%rax"),
    (3, 4, "mov (%rsp,%rcx,1),%esi"),
    (3, 16, "movups (%rax),%xmm7"),
    (3, 1, "movb $0x5a,(%rsi)"),
    (4, 8, "mov %r9,0x10(%r8)"),
    (4, 1, "movb $-2,-8(%rdi)"),
    (4, 4, "movss %xmm1,(%rdx)"),
    (4, 8, "mov -0x18(%rdi),%rsi"),
    (4, 1, "movsbq (%rbx),%rdx"),
    (4, 2, "mov 0x10(%rbp),%cx"),
    (4, 8, "movq (%rdx),%xmm5"),
    (5, 8, "mov %rax,8(%rdx,%rcx,2)"),
    (5, 2, "movw $0x1234,(%rdi)"),
    (5, 8, "mov 8(%r12,%r13,8),%r14"),
    (5, 2, "movzwl 8(%rdx,%rcx,1),%eax"),
    (6, 4, "movl $0x12345678,(%rdx)"),
    (6, 2, "movw $0x1234,(%r15)"),
    (6, 4, "movss %xmm1,(%rbp,%rax,1)"),
    (6, 4, "mov %esi,0x1230(%rax)"),
    (6, 4, "mov 0x1230(%rdi),%ebx"),
    (7, 8, "mov %rbp,0x1230(%rdx)"),
    (7, 8, "movq $-2,(%rdx)"),
    (7, 1, "movb $0x77,0x1230(%rcx)"),
    (7, 1, "movzbl 0x1230(%rsi),%eax"),
    (8, 8, "mov %rdi,-0x1230(%rdx,%rcx,4)"),
    (8, 8, "movq $0x7654321,0x10(%rbx)"),
    (8, 8, "mov 0x1230(%rbx,%rsi,2),%rdi"),
    (9, 8, "movq $-3,8(%rdx,%rcx,1)"),
    (9, 2, "movw $0x4321,0x1230(%rsi)"),
    (9, 1, "movsbq 0x1230(%rdx,%rcx,1),%rax"),
    (9, 8, "movq 0x1230(%rax,%rbx,1),%xmm3"),
    (10, 4, "movl $0x1020304,0x1230(%rax)"),
    (10, 8, "movq 0x1230(%r8,%rbx,1),%xmm9"),
    (11, 8, "movq $0x1020305,0x1230(%rax)"),
    (11, 8, "ds movq 0x1230(%r8,%rbx,1),%xmm10"),
    (12, 8, "movq $0x1020306,0x1230(%rax,%rbx,1)"),
    (12, 8, "ds ds ds ds mov 0x1230(%rbx,%rsi,2),%rcx"),
    (13, 8, "ds movq $0x1020307,0x1230(%rax,%rbx,1)"),
    (13, 8, "ds ds ds ds ds mov 0x1230(%rbx,%rsi,2),%rdx"),
    (14, 8, "ds ds movq $0x1020308,0x1230(%rax,%rbx,1)"),
    (14, 1, "ds ds ds ds ds movsbq 0x1230(%rdx,%rcx,1),%rax"),
    (15, 8, "ds ds ds movq $-0x1020309,0x1230(%rax,%rbx,1)"),
    (15, 1, "ds ds ds ds ds ds movsbq 0x1230(%rdx,%rcx,1),%rdi"),
)

#: Sites in a row: the bytes of one are those that the jump of the one before shares.
ROWS = (
    ("mov %eax,(%rdx)", "mov (%rsi),%edi"),
    ("mov %eax,(%rdx)", "mov (%rsi),%edi", "mov %cl,(%rbx)", "mov (%rdx),%al"),
    ("mov (%rsi),%edi", "mov %rax,(%rdx)", "mov %cl,(%rbx)"),
    ("mov %cl,(%rbx)", "movq $-3,8(%rdx,%rcx,1)"),
    ("mov %r9,0x10(%r8)", "mov %eax,(%rdx)", "mov (%rdx),%al", "mov -0x18(%rdi),%rsi"),
    ("mov %rbp,0x1230(%rdx)", "mov (%rbx),%rcx", "movups %xmm2,(%rdi)", "movups (%rax),%xmm7"),
)

#: All add STEP to %r11 and leave the flags alone; their bytes are the rest of a short site's jump.
BEHIND = (
    f"lea {STEP:#x}(%r11),%r11",
    f"ds lea {STEP:#x}(%r11),%r11",
    f"nop; lea {STEP:#x}(%r11),%r11",
    f"xchg %ax,%ax; lea {STEP:#x}(%r11),%r11",
)


@dataclass(frozen=True)
class Site:
    """One load or store. ``register`` is what it loads or stores (NONE: ``immediate``), the operand is
    ``displacement(base, index, scale)``."""

    instruction: str
    length: int
    width: int
    is_write: bool
    register: int
    rest: int
    immediate: int
    displacement: int
    base: int
    index: int
    scale: int


@dataclass(frozen=True)
class Chunk:
    """Sites in a row. ``split`` bytes of the first are in front of a multiple of ``boundary``; 0: none is split."""

    sites: tuple[Site, ...]
    behind: str
    boundary: int
    split: int


def site(length: int, width: int, instruction: str) -> Site:
    mnemonic, operands = instruction.split()[-2:]
    found = re.fullmatch(
        r"(?:%(?P<from>\w+),|\$(?P<number>-?\w+),)?(?P<disp>-?\w*)\(%(?P<base>\w+)(?:,%(?P<index>\w+),(?P<scale>\d))?\)"
        r"(?:,%(?P<to>\w+))?",
        operands,
    )
    assert found, instruction
    name = found["from"] or found["to"]
    is_general = name is not None and not name.startswith("xmm")
    rest = ZERO
    if is_general and mnemonic == "mov" and width < 4:
        rest = MERGE
    elif is_general and mnemonic.startswith("movs"):
        rest = SIGN
    return Site(
        instruction=instruction,
        length=length,
        width=width,
        is_write=found["to"] is None,
        register=NONE if name is None else number(name),
        rest=rest,
        immediate=int(found["number"] or "0", 0),
        displacement=int(found["disp"] or "0", 0),
        base=number(found["base"]),
        index=NONE if found["index"] is None else number(found["index"]),
        scale=int(found["scale"] or 1),
    )


def number(name: str) -> int:
    """Of a register, by the name of any part of it but ah, bh, ch and dh."""
    if name.startswith("xmm"):
        return XMM + int(name[3:])
    if name[1:].rstrip("bwd").isdigit():
        return int(name[1:].rstrip("bwd"))
    wide = f"r{name[0]}x" if name[1] == "l" else f"r{name.lstrip('re').rstrip('l')}"
    return REGISTERS.index(wide)


def chunks() -> list[Chunk]:
    """Each form three times: in the middle of a cache line, across two, and across two pages; then the rows."""
    all_chunks = []
    by_instruction = {}
    for index, form in enumerate(FORMS):
        one = by_instruction[form[2]] = site(*form)
        splits = [(LINE, 0), (LINE, 1 + index % (one.length - 1)), (PAGE, 1 + (index + 1) % (one.length - 1))]
        for place, (boundary, split) in enumerate(splits):
            all_chunks.append(Chunk((one,), BEHIND[(index + place) % len(BEHIND)], boundary, split))
    for index, row in enumerate(ROWS):
        sites = tuple(by_instruction[instruction] for instruction in row)
        for boundary, split in ((LINE, 0), (LINE, 1), (PAGE, 1)):
            all_chunks.append(Chunk(sites, BEHIND[index % len(BEHIND)], boundary, split))
    return all_chunks


def assembly(all_chunks: Sequence[Chunk]) -> str:
    lines = ["    .text"]
    for index, chunk in enumerate(all_chunks):
        lines += code(index, chunk)
    lines += ["    .section .data.rel.ro", "    .balign 8", "    .globl chunks, chunk_count", "chunks:"]
    for index, chunk in enumerate(all_chunks):
        lines.append(f"    .quad {len(chunk.sites)}, chunk_{index}_sites")
    lines.append(f"chunk_count: .quad {len(all_chunks)}")
    for index, chunk in enumerate(all_chunks):
        lines.append(f"chunk_{index}_sites:")
        lines += [table_row(f"chunk_{index}", place, one) for place, one in enumerate(chunk.sites)]
    return "\n".join([*lines, '    .section .note.GNU-stack,"",@progbits', ""])


def code(index: int, chunk: Chunk) -> Iterator[str]:
    yield f"    .balign {chunk.boundary}, 0xcc"
    # Not across any boundary: well inside of a cache line, and not at its start.
    yield f"    .skip {chunk.boundary - chunk.split if chunk.split else 16}, 0xcc"
    for place, one in enumerate(chunk.sites):
        yield f"chunk_{index}_{place}: {one.instruction.replace('ds ', '.byte 0x3e; ')}"
    yield f"chunk_{index}_{len(chunk.sites)}:"
    yield f"    {chunk.behind.replace('ds ', '.byte 0x3e; ')}"
    yield "    jmp visit_back"


def table_row(chunk: str, place: int, one: Site) -> str:
    """struct site of toggle.c."""
    small = (one.width, int(one.is_write), one.register, one.rest, one.base, one.index, one.scale, 0, 0, 0, 0, 0)
    addresses = f".quad {chunk}_{place}, {chunk}_{place + 1}"
    return f"    {addresses}, {one.immediate}; .long {one.displacement}; .byte {', '.join(map(str, small))}"
