"""Every case. What an instruction reads and writes is from the SDM, volume 2."""

import itertools
import re
from collections.abc import Mapping
from dataclasses import replace

from .case import ADJUST, ARITHMETIC, CARRY, FIXED, TARGET, WINDOW, Access, Case, Patch, Strings, Value
from .program import MASKS

SUFFIX = {1: "b", 2: "w", 4: "l", 8: "q"}
OLD = {"a": "rax", "c": "rcx", "d": "rdx", "b": "rbx"}
CONDITIONS = ("o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g")


def name(register: str, width: int) -> str:
    """The name of a 64-bit register's low part."""
    if register[1:].isdigit():
        return register + {1: "b", 2: "w", 4: "d", 8: ""}[width]
    letters = register[1:]
    if letters in ("ax", "bx", "cx", "dx"):
        return {1: letters[0] + "l", 2: letters, 4: "e" + letters, 8: register}[width]
    return {1: letters + "l", 2: letters, 4: "e" + letters, 8: register}[width]


def family(register: str) -> str:
    """The 64-bit register that a name is part of; other registers are their own."""
    if match := re.fullmatch(r"([abcd])[hl]|[re]?([abcd])x", register):
        return OLD[match[1] or match[2]]
    if match := re.fullmatch(r"[re]?(si|di|bp|sp)l?", register):
        return "r" + match[1]
    if match := re.fullmatch(r"(r\d+)[bwd]?", register):
        return match[1]
    return register


def words(text: str) -> list[str]:
    return text.split()


class Form:
    """A way to write a memory operand that is at TARGET, and the registers that it needs.

    ``registers`` gives the value of each for an operand at offset 0; the first is moved by the operand's offset.
    """

    def __init__(self, operand: str, fixed: bool = False, **registers: Value | int) -> None:
        self.operand, self.fixed, self.registers = operand, fixed, registers

    def place(self, offset: int) -> dict[str, int | str | Value]:
        placed: dict[str, int | str | Value] = dict(self.registers)
        if placed:
            first = next(iter(placed))
            value = placed[first]
            assert isinstance(value, Value)
            placed[first] = replace(value, constant=value.constant + offset)
        return placed

    def suits(self, instruction: str) -> bool:
        """No register twice, and no r8 to r15 beside ah, bh, ch or dh."""
        used = re.findall(r"%(\w+)", instruction)
        high = any(register in ("ah", "bh", "ch", "dh") for register in used)
        return not {family(register) for register in used} & set(self.registers) and not (
            high and any(register[1:].isdigit() for register in re.findall(r"%(\w+)", self.operand))
        )


def at_region(constant: int = 0) -> Value:
    return Value(constant, plus="region")


FORMS = (
    Form("(%rsi)", rsi=at_region()),
    Form("0x10(%rdi)", rdi=at_region(-0x10)),
    Form("0x12345(%r8)", r8=at_region(-0x12345)),
    Form("(%rbp)", rbp=at_region()),
    Form("(%r13)", r13=at_region()),
    Form("(%r12)", r12=at_region()),
    Form("-8(%r12,%r9,4)", r12=at_region(8 - 4 * 0x1234), r9=0x1234),
    Form("(%r14,%r15,8)", r14=at_region(8 * 77), r15=-77),
    Form("0x100(%rdi,%rsi,2)", rdi=at_region(-0x100 - 2 * 0x777777777), rsi=0x777777777),
    Form("(%r10,%r11)", r10=at_region(-0x5555), r11=0x5555),
    Form("0x7f(%rbp,%r13)", rbp=at_region(-0x7F - 33), r13=33),
    Form("0x8(%rsp,%rbp)", rbp=Value(-8, plus="region", minus="stack")),
    Form("-0x7fffffff(%r9)", r9=at_region(0x7FFFFFFF)),
    Form("%fs:(%r10)", r10=Value(0, plus="region", minus="fs")),
    Form("%fs:0x40(%rsi,%r8,4)", rsi=Value(-0x40 - 4 * 9, plus="region", minus="fs"), r8=9),
)
GARBAGE = 0xDEADBEEF
FIXED_FORMS = (
    Form("(%esi)", True, rsi=Value(0, plus="region", garbage=GARBAGE)),
    Form("-4(%r10d,%edi,2)", True, r10=Value(4 + 2 * 5, plus="region", garbage=GARBAGE), rdi=-5 & 0xFFFFFFFFFFFFFFFF),
    Form("0x0(,%r9,8)", True, r9=Value(0, plus="region", divide=8)),
    Form(f"{FIXED + TARGET:#x}", True),
    Form("fixed_target(%rip)", True),
)


def read(width: int, **more: int | bool) -> Access:
    return Access("read", width, **more)  # type: ignore[arg-type]


def write(width: int, **more: int | bool) -> Access:
    return Access("write", width, **more)  # type: ignore[arg-type]


def modify(width: int, offset: int = TARGET, *, locked: bool = False, known: bool = True) -> tuple[Access, Access]:
    read_half = Access("read", width, offset, rmw=True, locked=locked, known=known)
    return read_half, replace(read_half, kind="write")


class Table:
    """Cases, each with a name of its own. A memory operand is written @ and takes the next form that suits."""

    def __init__(self) -> None:
        self.cases: list[Case] = []
        self._forms = itertools.cycle(FORMS)
        self._names: set[str] = set()

    def add(
        self,
        instruction: str,
        *accesses: Access,
        form: Form | None = None,
        offset: int = TARGET,
        reserved: str = "",
        registers: Mapping[str, int | str | Value] | None = None,
        label: str = "",
        flags: int | None = None,
        patches: tuple[Patch, ...] = (),
        needs: str = "",
        may_be_unknown: bool = False,
        fixed: bool = False,
        before: str = "",
        after: str = "",
    ) -> None:
        """``reserved``: registers that the instruction uses without saying so. ``offset``: the operand's place."""
        given = registers or {}
        if form is None:
            taken = instruction + "".join(f" %{register}" for register in (*reserved.split(), *given))
            form = next(form for form in self._forms if form.suits(taken))
        self.append(
            Case(
                name=(instruction.replace("@", form.operand) if "@END" not in instruction else instruction)
                + (f" [{label}]" if label else ""),
                instruction=instruction.replace("@", form.operand),
                accesses=accesses,
                registers={**form.place(offset), **given} if "@" in instruction else given,
                flags=flags,
                patches=patches,
                needs=tuple(needs.split()),
                fixed=fixed or (form.fixed and "@" in instruction),
                may_be_unknown=may_be_unknown,
                before=before,
                after=after,
            )
        )

    def append(self, case: Case) -> None:
        assert case.name not in self._names, case.name
        self._names.add(case.name)
        self.cases.append(case)


def number(width: int, value: int, offset: int = TARGET) -> tuple[Patch, ...]:
    """The operand, as a patch."""
    return (Patch(offset, width, value & (1 << 8 * width) - 1),)


def all_cases(processor: frozenset[str]) -> list[Case]:
    """The cases that this processor can run."""
    table = Table()
    for chapter in (
        moves,
        addressing,
        arithmetic,
        locked,
        shifts,
        multiplications,
        bits,
        conditions,
        control,
        hints,
        floating,
        sse,
        avx,
        avx512,
        strings,
    ):
        chapter(table)
    return [case for case in table.cases if processor.issuperset(case.needs)]


def moves(t: Table) -> None:
    for width, register in itertools.product(SUFFIX, ("rax", "rdx", "rsi", "r9", "r15")):
        t.add(f"mov %{name(register, width)}, @", write(width))
        t.add(f"mov @, %{name(register, width)}", read(width))
    for width in SUFFIX:
        t.add(f"mov{SUFFIX[width]} $-0x5d, @", write(width))
        t.add(f"mov{SUFFIX[width]} $0x41, @", write(width))
    t.add("movl $0x89abcdef, @", write(4))
    t.add("movq $-0x76543211, @", write(8))
    t.add("movw $0x1234, @", write(2))
    for register in ("ah", "bh", "ch", "dh"):
        t.add(f"mov %{register}, @", write(1))
        t.add(f"mov @, %{register}", read(1))
    t.add("mov %sil, @", write(1))
    t.add("mov @, %dil", read(1))
    t.add("mov %bpl, @", write(1))
    for width in (2, 4, 8):
        t.add(f"mov %{name('rsp', width)}, @", write(width))
    t.add("mov %spl, @", write(1))
    for extend, (source, target) in itertools.product("zs", ((1, 2), (1, 4), (1, 8), (2, 4), (2, 8))):
        for register in ("rcx", "r11"):
            t.add(f"mov{extend}{SUFFIX[source]}{SUFFIX[target]} @, %{name(register, target)}", read(source))
    t.add("movslq @, %rdx", read(4))
    t.add("movslq @, %r12", read(4))
    for width in (2, 4, 8):
        t.add(f"movbe %{name('rcx', width)}, @", write(width), needs="movbe")
        t.add(f"movbe @, %{name('r10', width)}", read(width), needs="movbe")
    for width in SUFFIX:
        accumulator = name("rax", width)
        t.add(f"movabs %{accumulator}, {FIXED + TARGET:#x}", write(width), fixed=True)
        t.add(f"movabs {FIXED + TARGET:#x}, %{accumulator}", read(width), fixed=True)
    for width in (4, 8):
        t.add(f"movnti %{name('rdx', width)}, @", write(width, nontemporal=True))
    # The operand's own base register as its target.
    t.add("mov (%rsi), %rsi", read(8), registers={"rsi": at_region(TARGET)})
    t.add("mov (%rbx,%rcx), %ecx", read(4), registers={"rbx": at_region(TARGET - 5), "rcx": 5})
    # The stack pointer as the data register: what is loaded is a good stack.
    stack = (Patch(TARGET, 8, "stack_area+0x20000"),)
    t.add("mov @, %rsp", read(8), patches=stack)
    t.add("xchg %rsp, @", *modify(8, locked=True), patches=stack)
    t.add("add @, %rsp", read(8), patches=number(8, -0x40))
    t.add("add %rsp, @", *modify(8))
    t.add("cmp %rsp, @", read(8))
    # Places that are not aligned; across two cache lines; across two pages.
    for width, offset in itertools.product((2, 4, 8), (TARGET + 1, TARGET + 0x3F, 4096 - 1)):
        register = name("rbx", width)
        t.add(f"mov %{register}, @", write(width, offset=offset), offset=offset, label=f"at {offset:#x}")
        t.add(f"mov @, %{register}", read(width, offset=offset), offset=offset, label=f"at {offset:#x}")
        t.add(f"add %{register}, @", *modify(width, offset), offset=offset, label=f"at {offset:#x}")
    # The first and the last bytes of the window.
    for width, register in ((1, "al"), (4, "eax"), (8, "rax")):
        for offset in (0, WINDOW - width):
            t.add(f"mov %{register}, @", write(width, offset=offset), offset=offset, label=f"at {offset:#x}")
            t.add(f"mov @, %{register}", read(width, offset=offset), offset=offset, label=f"at {offset:#x}")


def addressing(t: Table) -> None:
    for form in (*FORMS, *FIXED_FORMS):
        t.add("movl @, %ecx", read(4), form=form, label="addressing")
        t.add("mov %rax, @", write(8), form=form, label="addressing")
        t.add("addw $0x1234, @", *modify(2), form=form, label="addressing")
        t.add("lock xadd %edx, @", *modify(4, locked=True), form=form, label="addressing")
        t.add("movups %xmm3, @", write(16), form=form, label="addressing")
        t.add("paddd @, %xmm9", read(16), form=form, label="addressing")


def arithmetic(t: Table) -> None:
    for operation, width in itertools.product(("add", "or", "adc", "sbb", "and", "sub", "xor"), SUFFIX):
        for register in ("rbx", "r10"):
            t.add(f"{operation} %{name(register, width)}, @", *modify(width))
            t.add(f"{operation} @, %{name(register, width)}", read(width))
        t.add(f"{operation}{SUFFIX[width]} $0x35, @", *modify(width))
        t.add(f"{operation}{SUFFIX[width]} $-3, @", *modify(width))
        if width > 1:
            t.add(f"{operation}{SUFFIX[width]} $0x1357, @", *modify(width))
    for width in SUFFIX:
        for register in ("rax", "r14"):
            t.add(f"cmp %{name(register, width)}, @", read(width))
            t.add(f"cmp @, %{name(register, width)}", read(width))
            t.add(f"test %{name(register, width)}, @", read(width))
        t.add(f"cmp{SUFFIX[width]} $0x35, @", read(width))
        t.add(f"test{SUFFIX[width]} $0x35, @", read(width))
        if width > 1:
            t.add(f"cmp{SUFFIX[width]} $0x1357, @", read(width))
            t.add(f"test{SUFFIX[width]} $0x1357, @", read(width))
        for operation in ("inc", "dec", "neg", "not"):
            t.add(f"{operation}{SUFFIX[width]} @", *modify(width))
    for operation, register in itertools.product(("add", "sbb", "xor"), ("ah", "bh", "ch", "dh")):
        t.add(f"{operation} %{register}, @", *modify(1))
        t.add(f"{operation} @, %{register}", read(1))
    for operation, width in itertools.product(("adcx", "adox"), (4, 8)):
        t.add(f"{operation} @, %{name('rax', width)}", read(width), needs="adx")
    for operation, width in itertools.product(("adc", "sbb"), (1, 8)):
        for flags in (0, CARRY):
            label = f"carry {flags}"
            t.add(f"{operation} %{name('rcx', width)}, @", *modify(width), flags=flags, label=label)


def locked(t: Table) -> None:
    exact = ("add", "sub", "adc", "sbb")
    for operation, width in itertools.product((*exact, "or", "and", "xor"), SUFFIX):
        accesses = modify(width, locked=True, known=operation in exact)
        t.add(f"lock {operation} %{name('rdx', width)}, @", *accesses)
        t.add(f"lock {operation}{SUFFIX[width]} $-0x11, @", *accesses)
        if width > 1:
            t.add(f"lock {operation}{SUFFIX[width]} $0x2345, @", *accesses)
    for operation, flags in itertools.product(("adc", "sbb"), (0, CARRY)):
        # With the carry, the operand wraps: all ones and a zero.
        for value in (0, -1):
            t.add(
                f"lock {operation} %rcx, @",
                *modify(8, locked=True),
                registers={"rcx": value},
                flags=flags,
                label=f"carry {flags}, {value}",
            )
    t.add("lock add %ah, @", *modify(1, locked=True))
    t.add("lock sbb %bh, @", *modify(1, locked=True))
    for operation, width in itertools.product(("inc", "dec", "neg", "not"), SUFFIX):
        known = operation in ("inc", "dec")
        t.add(f"lock {operation}{SUFFIX[width]} @", *modify(width, locked=True, known=known))
        t.add(
            f"lock {operation}{SUFFIX[width]} @",
            *modify(width, locked=True, known=known),
            patches=number(width, (1 << 8 * width - 1) - (operation == "inc")),
            flags=CARRY,
            label="overflow, carry kept",
        )
    for lock in (False, True):
        prefix = "lock " * lock
        for width, register in itertools.product(SUFFIX, ("rbx", "r9")):
            t.add(f"{prefix}xadd %{name(register, width)}, @", *modify(width, locked=lock))
            t.add(f"{prefix}xchg %{name(register, width)}, @", *modify(width, locked=True))
        for width, equal in itertools.product(SUFFIX, (True, False)):
            value = 0x1122334455667788 & (1 << 8 * width) - 1
            t.add(
                f"{prefix}cmpxchg %{name('rcx', width)}, @",
                *modify(width, locked=lock),
                registers={"rax": 0x1122334455667788},
                patches=number(width, value if equal else value ^ 1),
                label="equal" if equal else "not equal",
            )
        for (operation, half), equal in itertools.product((("cmpxchg8b", 4), ("cmpxchg16b", 8)), (True, False)):
            low, high = 0x0123456789ABCDEF & (1 << 8 * half) - 1, 0x0F1E2D3C4B5A6978 & (1 << 8 * half) - 1
            t.add(
                f"{prefix}{operation} @",
                *modify(2 * half, locked=lock),
                registers={"rax": 0x0123456789ABCDEF, "rdx": 0x0F1E2D3C4B5A6978},
                reserved="rbx rcx",
                patches=(Patch(TARGET, half, low), Patch(TARGET + half, half, high if equal else high ^ 1)),
                needs="cx16",
                label="equal" if equal else "not equal",
            )
    for register in ("ah", "ch"):
        t.add(f"xchg %{register}, @", *modify(1, locked=True))
        t.add(f"xadd %{register}, @", *modify(1))
        t.add(f"lock xadd %{register}, @", *modify(1, locked=True))
        t.add(f"lock cmpxchg %{register}, @", *modify(1, locked=True), reserved="rax")
    t.add("xadd %rax, @", *modify(8))
    t.add("lock cmpxchg %rax, @", *modify(8, locked=True), label="with itself")
    t.add("xchg %eax, @", *modify(4, locked=True))


def shifts(t: Table) -> None:
    for operation, width in itertools.product(("rol", "ror", "rcl", "rcr", "shl", "shr", "sar"), SUFFIX):
        t.add(f"{operation}{SUFFIX[width]} @", *modify(width))
        t.add(f"{operation}{SUFFIX[width]} $3, @", *modify(width))
        t.add(f"{operation}{SUFFIX[width]} %cl, @", *modify(width), registers={"rcx": 5})
    for operation, width in itertools.product(("shld", "shrd"), (2, 4, 8)):
        t.add(f"{operation} $5, %{name('rax', width)}, @", *modify(width))
        t.add(f"{operation} %cl, %{name('r11', width)}, @", *modify(width), registers={"rcx": 7})
    for operation, width in itertools.product(("sarx", "shlx", "shrx"), (4, 8)):
        t.add(f"{operation} %{name('rdx', width)}, @, %{name('rax', width)}", read(width), needs="bmi2")
    for width in (4, 8):
        t.add(f"rorx $9, @, %{name('rax', width)}", read(width), needs="bmi2")


def multiplications(t: Table) -> None:
    for operation, width in itertools.product(("mul", "imul"), SUFFIX):
        t.add(f"{operation}{SUFFIX[width]} @", read(width), reserved="rax rdx")
    for width in (2, 4, 8):
        t.add(f"imul @, %{name('rdi', width)}", read(width))
        t.add(f"imul $0x21, @, %{name('rbx', width)}", read(width))
        t.add(f"imul $0x4321, @, %{name('r8', width)}", read(width))
    for width in (4, 8):
        t.add(f"mulx @, %{name('rax', width)}, %{name('rcx', width)}", read(width), reserved="rdx", needs="bmi2")
    for operation, width, divisor in itertools.product(("div", "idiv"), SUFFIX, (7, -7)):
        # Quotients that fit: div sees -7 as a very large divisor.
        t.add(
            f"{operation}{SUFFIX[width]} @",
            read(width),
            registers={"rax": 100 if width == 1 else 20001, "rdx": 0},
            patches=number(width, divisor),
            may_be_unknown=True,
            label=f"by {divisor}",
        )


def bits(t: Table) -> None:
    for operation, width in itertools.product(("bt", "bts", "btr", "btc"), (2, 4, 8)):

        def at(offset: int, width: int = width, operation: str = operation) -> tuple[Access, ...]:
            return (read(width, offset=offset),) if operation == "bt" else modify(width, offset)

        t.add(f"{operation}{SUFFIX[width]} $13, @", *at(TARGET))
        for bit in (3, 8 * width - 1, 8 * width, 1003, -1, -777):
            # 16-bit operands take a signed 16-bit bit number, and so on; the operand is the unit that holds the bit.
            offset = TARGET + (bit // (8 * width)) * width
            register = "rcx" if bit % 2 else "r10"
            t.add(
                f"{operation} %{name(register, width)}, @", *at(offset), registers={register: bit}, label=f"bit {bit}"
            )
        if operation != "bt":
            t.add(f"lock {operation}{SUFFIX[width]} $13, @", *modify(width, locked=True, known=False))
            for bit in (5, 999, -400):
                offset = TARGET + (bit // (8 * width)) * width
                t.add(
                    f"lock {operation} %{name('rax', width)}, @",
                    *modify(width, offset, locked=True, known=False),
                    registers={"rax": bit},
                    label=f"bit {bit}",
                )
    for operation, width in itertools.product(("bsf", "bsr"), (2, 4, 8)):
        t.add(f"{operation} @, %{name('rdx', width)}", read(width))
        t.add(f"{operation} @, %{name('rdx', width)}", read(width), patches=number(width, 0), label="zero")
    for operation, needs in (("popcnt", "popcnt"), ("lzcnt", "abm"), ("tzcnt", "bmi1")):
        for width in (2, 4, 8):
            t.add(f"{operation} @, %{name('r9', width)}", read(width), needs=needs)
    for width in (4, 8):
        a, b = name("rax", width), name("r13", width)
        t.add(f"andn @, %{b}, %{a}", read(width), needs="bmi1")
        t.add(f"bextr %{b}, @, %{a}", read(width), needs="bmi1", registers={"r13": 0x0907})
        for operation in ("blsi", "blsr", "blsmsk"):
            t.add(f"{operation} @, %{a}", read(width), needs="bmi1")
        t.add(f"bzhi %{b}, @, %{a}", read(width), needs="bmi2", registers={"r13": 11})
        t.add(f"pdep @, %{b}, %{a}", read(width), needs="bmi2")
        t.add(f"pext @, %{b}, %{a}", read(width), needs="bmi2")
    for width in SUFFIX:
        target = "rdx" if width == 8 else "edx"
        t.add(f"crc32{SUFFIX[width]} @, %{target}", read(width), needs="sse4_2")


def conditions(t: Table) -> None:
    for condition, flags in itertools.product(CONDITIONS, (0, ARITHMETIC & ~ADJUST)):
        t.add(f"set{condition} @", write(1), flags=flags, label=f"flags {flags:#x}")
        for width in (2, 4, 8):
            t.add(
                f"cmov{condition} @, %{name('rcx' if flags else 'r15', width)}",
                read(width),
                flags=flags,
                label=f"flags {flags:#x}",
            )


def control(t: Table) -> None:
    t.add("pushq @", read(8))
    t.add("pushw @", read(2))
    t.add("popq @", write(8), reserved="rbp")
    t.add("popw @", write(2), reserved="rbp")
    # An address from rsp: push takes it before it moves rsp, pop after.
    from_stack = {"rbp": Value(TARGET - 8, plus="region", minus="stack")}
    t.add("pushq 8(%rsp,%rbp)", read(8), registers=from_stack, label="address from rsp")
    t.add("popq 8(%rsp,%rbp)", write(8, offset=TARGET + 8), registers=from_stack, label="address from rsp")
    t.add("popw 8(%rsp,%rbp)", write(2, offset=TARGET + 2), registers=from_stack, label="address from rsp")
    end = (Patch(TARGET, 8, "@END"),)
    t.add("call *@", read(8), patches=end)
    t.add("call *8(%rsp,%rbp)", read(8), patches=end, registers=from_stack, label="address from rsp")
    t.add("jmp *@", read(8), patches=end, after="ud2")
    t.add("notrack jmp *@", read(8), patches=end, after="ud2")
    # Offset and selector, that of 64-bit code (Linux, asm/segment.h: __USER_CS).
    far = (Patch(TARGET, 4, "@END"), Patch(TARGET + 4, 2, 0x33))
    t.add("ljmp *@", read(6), patches=far, after="ud2", may_be_unknown=True)
    t.add("lcall *@", read(6), patches=far, after="ud2", may_be_unknown=True)
    t.add("xlat", read(1), registers={"rbx": at_region(TARGET - 0x21), "rax": 0x21}, may_be_unknown=True)


def hints(t: Table) -> None:
    for operation in ("prefetcht0", "prefetcht1", "prefetcht2", "prefetchnta", "prefetchw", "nopl", "nopw"):
        t.add(f"{operation} @")
    t.add("clflush @")
    t.add("clflushopt @", needs="clflushopt")
    t.add("clwb @", needs="clwb")


def floating(t: Table) -> None:
    """x87 and MMX."""
    for suffix, width in (("s", 4), ("l", 8)):
        for operation in ("fld", "fadd", "fmul", "fsub", "fsubr", "fdiv", "fdivr", "fcom", "fcomp"):
            t.add(f"{operation}{suffix} @", read(width))
        t.add(f"fst{suffix} @", write(width))
        t.add(f"fstp{suffix} @", write(width))
    for suffix, width in (("s", 2), ("l", 4)):
        for operation in ("fild", "fiadd", "fimul", "fisub", "fisubr", "fidiv", "fidivr", "ficom", "ficomp"):
            t.add(f"{operation}{suffix} @", read(width))
        t.add(f"fist{suffix} @", write(width))
        t.add(f"fistp{suffix} @", write(width))
        t.add(f"fisttp{suffix} @", write(width), needs="pni")
    t.add("fildll @", read(8))
    t.add("fistpll @", write(8))
    t.add("fisttpll @", write(8), needs="pni")
    t.add("fldt @", read(10), may_be_unknown=True)
    t.add("fstpt @", write(10), may_be_unknown=True)
    t.add("fbld @", read(10), patches=(Patch(TARGET, 8, 0x1234567890), Patch(TARGET + 8, 2, 0)), may_be_unknown=True)
    t.add("fbstp @", write(10), may_be_unknown=True)
    t.add("fldcw @", read(2), patches=number(2, 0x0F7F))
    t.add("fnstcw @", write(2))
    t.add("fnstsw @", write(2))
    t.add("ldmxcsr @", read(4), patches=number(4, 0x7F80))
    t.add("stmxcsr @", write(4))
    t.add("movq @, %mm3", read(8))
    t.add("movq %mm3, @", write(8))
    t.add("movd @, %mm2", read(4))
    t.add("movd %mm2, @", write(4))
    t.add("movntq %mm1, @", write(8, nontemporal=True))
    for operation in ("paddb", "pmullw", "psadbw", "packsswb", "punpckhbw", "psllq", "pand"):
        t.add(f"{operation} @, %mm1", read(8))
    for operation in ("cvtpi2ps", "cvtpi2pd"):
        t.add(f"{operation} @, %xmm4", read(8))
    t.add("cvttps2pi @, %mm5", read(8))
    t.add("cvtpd2pi @, %mm5", read(16))


MOVES = (("movaps", 16), ("movapd", 16), ("movdqa", 16), ("movups", 16), ("movupd", 16), ("movdqu", 16))
HALVES = (("movlps", 8), ("movhps", 8), ("movlpd", 8), ("movhpd", 8))
SCALARS = (("movq", 8), ("movsd", 8), ("movss", 4), ("movd", 4))
#: Two operands in SSE, three in AVX; 16 or 32 bytes.
PACKED_FLOAT = words(
    "addps addpd subps subpd mulps mulpd divps divpd maxps maxpd minps minpd andps andpd andnps andnpd orps orpd "
    "xorps xorpd unpcklps unpckhps unpcklpd unpckhpd"
)
PACKED_FLOAT_SSE3 = words("addsubps addsubpd haddps haddpd hsubps hsubpd")
PACKED = words(
    "paddb paddw paddd paddq psubb psubw psubd psubq paddsb paddsw paddusb paddusw psubsb psubsw psubusb psubusw "
    "pmullw pmulhw pmulhuw pmuludq pmaddwd pand pandn por pxor pcmpeqb pcmpeqw pcmpeqd pcmpgtb pcmpgtw pcmpgtd "
    "packsswb packssdw packuswb punpcklbw punpcklwd punpckldq punpcklqdq punpckhbw punpckhwd punpckhdq punpckhqdq "
    "pavgb pavgw psadbw pminub pmaxub pminsw pmaxsw"
)
PACKED_SSSE3 = words("pshufb phaddw phaddd phaddsw phsubw phsubd phsubsw pmaddubsw pmulhrsw psignb psignw psignd")
PACKED_SSE41 = words("pmulld pmuldq pminsb pminsd pminuw pminud pmaxsb pmaxsd pmaxuw pmaxud packusdw pcmpeqq")
#: The shift count is 16 bytes at any vector length.
SHIFTS = words("psllw pslld psllq psrlw psrld psrlq psraw psrad")
#: One source only: the memory operand.
UNARY = ("sqrtps", "sqrtpd", "cvtdq2ps", "cvtps2dq", "cvttps2dq")
UNARY_SSSE3 = ("pabsb", "pabsw", "pabsd")
SCALAR = tuple(
    (operation + suffix, width)
    for operation in ("add", "sub", "mul", "div", "min", "max")
    for suffix, width in (("ss", 4), ("sd", 8))
)
COMPARE = (("ucomiss", 4), ("comiss", 4), ("ucomisd", 8), ("comisd", 8))
IMMEDIATE = ("cmpps $1", "cmppd $2", "shufps $0x1b", "shufpd $1")
IMMEDIATE_SSE41 = ("blendps $5", "blendpd $1", "pblendw $0x5a", "dpps $0x71", "mpsadbw $2")
EXTEND = (("bw", 8), ("bd", 4), ("bq", 2), ("wd", 8), ("wq", 4), ("dq", 8))
NONTEMPORAL = ("movntps", "movntpd", "movntdq")


def sse(t: Table) -> None:
    for operation, width in (*MOVES, *HALVES, *SCALARS):
        t.add(f"{operation} @, %xmm5", read(width))
        t.add(f"{operation} %xmm5, @", write(width))
        t.add(f"{operation} @, %xmm14", read(width))
        t.add(f"{operation} %xmm14, @", write(width))
    for operation, offset in itertools.product(("movups", "movdqu"), (TARGET + 1, 4096 - 9)):
        t.add(f"{operation} @, %xmm1", read(16, offset=offset), offset=offset, label=f"at {offset:#x}")
        t.add(f"{operation} %xmm1, @", write(16, offset=offset), offset=offset, label=f"at {offset:#x}")
    t.add("movq @, %xmm2", read(8), form=FORMS[7], label="again")
    for operation in NONTEMPORAL:
        t.add(f"{operation} %xmm7, @", write(16, nontemporal=True))
    t.add("movntdqa @, %xmm7", read(16, nontemporal=True), needs="sse4_1")
    t.add("lddqu @, %xmm7", read(16), needs="pni")
    t.add("movddup @, %xmm7", read(8), needs="pni")
    t.add("movshdup @, %xmm7", read(16), needs="pni")
    t.add("movsldup @, %xmm7", read(16), needs="pni")
    t.add("movntss %xmm1, @", write(4, nontemporal=True), needs="sse4a")
    t.add("movntsd %xmm1, @", write(8, nontemporal=True), needs="sse4a")
    for operation in (*PACKED_FLOAT, *PACKED, *SHIFTS):
        t.add(f"{operation} @, %xmm6", read(16))
    for operation in PACKED_FLOAT_SSE3:
        t.add(f"{operation} @, %xmm10", read(16), needs="pni")
    for operation in (*PACKED_SSSE3, *UNARY_SSSE3):
        t.add(f"{operation} @, %xmm11", read(16), needs="ssse3")
    for operation in (*PACKED_SSE41, "phminposuw", "ptest"):
        t.add(f"{operation} @, %xmm3", read(16), needs="sse4_1")
    t.add("pcmpgtq @, %xmm3", read(16), needs="sse4_2")
    for operation in UNARY:
        t.add(f"{operation} @, %xmm8", read(16))
    for operation, width in (*SCALAR, *COMPARE):
        t.add(f"{operation} @, %xmm9", read(width))
    for operation, width in (
        ("sqrtss", 4), ("sqrtsd", 8), ("rcpss", 4), ("rsqrtss", 4), ("cvtss2sd", 4), ("cvtsd2ss", 8), ("cvtps2pd", 8),
        ("cvtdq2pd", 8), ("cvtpd2ps", 16), ("cvtpd2dq", 16), ("cvttpd2dq", 16), ("rcpps", 16), ("rsqrtps", 16),
        ("cmpss $2,", 4), ("cmpsd $1,", 8), ("pshufd $0x1b,", 16), ("pshufhw $0x1b,", 16), ("pshuflw $0x1b,", 16),
    ):  # fmt: skip
        t.add(f"{operation} @, %xmm12", read(width))
    for operation, width in itertools.product(("cvtsi2ss", "cvtsi2sd"), (4, 8)):
        t.add(f"{operation}{SUFFIX[width]} @, %xmm13", read(width))
    for operation, width in (("cvtss2si", 4), ("cvttss2si", 4), ("cvtsd2si", 8), ("cvttsd2si", 8)):
        t.add(f"{operation} @, %ecx", read(width))
        t.add(f"{operation} @, %r11", read(width))
    for operation in IMMEDIATE:
        t.add(f"{operation}, @, %xmm2", read(16))
    for operation in IMMEDIATE_SSE41:
        t.add(f"{operation}, @, %xmm2", read(16), needs="sse4_1")
    t.add("palignr $5, @, %xmm2", read(16), needs="ssse3")
    for operation in ("blendvps", "blendvpd", "pblendvb"):
        t.add(f"{operation} %xmm0, @, %xmm4", read(16), needs="sse4_1")
    for operation, width in (("roundps", 16), ("roundpd", 16), ("roundss", 4), ("roundsd", 8)):
        t.add(f"{operation} $2, @, %xmm2", read(width), needs="sse4_1")
    t.add("insertps $0x5c, @, %xmm2", read(4), needs="sse4_1")
    for sign, (kind, width) in itertools.product("sz", EXTEND):
        t.add(f"pmov{sign}x{kind} @, %xmm15", read(width), needs="sse4_1")
    for suffix, width in (("b", 1), ("d", 4), ("q", 8)):
        t.add(f"pinsr{suffix} $1, @, %xmm3", read(width), needs="sse4_1")
        t.add(f"pextr{suffix} $1, %xmm3, @", write(width), needs="sse4_1")
    t.add("pinsrw $3, @, %xmm3", read(2))
    t.add("pextrw $3, %xmm3, @", write(2), needs="sse4_1")
    t.add("extractps $2, %xmm3, @", write(4), needs="sse4_1")
    for operation in ("pcmpistri", "pcmpestri", "pcmpistrm", "pcmpestrm"):
        t.add(
            f"{operation} $0x0c, @, %xmm3",
            read(16),
            registers={"rax": 9, "rdx": 11},
            reserved="rcx",
            needs="sse4_2",
        )
    for operation in ("aesenc", "aesenclast", "aesdec", "aesdeclast", "aesimc", "aeskeygenassist $3,"):
        t.add(f"{operation} @, %xmm1", read(16), needs="aes")
    t.add("pclmulqdq $0x10, @, %xmm1", read(16), needs="pclmulqdq")
    for operation in ("sha1msg1", "sha1msg2", "sha1nexte", "sha256msg1", "sha256msg2", "sha1rnds4 $2,"):
        t.add(f"{operation} @, %xmm1", read(16), needs="sha_ni")
    t.add("sha256rnds2 %xmm0, @, %xmm1", read(16), needs="sha_ni")


def avx(t: Table) -> None:
    for operation, (width, vector) in itertools.product((move for move, _ in MOVES), ((16, "xmm"), (32, "ymm"))):
        t.add(f"v{operation} @, %{vector}5", read(width), needs="avx")
        t.add(f"v{operation} %{vector}5, @", write(width), needs="avx")
        t.add(f"v{operation} %{vector}13, @", write(width), needs="avx")
    for offset in (TARGET + 3, 4096 - 17):
        t.add("vmovdqu @, %ymm1", read(32, offset=offset), offset=offset, needs="avx", label=f"at {offset:#x}")
        t.add("vmovdqu %ymm1, @", write(32, offset=offset), offset=offset, needs="avx", label=f"at {offset:#x}")
    for operation, (width, vector) in itertools.product(NONTEMPORAL, ((16, "xmm"), (32, "ymm"))):
        t.add(f"v{operation} %{vector}7, @", write(width, nontemporal=True), needs="avx")
    t.add("vmovntdqa @, %xmm7", read(16, nontemporal=True), needs="avx")
    t.add("vmovntdqa @, %ymm7", read(32, nontemporal=True), needs="avx2")
    t.add("vlddqu @, %ymm7", read(32), needs="avx")
    for operation, width in SCALARS:
        t.add(f"v{operation} @, %xmm6", read(width), needs="avx")
        t.add(f"v{operation} %xmm6, @", write(width), needs="avx")
    for operation, width in HALVES:
        t.add(f"v{operation} @, %xmm2, %xmm3", read(width), needs="avx")
        t.add(f"v{operation} %xmm3, @", write(width), needs="avx")
    for operation in (*PACKED_FLOAT, *PACKED_FLOAT_SSE3):
        t.add(f"v{operation} @, %xmm2, %xmm3", read(16), needs="avx")
        t.add(f"v{operation} @, %ymm2, %ymm11", read(32), needs="avx")
    for operation in (*PACKED, *PACKED_SSSE3, *PACKED_SSE41, "pcmpgtq"):
        t.add(f"v{operation} @, %xmm12, %xmm3", read(16), needs="avx")
        t.add(f"v{operation} @, %ymm12, %ymm3", read(32), needs="avx2")
    for operation in SHIFTS:
        t.add(f"v{operation} @, %ymm2, %ymm3", read(16), needs="avx2")
    for operation in UNARY_SSSE3:
        t.add(f"v{operation} @, %ymm3", read(32), needs="avx2")
    for operation in UNARY:
        t.add(f"v{operation} @, %ymm3", read(32), needs="avx")
    for operation, width in SCALAR:
        t.add(f"v{operation} @, %xmm2, %xmm3", read(width), needs="avx")
    for operation, width in COMPARE:
        t.add(f"v{operation} @, %xmm3", read(width), needs="avx")
    for operation in (*IMMEDIATE, "dpps $0x71"):
        t.add(f"v{operation}, @, %ymm2, %ymm3", read(32), needs="avx")
    for operation in ("vtestps", "vtestpd", "vptest"):
        t.add(f"{operation} @, %ymm3", read(32), needs="avx")
    for operation, width, vector in (
        ("vcvtps2pd", 16, "ymm"), ("vcvtdq2pd", 16, "ymm"), ("vmovddup", 32, "ymm"), ("vmovshdup", 32, "ymm"),
        ("vpermilps $0x1b,", 32, "ymm"), ("vpermilpd $5,", 32, "ymm"), ("vroundps $1,", 32, "ymm"),
        ("vcvtpd2psy", 32, "xmm"), ("vcvtpd2dqy", 32, "xmm"), ("vcvtpd2psx", 16, "xmm"),
        ("vbroadcastss", 4, "xmm"), ("vbroadcastss", 4, "ymm"), ("vbroadcastsd", 8, "ymm"),
        ("vbroadcastf128", 16, "ymm"),
    ):  # fmt: skip
        t.add(f"{operation} @, %{vector}9", read(width), needs="avx")
    for operation in ("vpermilps", "vpermilpd", "vperm2f128 $0x21,", "vblendps $0x5a,"):
        t.add(f"{operation} @, %ymm2, %ymm3", read(32), needs="avx")
    t.add("vblendvps %ymm4, @, %ymm2, %ymm3", read(32), needs="avx")
    t.add("vpblendvb %ymm4, @, %ymm2, %ymm3", read(32), needs="avx2")
    t.add("vcvtsi2sdq @, %xmm2, %xmm3", read(8), needs="avx")
    t.add("vcvtss2sd @, %xmm2, %xmm3", read(4), needs="avx")
    t.add("vcvttsd2si @, %rax", read(8), needs="avx")
    for kind, needs in (("f", "avx"), ("i", "avx2")):
        t.add(f"vinsert{kind}128 $1, @, %ymm2, %ymm3", read(16), needs=needs)
        t.add(f"vextract{kind}128 $1, %ymm3, @", write(16), needs=needs)
    for suffix, width in (("b", 1), ("w", 2), ("d", 4), ("q", 8)):
        t.add(f"vpbroadcast{suffix} @, %xmm3", read(width), needs="avx2")
        t.add(f"vpbroadcast{suffix} @, %ymm3", read(width), needs="avx2")
        t.add(f"vpinsr{suffix} $1, @, %xmm2, %xmm3", read(width), needs="avx")
        t.add(f"vpextr{suffix} $1, %xmm3, @", write(width), needs="avx")
    t.add("vextractps $1, %xmm9, @", write(4), needs="avx")
    t.add("vbroadcasti128 @, %ymm3", read(16), needs="avx2")
    for operation in ("vpermd", "vpermps", "vpsllvd", "vpsrlvq", "vpsravd", "vperm2i128 $0x21,", "vpblendd $0x5a,"):
        t.add(f"{operation} @, %ymm2, %ymm3", read(32), needs="avx2")
    t.add("vpermq $0x1b, @, %ymm3", read(32), needs="avx2")
    t.add("vpshufd $0x1b, @, %ymm3", read(32), needs="avx2")
    t.add("vpalignr $5, @, %ymm2, %ymm3", read(32), needs="avx2")
    for sign, (kind, width) in itertools.product("sz", EXTEND):
        t.add(f"vpmov{sign}x{kind} @, %xmm3", read(width), needs="avx")
        t.add(f"vpmov{sign}x{kind} @, %ymm3", read(2 * width), needs="avx2")
    t.add("vcvtph2ps @, %xmm3", read(8), needs="f16c")
    t.add("vcvtph2ps @, %ymm3", read(16), needs="f16c")
    t.add("vcvtps2ph $0, %xmm3, @", write(8), needs="f16c")
    t.add("vcvtps2ph $0, %ymm3, @", write(16), needs="f16c")
    for operation, order in itertools.product(("fmadd", "fnmsub", "fmaddsub"), ("132", "213", "231")):
        t.add(f"v{operation}{order}ps @, %ymm2, %ymm3", read(32), needs="fma")
        t.add(f"v{operation}{order}pd @, %xmm2, %xmm3", read(16), needs="fma")
        if operation != "fmaddsub":
            t.add(f"v{operation}{order}ss @, %xmm2, %xmm3", read(4), needs="fma")
            t.add(f"v{operation}{order}sd @, %xmm2, %xmm3", read(8), needs="fma")
    t.add("vldmxcsr @", read(4), patches=number(4, 0x5F80), needs="avx")
    t.add("vstmxcsr @", write(4), needs="avx")
    t.add("vaesenc @, %ymm2, %ymm3", read(32), needs="vaes avx2")
    t.add("vpclmulqdq $0x11, @, %ymm2, %ymm3", read(32), needs="vpclmulqdq avx2")


def avx512(t: Table) -> None:
    for operation in ("vmovdqu32", "vmovdqa64", "vmovups", "vmovapd"):
        t.add(f"{operation} @, %zmm17", read(64), needs="avx512f")
        t.add(f"{operation} %zmm17, @", write(64), needs="avx512f")
    for operation in ("vmovntdq", "vmovntps"):
        t.add(f"{operation} %zmm18, @", write(64, nontemporal=True), needs="avx512f")
    t.add("vmovntdqa @, %zmm18", read(64, nontemporal=True), needs="avx512f")
    t.add("vmovdqu8 @, %ymm19", read(32), needs="avx512bw avx512vl")
    t.add("vmovdqu16 %xmm19, @", write(16), needs="avx512bw avx512vl")
    for operation in ("vpaddd", "vpxorq", "vaddps", "vmulpd", "vpternlogd $0x96,", "vpermd"):
        t.add(f"{operation} @, %zmm20, %zmm21", read(64), needs="avx512f")
    t.add("vaddps @{1to16}, %zmm20, %zmm21", read(4), needs="avx512f")
    t.add("vpaddq @{1to8}, %zmm20, %zmm21", read(8), needs="avx512f")
    t.add("vpbroadcastd @, %zmm22", read(4), needs="avx512f")
    t.add("vbroadcasti64x4 @, %zmm22", read(32), needs="avx512f")
    t.add("vinserti64x4 $1, @, %zmm22, %zmm23", read(32), needs="avx512f")
    t.add("vextracti64x4 $1, %zmm23, @", write(32), needs="avx512f")
    t.add("vpmovqd %zmm24, @", write(32), needs="avx512f")
    t.add("vpcmpeqd @, %zmm24, %k3", read(64), needs="avx512f")
    t.add("kmovw @, %k4", read(2), needs="avx512f")
    t.add("kmovq %k4, @", write(8), needs="avx512bw")
    chosen = [TARGET + 4 * n for n in range(16) if MASKS[1] & 1 << n]
    reads, writes = ([access(4, offset=offset) for offset in chosen] for access in (read, write))
    t.add("vmovdqu32 @, %zmm25{%k1}", *reads, needs="avx512f", may_be_unknown=True)
    t.add("vmovdqu32 @, %zmm25{%k1}{z}", *reads, needs="avx512f", may_be_unknown=True)
    t.add("vmovdqu32 %zmm25, @{%k1}", *writes, needs="avx512f", may_be_unknown=True)
    packed = [read(4, offset=TARGET + 4 * n) for n in range(len(chosen))]
    t.add("vpexpandd @, %zmm25{%k1}", *packed, needs="avx512f", may_be_unknown=True)
    t.add(
        "vpcompressd %zmm25, @{%k1}",
        *[replace(it, kind="write") for it in packed],
        needs="avx512f",
        may_be_unknown=True,
    )
    t.add("movdiri %rax, @", write(8), needs="movdiri")


def string_case(
    operation: str,
    width: int,
    *,
    source: str = "",
    target: str = "",
    count: int | None = None,
    backwards: bool = False,
    until: str = "",
    start: tuple[int, int] = (0x100, 0x500),
    **more: object,
) -> Case:
    """``count`` None: without a rep prefix. ``start``: where source and target begin."""
    registers: dict[str, int | str | Value] = {"rax": 0x1122334455667788}
    if source:
        registers["rsi"] = Value(start[0], plus=source)
    if target:
        registers["rdi"] = Value(start[1], plus=target)
    if count is not None:
        registers["rcx"] = count
    registers |= more.pop("registers", {})  # type: ignore[call-overload]
    prefix = "" if count is None else f"{until or 'rep'} "
    sides = " to ".join(side for side in (source, target) if side)
    label = f"{sides}, {'' if count is None else f'{count} elements, '}{'down' if backwards else 'up'}"
    if start != (0x100, 0x500):
        label += f", from {start[0]:#x} and {start[1]:#x}"
    if tag := more.pop("label", ""):
        label += f", {tag}"
    instruction = str(more.pop("instruction", f"{prefix}{operation}{SUFFIX[width]}"))
    return Case(
        name=f"{instruction} [{label}]",
        instruction=instruction,
        registers=registers,
        strings=Strings(
            operation,
            width,
            (source, start[0]) if source else None,
            (target, start[1]) if target else None,
            1 if count is None else count,
            backwards,
            until,
        ),
        **more,  # type: ignore[arg-type]
    )


def strings(t: Table) -> None:
    sides = {
        "movs": (("region", "side"), ("side", "region"), ("region", "region")),
        "cmps": (("region", "side"), ("side", "region"), ("region", "region")),
        "stos": (("", "region"),),
        "scas": (("", "region"),),
        "lods": (("region", ""),),
    }
    for operation, places in sides.items():
        for width, (source, target), backwards in itertools.product(SUFFIX, places, (False, True)):
            t.append(string_case(operation, width, source=source, target=target, backwards=backwards))
            if operation in ("movs", "stos", "lods"):
                for count in (0, 1, 5):
                    t.append(
                        string_case(operation, width, source=source, target=target, count=count, backwards=backwards)
                    )
    # Long enough for the processor's fast strings, and across two pages.
    for width, (source, target) in itertools.product((1, 8), sides["movs"]):
        start = {"region": 4096 - 100, "side": 64}
        second = start[target] if source != target else 64
        t.append(string_case("movs", width, source=source, target=target, count=150, start=(start[source], second)))
    t.append(string_case("stos", 1, target="region", count=300, start=(0, 4096 - 128)))
    t.append(string_case("stos", 4, target="region", count=200, start=(0, 4096 - 128)))
    t.append(string_case("stos", 8, target="region", count=3, start=(0, 4096 - 4), label="not aligned"))
    # Source and target overlap.
    for width, backwards, distance in ((1, False, 1), (4, False, 4), (8, False, 3), (1, True, -1), (2, True, 2)):
        t.append(
            string_case(
                "movs",
                width,
                source="region",
                target="region",
                count=20,
                backwards=backwards,
                start=(0x900, 0x900 + distance),
            )
        )
    # Compares that end early, late and not at all. Side and region start with the same bytes.
    for width, until, (source, target) in itertools.product(SUFFIX, ("repe", "repne"), sides["cmps"]):
        different = (Patch(0x400 + 5 * width, 1, 0x5A),)
        same = (0x400, 0x400) if source != target else (0x400, 0x500)
        for count in (0, 3, 12):
            t.append(
                string_case(
                    "cmps",
                    width,
                    source=source,
                    target=target,
                    count=count,
                    until=until,
                    start=same,
                    patches=different,
                )
            )
    for width, until in itertools.product(SUFFIX, ("repe", "repne")):
        value = 0x1122334455667788 & (1 << 8 * width) - 1
        patches: tuple[Patch, ...] = (Patch(0x500 + 4 * width, width, value),)
        if until == "repe":
            patches = tuple(Patch(0x500 + n * width, width, value) for n in range(3))
        for count, backwards in ((0, False), (2, False), (9, False), (9, True)):
            t.append(
                string_case(
                    "scas", width, target="region", count=count, until=until, backwards=backwards, patches=patches
                )
            )
    # The other address size: esi, edi and ecx count.
    high = {"rsi": Value(0x100, plus="region", garbage=GARBAGE), "rcx": Value(4, garbage=GARBAGE)}
    low = {"rdi": Value(0x500, plus="region", garbage=GARBAGE), "rcx": Value(4, garbage=GARBAGE)}
    t.append(
        string_case(
            "movs",
            2,
            source="region",
            target="region",
            count=4,
            registers={**high, **low},
            instruction="rep addr32 movsw",
            fixed=True,
        )
    )
    t.append(
        string_case("stos", 4, target="region", count=4, registers=low, instruction="rep addr32 stosl", fixed=True)
    )
    t.append(
        string_case("lods", 1, source="region", count=4, registers=high, instruction="rep addr32 lodsb", fixed=True)
    )
    # A segment of its own for the source.
    from_fs = {"rsi": Value(0x100, plus="region", minus="fs")}
    for instruction, length in (("fs movsl", None), ("rep fs movsl", 6)):
        t.append(
            string_case(
                "movs",
                4,
                source="region",
                target="side",
                count=length,
                registers=from_fs,
                instruction=instruction,
            )
        )
