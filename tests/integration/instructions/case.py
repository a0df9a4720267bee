"""What one case is: an instruction, the state it starts from, and what it does to memory."""

from collections.abc import Mapping
from dataclasses import dataclass, field

#: Bytes of a region that instructions work on; the page behind them takes the marks between the runs.
WINDOW = 8192
#: Where a case's memory operand is, unless it says otherwise: aligned for every vector.
TARGET = 0x840
#: Ordinary memory for the other side of string instructions; it starts as a copy of the window's first bytes.
SIDE = 4096
#: Where a mapping is put for addresses that an instruction holds in 32 bits or relative to itself.
FIXED = 0x20000000

CARRY, PARITY, ADJUST, ZERO, SIGN, DIRECTION, OVERFLOW = 0x1, 0x4, 0x10, 0x40, 0x80, 0x400, 0x800
ARITHMETIC = CARRY | PARITY | ADJUST | ZERO | SIGN | OVERFLOW

REGISTERS = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)))


@dataclass(frozen=True)
class Value:
    """A register's value at the start: ``(constant + plus - minus) / divide``, with ``garbage`` in the upper half.

    ``plus`` and ``minus`` name a base that is known at run time only: region, side, stack, fs (the base of %fs), zero.
    """

    constant: int = 0
    plus: str = "zero"
    minus: str = "zero"
    divide: int = 1
    garbage: int = 0


@dataclass(frozen=True)
class Patch:
    """Bytes of the window that a case needs: a number, or the address of a symbol (width 8)."""

    offset: int
    width: int
    value: int | str


@dataclass(frozen=True)
class Access:
    """One access to the window; a read-modify-write is a read and a write of its own."""

    kind: str
    width: int
    offset: int = TARGET
    rmw: bool = False
    locked: bool = False
    known: bool = True
    nontemporal: bool = False
    string: bool = False
    #: What is written, where that is not what is there afterwards.
    value: int | None = None


@dataclass(frozen=True)
class Strings:
    """A string instruction. ``source`` and ``target`` are ("region" | "side", offset of the first element)."""

    operation: str
    width: int
    source: tuple[str, int] | None = None
    target: tuple[str, int] | None = None
    count: int = 1
    backwards: bool = False
    #: repe or repne, for cmps and scas
    until: str = ""


@dataclass(frozen=True)
class Case:
    """One instruction, run once on plain memory and then again and again on a traced mapping."""

    name: str
    instruction: str
    accesses: tuple[Access, ...] = ()
    registers: Mapping[str, int | str | Value] = field(default_factory=dict)
    flags: int | None = None
    patches: tuple[Patch, ...] = ()
    strings: Strings | None = None
    #: Flags of /proc/cpuinfo that the processor must have.
    needs: tuple[str, ...] = ()
    #: Mapped at FIXED instead of wherever the kernel likes.
    fixed: bool = False
    #: Stepped, its rows may be of kind ``unknown``.
    may_be_unknown: bool = False
    #: More assembly, which touches no region, around the instruction. Jumps and calls end behind it (@END).
    before: str = ""
    after: str = ""
    #: What the decoder calls the encoding; "" for a case that was written by hand.
    code: str = ""
    #: It writes what it likes of so many bytes from TARGET on, behind its accesses.
    some_of: int = 0
