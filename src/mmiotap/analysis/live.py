"""Names of instruction addresses in processes that run: their modules are what /proc/PID/maps shows."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from elftools.elf.elffile import ELFFile

from mmiotap.analysis.symbols import Symbols, build_id
from mmiotap.trace.model import Module

PAGE = 4096


class LiveNames:
    """Called with a pid and an address, gives its name as :class:`~mmiotap.analysis.symbols.Symbols` does.

    A process's modules are looked up anew for an address in none of those that are known. For any number of threads.
    """

    def __init__(self) -> None:
        self._symbols: dict[int, Symbols] = {}
        self._names: dict[tuple[int, int], str] = {}

    def __call__(self, pid: int, pc: int) -> str:
        name = self._names.get((pid, pc))
        if name is None:
            name = self._look_up(pid, pc)
            self._names[pid, pc] = name
        return name

    def _look_up(self, pid: int, pc: int) -> str:
        known = self._symbols.get(pid)
        [name] = known.names([pid], [pc]) if known else [f"{pc:#x}"]
        if name == f"{pc:#x}":
            self._symbols[pid] = symbols = Symbols(list(modules(pid)))
            [name] = symbols.names([pid], [pc])
        return name


def modules(pid: int) -> Iterator[Module]:
    """The executable mappings of files in a process; none if it is gone, or is not ours to look at."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape").splitlines():
            span, rights, offset, _, _, *path = line.split(maxsplit=5)
            if "x" in rights and path and path[0].startswith("/"):
                start, end = (int(address, 16) for address in span.split("-"))
                found = _module(pid, path[0], start, end, int(offset, 16))
                if found is not None:
                    yield found


def _module(pid: int, path: str, start: int, end: int, offset: int) -> Module | None:
    """A mapping of a file from ``offset`` on; None if the file does not say what it has there."""
    try:
        with Path(path).open("rb") as file:
            elf = ELFFile(file)
            for segment in elf.iter_segments("PT_LOAD"):
                first = segment["p_offset"] & -PAGE
                if first <= offset < segment["p_offset"] + segment["p_filesz"]:
                    bias = start - offset - (segment["p_vaddr"] - segment["p_offset"])
                    return Module(pid, path, start, end, bias, build_id(elf))
    except Exception:  # a file that is gone, or damaged: pyelftools raises whatever it stumbles over
        return None
    return None
