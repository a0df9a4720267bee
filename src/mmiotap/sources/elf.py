"""The few facts of an ELF header that decide whether a library can be preloaded into a program.

Read by hand, because importing an ELF library takes longer than the whole start of a recording may.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

PT_INTERP = 3

#: Names of e_machine values that a user is likely to meet (elf(5), <elf.h>).
MACHINES = {3: "i386", 8: "MIPS", 20: "PowerPC", 21: "PowerPC64", 22: "s390", 40: "ARM", 62: "x86-64", 183: "AArch64",
            243: "RISC-V", 258: "LoongArch"}  # fmt: skip


@dataclass(frozen=True)
class Elf:
    """Header facts of a program or shared object."""

    bits: int  #: 32 or 64
    machine: int  #: e_machine
    dynamic: bool  #: has a PT_INTERP segment, so a dynamic loader starts it (known for 64-bit files only)

    @property
    def machine_name(self) -> str:
        return MACHINES.get(self.machine, f"machine {self.machine}")


def read(path: Path) -> Elf | None:
    """The header facts of the file, or None if it is no ELF file. Raises OSError if it cannot be read."""
    with path.open("rb") as file:
        header = file.read(64)
        if len(header) < 52 or header[:4] != b"\x7fELF":
            return None
        order = ">" if header[5] == 2 else "<"
        (machine,) = struct.unpack_from(order + "H", header, 18)
        if header[4] != 2 or len(header) < 64:
            return Elf(32, machine, dynamic=False)
        (table,) = struct.unpack_from(order + "Q", header, 32)
        size, count = struct.unpack_from(order + "HH", header, 54)
        file.seek(table)
        segments = file.read(size * count)
    types = (struct.unpack_from(order + "I", segments, at)[0] for at in range(0, len(segments) - 3, max(size, 4)))
    return Elf(64, machine, dynamic=PT_INTERP in types)
