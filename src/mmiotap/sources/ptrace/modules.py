"""The ELF objects in a process, so that addresses of code can be given names."""

import struct
from pathlib import Path

from mmiotap.sources.ptrace import maps
from mmiotap.sources.ptrace.maps import Line
from mmiotap.trace.model import Module

_PAGE = 4096
_PT_LOAD, _PT_NOTE, _NT_GNU_BUILD_ID = 1, 4, 3
_HEADER = struct.Struct("<QQQQQQ")


def find(pid: int) -> list[Module]:
    """All objects that a process has mapped code of. The files are read as the process sees them (/proc/PID/root)."""
    by_path: dict[str, list[Line]] = {}
    for line in maps.read(pid):
        if line.path.startswith("/"):
            by_path.setdefault(line.path, []).append(line)
    found = []
    for path, lines in by_path.items():
        if any(line.prot & maps.EXECUTE for line in lines):
            try:
                found.append(_module(pid, path, lines))
            except (OSError, struct.error, ValueError):
                continue  # deleted, or no ELF file: its addresses stay numbers
    return found


def _module(pid: int, path: str, lines: list[Line]) -> Module:
    with Path(f"/proc/{pid}/root{path}").open("rb") as file:
        header = file.read(64)
        if header[:4] != b"\x7fELF":
            raise ValueError("no ELF file")
        (table,) = struct.unpack_from("<Q", header, 32)
        size, count = struct.unpack_from("<HH", header, 54)
        file.seek(table)
        raw = file.read(size * count)
        first, build_id = None, ""
        for at in range(0, size * count, size):
            kind, _ = struct.unpack_from("<II", raw, at)
            offset, address, _, length, _, _ = _HEADER.unpack_from(raw, at + 8)
            if kind == _PT_LOAD and first is None:
                first = (offset, address)
            elif kind == _PT_NOTE and not build_id:
                file.seek(offset)
                build_id = _build_id(file.read(length))
    if first is None:
        raise ValueError("nothing of it is loaded")
    start, end = min(line.start for line in lines), max(line.end for line in lines)
    begin = min(lines, key=lambda line: line.start)
    bias = begin.start - begin.file_offset - (first[1] - first[0])
    return Module(pid, path, start, end, bias, build_id)


def _build_id(notes: bytes) -> str:
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from("<III", notes, at)
        data = at + 12 + -(-name_size // 4) * 4
        if kind == _NT_GNU_BUILD_ID and notes[at + 12 : at + 16] == b"GNU\0":
            return notes[data : data + size].hex()
        at = data + -(-size // 4) * 4
    return ""
