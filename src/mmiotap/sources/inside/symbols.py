"""Where the functions of a process are: its ELF files, and where they are mapped."""

from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from elftools.elf.elffile import ELFFile
from elftools.elf.hash import ELFHashSection, GNUHashSection

from mmiotap.sources.ptrace import maps


def objects(lines: list[maps.Line]) -> dict[str, maps.Line]:
    """The files that a process executes parts of, each with the line where it begins."""
    executed = {line.path for line in lines if line.prot & maps.EXECUTE and line.inode}
    return {line.path: line for line in reversed(lines) if line.path in executed and line.file_offset == 0}


def find(pid: int, line: maps.Line, name: str) -> int | None:
    """The address of a function that the object beginning at this line exports; None: it exports none."""
    value = _value(pid, line, name)
    return None if value is None else line.start + value


@lru_cache(maxsize=256)
def _value(pid: int, line: maps.Line, name: str) -> int | None:
    """From the beginning of the object: linkers begin what can be moved at 0, and other programs where they lie."""
    with _open(pid, line) as file:
        elf = ELFFile(file)
        first = min((segment["p_vaddr"] for segment in elf.iter_segments("PT_LOAD")), default=0)
        for section in elf.iter_sections():
            if isinstance(section, GNUHashSection | ELFHashSection):
                symbol = section.get_symbol(name)
                if symbol is not None and symbol["st_shndx"] != "SHN_UNDEF":
                    return int(symbol["st_value"]) - int(first) // 4096 * 4096
    return None


def _open(pid: int, line: maps.Line) -> BinaryIO:
    """Raises OSError; FileNotFoundError also if it was replaced since the process has mapped it."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/map_files/{line.start:x}-{line.end:x}").open("rb")  # only root may
    path = Path(f"/proc/{pid}/root{line.path}")
    if path.stat().st_ino != line.inode:
        raise FileNotFoundError(f"{line.path} was replaced since process {pid} started")
    return path.open("rb")
