"""How many instructions that access memory can become a jump, and how: the punned share.

Real programs, where real processes have them: libc and CPython of this machine, and Debian's optimised DPDK driver of the
e1000. The rules are the agent's: thunk.rs says which instructions have a thunk, jump.rs where a jump from one can lead, room.rs which
pages may be mapped. Each site stands for itself here, as if it were the only one that is patched: two punned neighbours lean
on each other's bytes, and the second is then patched with what the first has become. Code is disassembled from each
section's start on.

    python -m benchmarks.punned      the table of docs/performance.md, length by length
"""

import os
import subprocess
import sys
import tempfile
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile
from iced_x86 import Decoder, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register, RegisterExt

from benchmarks.result import Result

#: Debian's package of the DPDK driver, whatever its version is called, and the driver in it.
PACKAGE = "^librte-net-e1000-[0-9]*$"
DRIVER = "librte_net_e1000.so*"
#: Processes whose layouts are tried: each has its libraries at other addresses.
LAYOUTS = 8
TIME_LIMIT = 120

PAGE = 4096
#: As in jump.rs, room.rs and space.rs.
PAGES, STEP, LANDING = 64, 16, 14
HEAP_GROWS, STACK_GROWS = 256 << 20, 72 << 20
LOWEST, HIGHEST = 0x10000, 0x7FFF_FFFF_F000
JUMP = 5

WIDTHS = (1, 2, 4, 8)
WAYS = ("plain", "punned", "none")
#: Bytes of a site; the last stands for all longer ones too.
LENGTHS = (2, 3, 4, 5)

#: Prints where CPython and libc have some function, then all mappings.
PROCESS = """
import ctypes, pathlib, sys
for library in sys.argv[1:]:
    ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
for function in ctypes.pythonapi.Py_Initialize, ctypes.CDLL(None).getpid:
    print(ctypes.cast(function, ctypes.c_void_p).value)
print(pathlib.Path("/proc/self/maps").read_text(), end="")
"""


@dataclass(frozen=True)
class Site:
    """An instruction that the agent would patch."""

    address: int  #: in its file
    length: int
    behind: bytes  #: the code that follows it


@dataclass(frozen=True)
class Code:
    """What a file's code consists of."""

    first: int  #: the address of the file's start, as the file has it
    sites: list[Site]
    accesses: int  #: instructions with a memory operand that they access, sites or not


@dataclass(frozen=True)
class Share:
    """What becomes of one file's sites, in all layouts together."""

    name: str
    code: Code
    ways: Counter[tuple[int, str]]  #: by length and way

    def percent(self, way: str, lengths: tuple[int, ...] = LENGTHS) -> float:
        """Of the sites of these lengths."""
        return 100 * sum(self.ways[length, way] for length in lengths) / self._sites(lengths)

    def percent_of_length(self, length: int) -> float:
        """Of all sites."""
        return 100 * self._sites((length,)) / self._sites(LENGTHS)

    def _sites(self, lengths: tuple[int, ...]) -> int:
        return sum(self.ways[length, way] for length in lengths for way in WAYS)


class Layout:
    """Where everything is in a process."""

    def __init__(self, driver: Path | None) -> None:
        command = [sys.executable, "-c", PROCESS, *([driver] if driver else [])]
        environment = os.environ | ({"LD_LIBRARY_PATH": str(driver.parent)} if driver else {})
        said = subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=TIME_LIMIT, env=environment
        ).stdout.splitlines()
        mappings = [_mapping(line) for line in said[2:]]
        self.starts: dict[str, int] = {}  #: where each file's start is
        for start, _, path in mappings:
            self.starts.setdefault(path, start)
        cpython, libc = (next(path for start, end, path in mappings if start <= int(at) < end) for at in said[:2])
        self.files = {"libc": libc, "CPython": cpython} | ({"DPDK's e1000": str(driver.resolve())} if driver else {})
        self._taken: list[tuple[int, int]] = []
        for start, end, path in sorted(mappings):
            start -= STACK_GROWS * (path == "[stack]")
            end += HEAP_GROWS * (path == "[heap]")
            if self._taken and self._taken[-1][1] >= start:
                start, end = self._taken[-1][0], max(end, self._taken.pop()[1])
            self._taken.append((start, end))

    def is_free(self, page: int) -> bool:
        """Can it be mapped?"""
        before = bisect_right(self._taken, (page + PAGE - 1, HIGHEST)) - 1
        return LOWEST <= page < HIGHEST and (before < 0 or self._taken[before][1] <= page)

    def way(self, site: Site, at: int) -> str:
        """What becomes of a site at this address."""
        if site.length >= JUMP:
            return "plain"  # thunks are near: 2 GiB to either side are never full
        return "punned" if any(self._lands(site, at, prefixes) for prefixes in (0, 1)) else "none"

    def _lands(self, site: Site, at: int, prefixes: int) -> bool:
        """Is there a place where a jump with so many prefixes, whose last bytes are those behind the site, can lead?"""
        free = site.length - prefixes - 1
        if free < 0:
            return False
        fixed = bytes(free) + site.behind[: 4 - free]
        window = at + prefixes + JUMP + int.from_bytes(fixed, "little", signed=True)
        end = window + (1 << 8 * free)
        for page in range(window // PAGE * PAGE, end, PAGE)[:PAGES]:
            places = range(max(page, window), min(end, page + PAGE), STEP)
            if any(place % PAGE + LANDING <= PAGE for place in places) and self.is_free(page):
                return True
        return False


def run() -> list[Result]:
    """Of the sites of each file, the percentage that goes each way."""
    return [
        Result(f"sites in {share.name} that get {_words(way)}", "", share.percent(way), "%", True)
        for share in shares()
        for way in WAYS
    ]


def main() -> None:
    """The table, in Markdown."""
    print("| | memory instructions | sites | " + " | ".join(_words(way) for way in WAYS) + " |")
    print("|---" * (3 + len(WAYS)) + "|")
    found = shares()
    for share in found:
        ways = " | ".join(f"{share.percent(way):.1f} %" for way in WAYS)
        print(f"| {share.name} | {share.code.accesses:,} | {len(share.code.sites):,} | {ways} |")
    print("\n| | " + " | ".join(f"{_length(length)}: of all sites, of them punned" for length in LENGTHS) + " |")
    print("|---" * (1 + len(LENGTHS)) + "|")
    for share in found:
        parts = [f"{share.percent_of_length(length):.1f} %" for length in LENGTHS]
        punned = [f", {share.percent('punned', (length,)):.1f} %" if length < JUMP else "" for length in LENGTHS]
        print(f"| {share.name} | " + " | ".join(map("".join, zip(parts, punned, strict=True))) + " |")


def shares() -> list[Share]:
    """Of each file."""
    with _driver() as driver:
        layouts = [Layout(driver) for _ in range(LAYOUTS)]
        return [_share(name, path, layouts) for name, path in layouts[0].files.items()]


def sites(path: Path) -> Code:
    """The memory accesses of a file, and those that the agent would patch."""
    found: list[Site] = []
    accesses = 0
    with path.open("rb") as stream:
        file = ELFFile(stream)
        for section in file.iter_sections("SHT_PROGBITS"):
            if not section["sh_flags"] & SH_FLAGS.SHF_EXECINSTR:
                continue
            code, start = section.data(), section["sh_addr"]
            for instruction in Decoder(64, code, ip=start):
                if _accesses_memory(instruction):
                    accesses += 1
                    if _is_site(instruction):
                        behind = instruction.next_ip - start
                        found.append(Site(instruction.ip, instruction.len, code[behind : behind + JUMP]))
        first = min(segment["p_vaddr"] for segment in file.iter_segments("PT_LOAD")) // PAGE * PAGE
    return Code(first, found, accesses)


def _share(name: str, path: str, layouts: list[Layout]) -> Share:
    code = sites(Path(path))
    ways = Counter(
        (min(site.length, JUMP), layout.way(site, layout.starts[path] - code.first + site.address))
        for layout in layouts
        for site in code.sites
    )
    return Share(name, code, ways)


def _accesses_memory(instruction: Instruction) -> bool:
    operands = [instruction.op_kind(op) for op in range(instruction.op_count)]
    return (
        any(kind == OpKind.MEMORY or OpKind.MEMORY_SEG_SI <= kind <= OpKind.MEMORY_ESRDI for kind in operands)
        and instruction.mnemonic not in (Mnemonic.LEA, Mnemonic.NOP)
        and not instruction.is_invalid
    )


_INFO = InstructionInfoFactory()
_ACCESSES = (OpAccess.READ, OpAccess.WRITE, OpAccess.READ_WRITE, OpAccess.READ_COND_WRITE)
#: Memory operands that the agent treats in a way of their own.
_OTHERS = (
    Mnemonic.PUSH, Mnemonic.POP, Mnemonic.CALL, Mnemonic.JMP, Mnemonic.XCHG, Mnemonic.MOVNTDQA, Mnemonic.VMOVNTDQA,
    Mnemonic.CLFLUSH, Mnemonic.CLFLUSHOPT, Mnemonic.CLWB, Mnemonic.CLDEMOTE,
    Mnemonic.VMASKMOVPS, Mnemonic.VMASKMOVPD, Mnemonic.VPMASKMOVD, Mnemonic.VPMASKMOVQ,
)  # fmt: skip


def _is_site(instruction: Instruction) -> bool:
    """As decode::classify and thunk::is_possible have it: a load, a store, or a read-modify-write without a lock."""
    kinds = [instruction.op_kind(op) for op in range(instruction.op_count)]
    registers = [instruction.op_register(op) for op, kind in enumerate(kinds) if kind == OpKind.REGISTER]
    if (
        kinds.count(OpKind.MEMORY) != 1
        or any(OpKind.MEMORY_SEG_SI <= kind <= OpKind.MEMORY_ESRDI for kind in kinds)
        or instruction.mnemonic in _OTHERS
        or instruction.is_vsib
        or instruction.has_op_mask
        or instruction.segment_prefix in (Register.FS, Register.GS)
        or any(_is_stack(register) for register in [instruction.memory_base, *registers])
    ):
        return False
    moves_operand = instruction.mnemonic in (Mnemonic.BT, Mnemonic.BTS, Mnemonic.BTR, Mnemonic.BTC) and registers
    memory = _INFO.info(instruction).used_memory()
    if moves_operand or len(memory) != 1:
        return False
    access = memory[0].access
    if access == OpAccess.COND_READ:
        return instruction.code_name...
    return False


def _mapping(line: str) -> tuple[int, int, str]:
    """Start, end and path of a line of /proc/PID/maps."""
    words = line.split(maxsplit=5)
    start, end = words[0].split("-")
    return int(start, 16), int(end, 16), words[5] if len(words) > 5 else ""
