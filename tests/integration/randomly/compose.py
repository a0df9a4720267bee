"""Random programs in C, whose output depends on the seed only, and not on how their threads are scheduled.

A program is frame.c, pieces.c and, for each thread, a loop over pieces: instructions with a memory operand, or calls
of what is in pieces.c.
"""

import random
import textwrap
from collections.abc import Callable
from pathlib import Path

PARTS = [Path(__file__).parent / name for name in ("frame.c", "pieces.c")]
PAGE, PAGES, MOST_THREADS = 4096, 8, 4
#: The device: pages of each thread, and one that they share.
DEVICE_SIZE = (MOST_THREADS * PAGES + 1) * PAGE

Piece = Callable[[random.Random], str]

SUFFIXES = {1: "b", 2: "w", 4: "l", 8: "q"}
#: Registers by width, of a (rax), b (rdx) and a pointer (rcx), as operands of inline assembler.
A, B = ({1: f"%b[{name}]", 2: f"%w[{name}]", 4: f"%k[{name}]", 8: f"%q[{name}]"} for name in "ab")
#: Flags that instructions with defined arithmetic flags leave: CF, PF, AF, ZF, SF, OF. Logical ones leave AF undefined.
ARITHMETIC, LOGICAL = 0x8D5, 0x8C5


def place(rng: random.Random, width: int, *, aligned: bool = False) -> str:
    """Somewhere in the thread's first three pages of the device, seldom across two, or in ordinary memory."""
    offset = rng.choice([rng.randrange(64), rng.randrange(3 * PAGE - 64), PAGE - rng.randrange(1, 64)])
    offset = min(offset, 3 * PAGE - 64)
    if aligned or rng.random() < 0.7:
        offset -= offset % width
    return f"s->{'device' if rng.random() < 0.85 else 'memory'} + {offset}"


def assemble(code: str, at: str, *, flags: int = 0, clobbers: str = "") -> str:
    """A piece that runs ``code`` with a, b and a pointer, and mixes in what it leaves in them and in these flags."""
    read_flags = "pushfq\\n\\tpopq %[f]" if flags else "movl $0, %k[f]"
    return (
        f"{{ uint64_t f; uint64_t a = s->a, b = s->b; uint8_t *p = {at};\n"
        f'    __asm__ volatile("leaq -128(%%rsp), %%rsp\\n\\t{code}\\n\\t{read_flags}\\n\\t'
        f'leaq 128(%%rsp), %%rsp"\n'
        f'        : [f] "=&r"(f), [a] "+&a"(a), [b] "+&d"(b), [p] "+&r"(p) : : "memory", "cc"{clobbers});\n'
        f"    mix(s, a); mix(s, b); mix(s, f & {flags}); }}"
    )


def scalar(rng: random.Random) -> str:
    width = rng.choice([1, 2, 4, 8])
    suffix, a, b = SUFFIXES[width], A[width], B[width]
    mem = "(%[p])"
    kinds: list[tuple[str, int]] = [
        (f"mov{suffix} {a}, {mem}", 0),
        (f"mov{suffix} {mem}, {a}", 0),
        *((f"{name}{suffix} {a}, {mem}", ARITHMETIC) for name in ("add", "sub", "adc", "sbb", "cmp")),
        *((f"{name}{suffix} {mem}, {b}", ARITHMETIC) for name in ("add", "sub", "cmp")),
        *((f"{name}{suffix} {a}, {mem}", LOGICAL) for name in ("and", "or", "xor", "test")),
        *((f"{name}{suffix} {mem}", ARITHMETIC) for name in ("inc", "dec", "neg")),
        (f"not{suffix} {mem}", 0),
        (f"xchg{suffix} {a}, {mem}", 0),
        (f"xadd{suffix} {a}, {mem}", ARITHMETIC),
        (f"cmpxchg{suffix} {b}, {mem}", ARITHMETIC),
        (f"mov{suffix} ${rng.randrange(128)}, {mem}", 0),
        (f"shl{suffix} $3, {mem}", 0),
        (f"ror{suffix} $5, {mem}", 0),
        *((f"lock {name}{suffix} {a}, {mem}", ARITHMETIC) for name in ("add", "sub", "xadd")),
        *((f"lock {name}{suffix} {a}, {mem}", LOGICAL) for name in ("and", "or", "xor")),
        (f"lock cmpxchg{suffix} {b}, {mem}", ARITHMETIC),
        (f"lock inc{suffix} {mem}", ARITHMETIC),
    ]
    if width > 1:
        kinds += [
            *((f"{name}{suffix} $7, {mem}", 1) for name in ("bt", "bts", "btr", "btc")),
            (f"andl $63, %k[b]\\n\\tbts{suffix} {b}, {mem}", 1),
            (f"imul{suffix} {mem}, {a}", 1),
            (f"cmov{rng.choice(['z', 'nz', 'c', 's'])}{suffix} {mem}, {a}", 0),
            (f"movzb{suffix} {mem}, {a}", 0),
            (f"movsb{suffix} {mem}, {a}", 0),
        ]
    if width == 8:
        kinds += [
            (f"pushq {mem}\\n\\tpopq %q[a]", 0),
            (f"pushq %q[a]\\n\\tpopq {mem}", 0),
            (f"movnti %q[a], {mem}", 0),
            (f"shldq $9, %q[a], {mem}", 0),
        ]
    if width == 1:
        kinds.append((f"cmpq %q[a], %q[b]\\n\\tset{rng.choice(['a', 'z', 's', 'o'])} {mem}", 0))
    code, flags = rng.choice(kinds)
    aligned = "lock" in code or code.startswith("xchg")  # split locks are trapped on some machines
    code = f"addq $0, %q[a]\\n\\t{code}"  # flags are known before
    return assemble(code, place(rng, width, aligned=aligned), flags=flags)


def vector(rng: random.Random) -> str:
    name, width = rng.choice([("movups", 16), ("movdqu", 16), ("movq", 8), ("movd", 4), ("movsd", 8), ("movaps", 16)])
    code = rng.choice(
        [
            f"movq %q[a], %%xmm1\\n\\tpunpcklqdq %%xmm1, %%xmm1\\n\\t{name} %%xmm1, (%[p])",
            f"{name} (%[p]), %%xmm1\\n\\tmovq %%xmm1, %q[a]",
            "movdqu (%[p]), %%xmm1\\n\\tpxor %%xmm2, %%xmm2\\n\\tpaddb %%xmm1, %%xmm2\\n\\tmovq %%xmm2, %q[b]",
            "fildll (%[p])\\n\\tfistpll (%[p])",
            "fildll (%[p])\\n\\tfstpt 16(%[p])",
        ]
    )
    return assemble(code, place(rng, width, aligned=name == "movaps"), clobbers=', "xmm1", "xmm2"')


def avx2(rng: random.Random) -> str:
    """Masked moves and gathers, where the processor has them."""
    code = rng.choice(
        [
            "vpmaskmovd (%[p]), %%ymm2, %%ymm3\\n\\tvmovq %%xmm3, %q[a]",
            "vpmaskmovd %%ymm1, %%ymm2, (%[p])",
            "vpsrld $29, %%ymm1, %%ymm1\\n\\tvpgatherdd %%ymm2, (%[p],%%ymm1,4), %%ymm3\\n\\tvmovq %%xmm3, %q[a]",
            "vmovdqu (%[p]), %%ymm3\\n\\tvextracti128 $1, %%ymm3, %%xmm3\\n\\tvmovq %%xmm3, %q[a]",
            "vmovdqu %%ymm1, (%[p])",
        ]
    )
    operands = "vmovq %q[a], %%xmm1\\n\\tvpbroadcastq %%xmm1, %%ymm1\\n\\tvpslld $3, %%ymm1, %%ymm2\\n\\t"
    zeroed = "vpxor %%ymm3, %%ymm3, %%ymm3\\n\\t"
    piece = assemble(f"{operands}{zeroed}{code}", place(rng, 32), clobbers=', "xmm1", "xmm2", "xmm3"')
    return f'if (__builtin_cpu_supports("avx2")) {piece}'


def string(rng: random.Random) -> str:
    width = rng.choice([1, 2, 4, 8])
    count = rng.randrange(1, 40)
    first, second = place(rng, width), place(rng, width)
    code = rng.choice(
        [
            f"rep movs{SUFFIXES[width]}",
            f"rep stos{SUFFIXES[width]}",
            f"repe cmps{SUFFIXES[width]}",
            f"repne scas{SUFFIXES[width]}",
            f"lods{SUFFIXES[width]}",
        ]
    )
    return (
        f"{{ uint64_t a = s->a, c = {count}; uint8_t *from = {first}, *to = {second};\n"
        f'    __asm__ volatile("{code}" : "+a"(a), "+c"(c), "+S"(from), "+D"(to) : : "memory", "cc");\n'
        f"    mix(s, a); mix(s, c); }}"
    )


def copying(rng: random.Random) -> str:
    """libc's own ways with memory."""
    size = rng.randrange(1, 700)
    offset = rng.randrange(2 * PAGE)
    call = rng.choice(
        [
            f"memcpy(s->memory, s->device + {offset}, {size});",
            f"memcpy(s->device + {offset % 2000}, s->memory + {size}, {size});",
            f"memset(s->device + {offset % 2000}, (int)s->a, {size});",
            f"memmove(s->device + {offset % 2000}, s->device + {offset % 1900}, {size});",
            f"mix(s, memcmp(s->device + {offset}, s->memory, {size}) > 0);",
        ]
    )
    return f"{{ {call} mix(s, s->memory[{size % 64}]); }}"


def calling(*names: str) -> Piece:
    """One of these functions of pieces.c."""
    return lambda rng: f"{rng.choice(names)}(s, {rng.randrange(PAGE)});"


#: Pieces, and how often they are chosen.
PIECES: list[tuple[Piece, int]] = [
    (scalar, 40),
    (vector, 8),
    (avx2, 4),
    (string, 8),
    (copying, 6),
    (calling("handler_opens", "null_pointer", "division_by_zero", "device_to_nowhere"), 4),
    (calling("breakpoint_met", "trap_raised"), 2),
    (calling("beyond_the_end", "illegal", "made_code", "selector_loaded"), 3),
    (calling("own_signal", "signal_held_back", "signal_waited_for", "handler_read_back"), 5),
    (calling("once_only", "suspended", "other_stack", "identity_set"), 3),
    (calling("unmapped_in_parts", "moved_and_grown", "protected_in_part"), 3),
    (calling("covered_in_part", "mapped_twice", "given_back"), 3),
    (calling("replaced_in_part", "mapped_by_number"), 2),
    (calling("added", "flipped", "exchanged"), 5),
    (calling("through_a_pipe", "into_a_list"), 2),
    (calling("brief_thread", "cancelled_thread"), 1),
]
#: What is dear, and ends a thread's work now and then.
LAST = calling("forked", "vforked", "spawned")


def function(rng: random.Random, name: str) -> str:
    """What a thread does, or several."""
    kinds, weights = zip(*PIECES, strict=True)
    body = "\n".join(piece(rng) for piece in rng.choices(kinds, weights, k=rng.randrange(10, 40)))
    last = LAST(rng) if rng.random() < 0.4 else ""
    return f"""static void *{name}(void *argument)
{{
    state *s = begin(argument);
    for (int turn = 0; turn < {rng.randrange(5, 60)}; turn++) {{
{textwrap.indent(body, "        ")}
    }}
    {last}
    return 0;
}}
"""


def compose(seed: int) -> str:
    """The source of the program of this seed."""
    rng = random.Random(seed)
    names = [f"work{number}" for number in range(rng.randrange(1, MOST_THREADS + 1))]
    threads = [*names, *rng.choices(names, k=rng.randrange(MOST_THREADS - len(names) + 1))]
    return "\n".join(
        [
            *(part.read_text() for part in PARTS),
            *(function(rng, name) for name in names),
            f"static void *(*const work[])(void *) = {{{', '.join(threads)}}};",
            f"static const int threads = {len(threads)}, alternate = {rng.randrange(2)};\n",
        ]
    )
