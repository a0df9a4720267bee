"""What /proc tells of a process: its mappings, its threads, its state."""

import os
from dataclasses import dataclass
from pathlib import Path

READ, WRITE, EXECUTE = 1, 2, 4

_RIGHTS = {
    f"{read}{write}{execute}": READ * (read != "-") | WRITE * (write != "-") | EXECUTE * (execute != "-")
    for read in "r-"
    for write in "w-"
    for execute in "x-"
}


@dataclass(frozen=True)
class Line:
    """A line of /proc/PID/maps."""

    start: int
    end: int
    prot: int  #: READ | WRITE | EXECUTE
    shared: bool
    file_offset: int
    device: str  #: major:minor, in hexadecimal
    inode: int
    path: str


def read(pid: int) -> list[Line]:
    """All mappings of a process. Raises OSError if it is gone or not ours to see."""
    text = Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape")
    return [_line(line) for line in text.split("\n") if line]


def at(pid: int, address: int) -> Line | None:
    """The mapping that an address is in."""
    return next((line for line in read(pid) if line.start <= address < line.end), None)


def _line(line: str) -> Line:
    """``start-end rights offset device inode   path`` (proc(5)). A program has hundreds of them."""
    bounds, rights, offset, device, inode, *path = line.split(maxsplit=5)
    start, _, end = bounds.partition("-")
    shared = rights[3] == "s"
    name = path[0].strip() if path else ""
    return Line(int(start, 16), int(end, 16), _RIGHTS[rights[:3]], shared, int(offset, 16), device, int(inode), name)


def threads(pid: int) -> list[int]:
    return [int(folder.name) for folder in Path(f"/proc/{pid}/task").iterdir()]


def status(pid: int) -> dict[str, str]:
    """The fields of /proc/PID/status. Raises FileNotFoundError or ProcessLookupError if there is no such process."""
    lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def executable(pid: int) -> str:
    """The path of the program, or its name where that is not ours to see."""
    try:
        return str(Path(f"/proc/{pid}/exe").readlink())
    except OSError:
        return status(pid).get("Name", "")


def open_file(pid: int, line: Line) -> int | None:
    """A descriptor in that process for the file behind a mapping, with the rights that the mapping has."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if str(entry.readlink()) != line.path:
                continue
            flags = next(
                int(text.split()[1], 8)
                for text in Path(f"/proc/{pid}/fdinfo/{entry.name}").read_text().splitlines()
                if text.startswith("flags:")
            )
        except (OSError, StopIteration):
            continue
        if flags & os.O_ACCMODE == os.O_RDWR or (flags & os.O_ACCMODE == os.O_RDONLY and not line.prot & WRITE):
            found.append(int(entry.name))
    # Of files without a name (anon_inode:[vfio-device]) nobody can tell which of several it is.
    if len(found) > 1 and not line.path.startswith("/"):
        return None
    return found[0] if found else None
