"""From instruction addresses to ``function+0x12 (module)``, through the modules that were recorded.

The ELF files are read where they lie now. A file whose build id is not the recorded one has been rebuilt since; its
names would be wrong, so they are not used and :attr:`Symbols.notes` says so.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import NoteSection

from mmiotap.trace.model import Module, Process

#: Elf64_Sym of elf(5), little-endian.
SYMBOL = np.dtype(
    [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2"), ("value", "<u8"), ("size", "<u8")]
)
STT_FUNC = 2
STT_GNU_IFUNC = 10
SHN_UNDEF = 0


@dataclass(frozen=True)
class Functions:
    """The functions of one ELF file, sorted by address."""

    starts: npt.NDArray[np.uint64]
    ends: npt.NDArray[np.uint64]  #: first address after the function
    names: npt.NDArray[np.uint32]  #: offsets into ``strings``
    strings: bytes

    def find(self, addresses: npt.NDArray[np.uint64]) -> list[tuple[str, int] | None]:
        """Name and distance from its start of the function around each address (as in the file)."""
        if not len(self.starts):
            return [None] * len(addresses)
        at = np.searchsorted(self.starts, addresses, side="right").astype(np.int64) - 1
        inside = (at >= 0) & (addresses < self.ends[at])
        return [
            (self._name(int(index)), int(address) - int(self.starts[index])) if hit else None
            for index, address, hit in zip(at, addresses, inside, strict=True)
        ]

    def _name(self, index: int) -> str:
        start = int(self.names[index])
        return self.strings[start : self.strings.find(b"\0", start)].decode("utf-8", "replace")


NO_FUNCTIONS = Functions(np.empty(0, np.uint64), np.empty(0, np.uint64), np.empty(0, np.uint32), b"")


class Symbols:
    """Names of instruction addresses in a trace. Every file is read once, and only if an address lies in it."""

    def __init__(self, modules: Sequence[Module], processes: Sequence[Process] = ()) -> None:
        self.notes: list[str] = []  #: modules that could not be used, and why
        self._modules: dict[int, list[Module]] = {}
        for module in modules:
            self._modules.setdefault(module.pid, []).append(module)
        self._parents = {process.pid: process.ppid for process in processes}
        self._functions: dict[tuple[str, str], Functions] = {}
        self._names: dict[tuple[int, int], str] = {}

    def names(self, pids: Sequence[int], pcs: Sequence[int]) -> list[str]:
        """One name for each pair: ``function+0x12 (module)``, ``module+0x1234`` (an address in its file) where no
        function is known, the bare address where no module is, and "" for 0, an address that is not known."""
        pairs = list(zip(pids, pcs, strict=True))
        missing: dict[int, list[int]] = {}
        for pid, address in dict.fromkeys(pairs):
            if (pid, address) not in self._names:
                missing.setdefault(pid, []).append(address)
        for pid, addresses in missing.items():
            self._resolve(pid, addresses)
        return [self._names[pair] for pair in pairs]

    def places(self, pid: int, addresses: Sequence[int]) -> Iterator[tuple[Module, list[int]]]:
        """The modules of a process that some of these addresses are in, and those that are in each."""
        left = {address for address in addresses if address}
        for module in reversed(self._modules_of(pid)):  # what was loaded last is what was there
            inside = sorted(address for address in left if module.start <= address < module.end)
            if inside:
                left.difference_update(inside)
                yield module, inside

    def _resolve(self, pid: int, addresses: list[int]) -> None:
        self._names |= {(pid, address): f"{address:#x}" if address else "" for address in (*addresses, 0)}
        for module, inside in self.places(pid, addresses):
            short = module.path.rpartition("/")[2] or module.path
            in_file = np.array([(address - module.bias) % 2**64 for address in inside], np.uint64)
            for address, relative, found in zip(inside, in_file, self._load(module).find(in_file), strict=True):
                self._names[pid, address] = (
                    f"{short}+{int(relative):#x}" if found is None else f"{found[0]}+{found[1]:#x} ({short})"
                )

    def _modules_of(self, pid: int) -> list[Module]:
        """Its own modules, or those of the nearest ancestor it was forked from."""
        seen: set[int] = set()
        while pid not in self._modules and pid in self._parents and pid not in seen:
            seen.add(pid)
            pid = self._parents[pid]
        return self._modules.get(pid, [])

    def _load(self, module: Module) -> Functions:
        key = (module.path, module.build_id)
        if key not in self._functions:
            self._functions[key] = self._read(module)
        return self._functions[key]

    def _read(self, module: Module) -> Functions:
        if not module.path.startswith("/"):  # [vdso] and the like have no file
            return NO_FUNCTIONS
        try:
            with Path(module.path).open("rb") as file:
                elf = ELFFile(file)
                if build_id(elf) == module.build_id:
                    return functions(elf)
                reason = "has changed since it was recorded (another build id)"
        except OSError as error:
            reason = f"cannot be read ({error.strerror})"
        except Exception:  # on a damaged file pyelftools raises whatever it stumbles over, MemoryError included
            reason = "is not the ELF file it was"
        self.notes.append(f"{module.path} {reason}: its sites are shown without function names")
        return NO_FUNCTIONS


def build_id(elf: ELFFile) -> str:
    """The GNU build id in hex, "" if the file has none."""
    for section in elf.iter_sections():
        if isinstance(section, NoteSection):
            for note in section.iter_notes():
                if note["n_type"] == "NT_GNU_BUILD_ID":
                    return str(note["n_desc"])
    return ""


def functions(elf: ELFFile) -> Functions:
    """The functions in .symtab, or in .dynsym of a stripped file; none unless it is 64-bit little-endian."""
    table = elf.get_section_by_name(".symtab") or elf.get_section_by_name(".dynsym")
    if table is None or elf.elfclass != 64 or not elf.little_endian:
        return NO_FUNCTIONS
    symbols = np.frombuffer(table.data(), SYMBOL)
    kind = symbols["info"] & 0xF
    symbols = symbols[((kind == STT_FUNC) | (kind == STT_GNU_IFUNC)) & (symbols["section"] != SHN_UNDEF)]
    # Of several names for one address the longest function wins, then the first in the file.
    symbols = symbols[np.lexsort((-symbols["size"].astype(np.int64), symbols["value"]))]
    starts, first = np.unique(symbols["value"], return_index=True)
    sizes = symbols["size"][first]
    # A function without a size (assembly) reaches to the next one.
    following = np.append(starts[1:], starts[-1:] + np.uint64(1)) if len(starts) else starts
    ends = np.where(sizes > 0, starts + sizes, following)
    strings = elf.get_section(table["sh_link"]).data()
    return Functions(starts, ends, symbols["name"][first], strings)
