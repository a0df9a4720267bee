"""The trace folder: names, trace.json, who may see it. Light: no numpy, no pyarrow (docs/trace-format.md)."""

import contextlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from mmiotap.trace.errors import DiskError, MmiotapError
from mmiotap.trace.model import Mapping, Module, Process, Site

#: Version of the format, in trace.json.
FORMAT = 1

#: Bytes at the end of a file that are looked at first: more than a line has.
_TAIL = 1 << 14

_R = TypeVar("_R", Mapping, Module, Process, Site)


@dataclass(frozen=True)
class TraceDir:
    """Names of what is in a trace folder."""

    path: Path

    @property
    def info_file(self) -> Path:
        return self.path / "trace.json"

    @property
    def events(self) -> Path:
        return self.path / "events"

    @property
    def live(self) -> Path:
        return self.path / "live"

    @property
    def arena(self) -> Path:
        return self.live / "arena"

    @property
    def control(self) -> Path:
        return self.live / "control"

    @property
    def mappings_file(self) -> Path:
        return self.path / "mappings.jsonl"

    @property
    def modules_file(self) -> Path:
        return self.path / "modules.jsonl"

    @property
    def processes_file(self) -> Path:
        return self.path / "processes.jsonl"

    @property
    def sites_file(self) -> Path:
        return self.path / "sites.jsonl"

    @property
    def registers_file(self) -> Path:
        return self.path / "registers.json"

    def part(self, number: int) -> Path:
        return self.events / f"part-{number:06}.parquet"

    def parts(self) -> list[Path]:
        """Sealed parts, in the order they were written."""
        return sorted(self.events.glob("part-*.parquet"), key=part_number)


def part_number(path: Path) -> int:
    digits = path.stem.removeprefix("part-")
    if not digits.isdecimal():
        raise MmiotapError(f"{path}: no part of a trace has such a name; move it elsewhere")
    return int(digits)


def create(path: Path, force: bool) -> TraceDir:
    """Make the folder of a new trace, readable by its owner only. The caller writes trace.json next.

    Raises MmiotapError if it cannot be made, or :func:`check_name` does not like it.
    """
    trace = TraceDir(path)
    with writing(path):
        check_name(path, force)
        if os.path.lexists(path):
            shutil.rmtree(path)
        path.mkdir(mode=0o700)
        trace.events.mkdir(mode=0o700)
    return trace


def check_name(path: Path, force: bool) -> None:
    """May a trace of this name be made?

    Raises MmiotapError if something is there; with ``force`` only if that is no trace, or still recorded.
    """
    if not os.path.lexists(path):
        return
    if not TraceDir(path).info_file.is_file():
        raise MmiotapError(f"{path} exists and is no mmiotap trace; choose another name")
    if not force:
        raise MmiotapError(f"{path} exists; choose another name, or replace it with -f")
    info = read_info(path)
    if info["state"] == "recording" and recorder_alive(info):
        raise MmiotapError(f"{path} is being recorded now (by process {info['recorder_pid']})")


def move(made: Path, path: Path) -> None:
    """Give a trace that was made under another name its own; what :func:`check_name` allowed to be there goes."""
    with writing(path):
        if os.path.lexists(path):
            shutil.rmtree(path)
        made.rename(path)


def read_info(path: str | os.PathLike[str]) -> dict[str, Any]:
    """trace.json of a trace folder. Raises MmiotapError if the folder is no trace, or one of a later format."""
    trace = TraceDir(Path(path))
    try:
        info = json.loads(trace.info_file.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        if not os.path.lexists(path):
            raise MmiotapError(f"{path}: there is no such trace") from error
        raise MmiotapError(f"{path} is no mmiotap trace: it has no trace.json") from error
    except OSError as error:
        raise MmiotapError(f"{trace.info_file}: {error.strerror}") from error
    except ValueError as error:
        raise MmiotapError(f"{path} is no mmiotap trace, or damaged: trace.json is not JSON") from error
    if not isinstance(info, dict) or not isinstance(info.get("format"), int) or not isinstance(info.get("state"), str):
        raise MmiotapError(f"{path} is no mmiotap trace: trace.json says nothing of it")
    if info["format"] > FORMAT:
        raise MmiotapError(f"{path} was made by a newer mmiotap (format {info['format']}); update mmiotap to read it")
    return info


def write_info(path: str | os.PathLike[str], info: dict[str, Any]) -> None:
    """Replace trace.json as a whole. Raises DiskError and leaves the old one if that fails."""
    with new_file(TraceDir(Path(path)).info_file) as file:
        file.write(json.dumps(info, indent=1).encode() + b"\n")


@contextlib.contextmanager
def new_file(path: Path, *, among_others: bool = False) -> Iterator[IO[bytes]]:
    """A file that appears under its name, complete, when the block ends; when it fails, nothing does.

    ``among_others``: its folder may be one that others write to. Until the end its name then cannot be guessed, and no
    link there is followed. (Within a trace the name is fixed, so that what a crash left is replaced.)
    """
    hidden = path.with_name(f".{path.name}.{os.urandom(6).hex() if among_others else 'new'}")
    with writing(path):
        try:
            with open(hidden, "xb" if among_others else "wb", opener=_owner_only) as file:
                yield file
            hidden.rename(path)
        except BaseException:
            with contextlib.suppress(OSError):
                hidden.unlink()
            raise


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """What fails while ``path`` is written is a DiskError."""
    try:
        yield
    except DiskError:
        raise
    except OSError as error:
        raise DiskError(error.errno, error.strerror or str(error), str(path)) from error


def append_lines(path: Path, records: list[dict[str, Any]]) -> None:
    """Add records to a file, one JSON object a line, all or none. What a crash left of a line is removed first."""
    data = "".join(f"{json.dumps(record)}\n" for record in records).encode()
    with writing(path), open(path, "ab+", buffering=0, opener=_owner_only) as file:
        end = _end_of_lines(file)
        file.truncate(end)
        written = 0
        try:
            while written < len(data):
                written += file.write(data[written:])
        except OSError:
            file.truncate(end)
            raise


def _end_of_lines(file: IO[bytes]) -> int:
    """Where the last line that has its end ends."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        begin = max(end - _TAIL, 0)
        file.seek(begin)
        if (newline := file.read(end - begin).rfind(b"\n")) >= 0:
            return begin + newline + 1
        end = begin
    return 0


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file, none if there is no file. A last line without its end is not one yet."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise MmiotapError(f"{path}: {error.strerror}") from error
    try:
        return [json.loads(line) for line in data.split(b"\n")[:-1]]
    except ValueError as error:
        raise MmiotapError(f"{path} is damaged: {error}") from error


def read_mappings(folder: Path) -> list[Mapping]:
    return _read(TraceDir(folder).mappings_file, Mapping)


def read_modules(folder: Path) -> list[Module]:
    return _read(TraceDir(folder).modules_file, Module)


def read_processes(folder: Path) -> list[Process]:
    return _read(TraceDir(folder).processes_file, Process)


def read_sites(folder: Path) -> list[Site]:
    return _read(TraceDir(folder).sites_file, Site)


def _read(path: Path, kind: type[_R]) -> list[_R]:
    try:
        return [kind.from_json(record) for record in read_lines(path)]
    except TypeError as error:
        raise MmiotapError(f"{path} is damaged: {error}") from error


def recorder_alive(info: dict[str, Any]) -> bool:
    """Whether the process that writes the trace still runs; trace.json names it by pid and start time."""
    pid = info.get("recorder_pid")
    start = process_start(pid) if isinstance(pid, int) else None
    return start is not None and start == info.get("recorder_start")


def current(path: Path) -> tuple[dict[str, Any], str]:
    """trace.json, and the state the trace is in: that of trace.json, or "incomplete" if its recorder is gone."""
    info = read_info(path)
    if info["state"] == "recording" and not recorder_alive(info):
        info = read_info(path)  # it may have finished between our two looks
        if info["state"] == "recording":
            return info, "incomplete"
    return info, info["state"]


def process_start(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat: when a process started, in clock ticks since boot. None: it is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # The command's name, in parentheses, may hold anything; fields are counted from the last one on.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def boot_id() -> str:
    """Of this boot of this machine, whose CLOCK_MONOTONIC all times are; random(4), /proc/sys/kernel/random."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _owner_only(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, stat.S_IRUSR | stat.S_IWUSR)
