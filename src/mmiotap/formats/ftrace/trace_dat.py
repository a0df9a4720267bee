"""trace-cmd's trace.dat: formats of events, then pages by CPU.

Versions 6 and 7, as trace-cmd.dat.v6(5) and trace-cmd.dat.v7(5) have them.
"""

import io
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa

from mmiotap.formats.compressed import Log
from mmiotap.formats.ftrace import importing, paired
from mmiotap.formats.ftrace.events import NAMES
from mmiotap.formats.ftrace.fields import Formats
from mmiotap.formats.ftrace.importing import Cpu
from mmiotap.formats.importing import Ending, Writer
from mmiotap.trace.errors import MmiotapError

MAGIC = b"\x17\x08\x44tracing"

#: Texts and sections are far shorter than this; pages are compressed in pieces of ten.
_LONGEST = 16 << 20
_MOST_CPUS = 8192
_MOST_SECTIONS = 4096
_COMPRESSED = 1
#: Decompresses to a length that is known; None: it cannot.
_Unpack = Callable[[bytes, int], bytes | None]
#: What tells the layout of a page, and of each kind of record; and where it begins, as messages say it.
_Texts = tuple[str, list[str], str]
# Options of version 7
_DONE, _BUFFER, _TRACE_CLOCK, _HEADER_INFO, _FTRACE_EVENTS, _EVENTS_OF_SYSTEMS = 0, 3, 4, 16, 17, 18


@dataclass
class _File:
    """The file, read from a place on; nothing is read beyond its end, and nothing longer than ``_LONGEST``."""

    name: str
    file: IO[bytes]
    size: int
    folder: Path  #: for what has to be decompressed
    at: int = 0
    given: int = 0  #: bytes that CPUs have had of it

    def give(self, number: int, offset: int, size: int) -> None:
        """Bytes of one CPU. CPUs do not share any, so all of them have no more than there are."""
        self.given += size
        if offset + size > self.size or self.given > self.size:
            self.at = min(offset, self.size)
            raise self.error(f"CPU {number} has {size} bytes there, and the file ends at {self.size}")

    def take(self, size: int) -> bytes:
        self._check(size)
        if size > _LONGEST:
            raise self.error(f"{size} bytes in one piece")
        self.file.seek(self.at)
        self.at += size
        return self.file.read(size)

    def skip(self, size: int) -> None:
        self._check(size)
        self.at += size

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def string(self) -> bytes:
        self.file.seek(self.at)
        text, end, _ = self.file.read(4096).partition(b"\0")
        if not end:
            raise self.error("a name that does not end")
        self.at += len(text) + 1
        return text

    def expect(self, word: bytes) -> None:
        begin = self.at
        if self.take(len(word)) != word:
            self.at = begin
            raise self.error(f"{word.decode().rstrip(chr(0))!r} is not where it has to be")

    def error(self, why: str) -> MmiotapError:
        return MmiotapError(f"{self.name}, byte {self.at}: no trace.dat of trace-cmd, or a damaged one: {why}")

    def _check(self, size: int) -> None:
        if self.at + size > self.size:
            raise self.error(f"{size} bytes are wanted there, and the file ends at {self.size}")


def recognises(head: bytes) -> bool:
    return head.startswith(MAGIC)


def load(log: Log, writer: Writer) -> Ending:
    """The importer (:mod:`mmiotap.formats.importing`). The file is copied first: its parts stand in no order."""
    with tempfile.TemporaryFile(dir=writer.dir.path) as copy:
        while data := log.read(1 << 20):
            copy.write(data)
        file = _File(log.name, copy, copy.tell(), writer.dir.path)
        (header, events, place), cpus, clock = _contents(file)
        ending = importing.load(place, lambda: Formats.parse(header, events), cpus, writer)
    return Ending(0, ending.cut, ending.place, info={"clock": clock})


def _contents(file: _File) -> tuple[_Texts, list[Cpu], str]:
    file.expect(MAGIC)
    version = file.string()
    if version not in (b"6", b"7"):
        raise file.error(f"version {version[:8].decode(errors='backslashreplace')!r}; 6 and 7 can be read")
    if file.number(1):
        raise file.error("it is of a big-endian machine; only little-endian ones can be read")
    file.number(1)
    file.number(4)
    return _version_6(file) if version == b"6" else _version_7(file)


def _header_page(file: _File) -> str:
    file.expect(b"header_page\0")
    text = file.take(file.number(8)).decode(errors="backslashreplace")
    file.expect(b"header_event\0")
    file.skip(file.number(8))
    return text


def _ftrace_events(file: _File) -> list[str]:
    """Descriptions of those events that become rows."""
    return _events(file, NAMES)


def _events(file: _File, names: tuple[str, ...]) -> list[str]:
    wanted = []
    for _ in range(file.number(4)):
        text = file.take(file.number(8)).decode(errors="backslashreplace")
        if any(f"name: {name}\n" in text for name in names):
            wanted.append(text)
    return wanted


def _events_of_systems(file: _File) -> list[str]:
    wanted = []
    for _ in range(file.number(4)):
        system = file.string().decode(errors="backslashreplace")
        wanted += _events(file, paired.SYSTEMS.get(system, ()))
    return wanted


def _version_6(file: _File) -> tuple[_Texts, list[Cpu], str]:
    place = f"{file.name}, byte {file.at}"
    texts = _header_page(file), _ftrace_events(file) + _events_of_systems(file), place
    file.skip(file.number(4))  # kallsyms
    file.skip(file.number(4))  # printk formats
    file.skip(file.number(8))  # command lines
    count = file.number(4)
    if count > _MOST_CPUS:
        raise file.error(f"{count} CPUs")
    clock = ""
    word = file.take(10)
    if word == b"options  \0":
        while option := file.number(2):
            data = file.take(file.number(4))
            if option == _TRACE_CLOCK:
                clock = _chosen(data)
        word = file.take(10)
    if word != b"flyrecord\0":
        raise file.error("it holds text, not records; import what `trace-cmd report` prints")
    cpus = []
    for number in range(count):
        offset, size = file.number(8), file.number(8)
        cpus.append(_plain(file, number, offset, size))
    return texts, cpus, clock


def _chosen(clocks: bytes) -> str:
    """The clock in use: the one in brackets."""
    text = clocks.split(b"\0")[0].decode(errors="backslashreplace")
    return text.partition("[")[2].partition("]")[0] or text.strip()[:40]


def _plain(file: _File, number: int, offset: int, size: int) -> Cpu:
    file.give(number, offset, size)

    def read(begin: int, length: int) -> bytes:
        file.file.seek(offset + begin)
        return file.file.read(max(min(length, size - begin), 0))

    return Cpu(number, file.name, read)


def _version_7(file: _File) -> tuple[_Texts, list[Cpu], str]:
    algorithm = file.string()
    file.string()  # its version
    unpack = _UNPACK.get(algorithm)
    if unpack is None:
        raise file.error(
            f"compressed with {algorithm[:20].decode(errors='backslashreplace')!r}; none, zlib and zstd can be read"
        )
    header, place = "", ""
    events: list[str] = []
    buffers = []
    for option, data in _options(file, file.number(8), unpack):
        if option == _HEADER_INFO:
            section = _section(file, data, unpack)
            place = section.name
            header = _header_page(section)
        elif option == _FTRACE_EVENTS:
            events += _ftrace_events(_section(file, data, unpack))
        elif option == _EVENTS_OF_SYSTEMS:
            events += _events_of_systems(_section(file, data, unpack))
        elif option == _BUFFER:
            buffers.append(data)
    if not header:
        raise file.error("it does not say how its pages are laid out")
    cpus: list[Cpu] = []
    clock = ""
    for buffer in buffers:
        clock = _buffer(file, buffer, unpack, cpus) or clock
    return (header, events, place), cpus, clock


def _options(file: _File, first: int, unpack: _Unpack) -> Iterator[tuple[int, _File]]:
    offset = first
    for _ in range(_MOST_SECTIONS):
        if not offset:
            return
        section = _at(file, offset, unpack)
        offset = 0
        while section.at < section.size:
            option, size = section.number(2), section.number(4)
            data = section.take(size)
            if option == _DONE:
                offset = int.from_bytes(data[:8], "little")
                break
            yield option, _inside(file, data, section.at - size)
    if offset:
        raise file.error("its options go round in a circle")


def _inside(file: _File, data: bytes, offset: int) -> _File:
    """Bytes that were taken out of the file, to be read as one. Messages give offsets in these."""
    return _File(f"{file.name}, in the piece at byte {offset}", io.BytesIO(data), len(data), file.folder)


def _section(file: _File, data: _File, unpack: _Unpack) -> _File:
    return _at(file, data.number(8), unpack)


def _at(file: _File, offset: int, unpack: _Unpack) -> _File:
    """The section at an offset, behind its header, decompressed."""
    file.at = offset
    _, flags, _, size = struct.unpack("<HHIQ", file.take(16))
    if not flags & _COMPRESSED:
        return _inside(file, file.take(size), offset + 16)
    packed, length = file.number(4), file.number(4)
    return _inside(file, _unpacked(file, packed, length, unpack), offset + 24)


def _unpacked(file: _File, packed: int, length: int, unpack: _Unpack) -> bytes:
    if length > _LONGEST:
        raise file.error(f"{length} bytes in one piece")
    begin = file.at
    data = unpack(file.take(packed), length)
    if data is None:
        file.at = begin
        raise file.error("compressed data that cannot be decompressed")
    return data


def _buffer(file: _File, option: _File, unpack: _Unpack, cpus: list[Cpu]) -> str:
    """Adds the CPUs of one buffer; returns its clock."""
    section = option.number(8)
    option.string()
    clock = option.string().decode(errors="backslashreplace")
    option.number(4)  # the size of a page: the header knows it, too
    count = option.number(4)
    if count > _MOST_CPUS or len(cpus) + count > _MOST_CPUS:
        raise option.error(f"{count} CPUs")
    file.at = section
    _, flags, _, _ = struct.unpack("<HHIQ", file.take(16))
    for _ in range(count):
        number, offset, size = option.number(4), option.number(8), option.number(8)
        number = min(number, 2**15 - 1)
        if flags & _COMPRESSED:
            cpus.append(_packed(file, number, offset, size, unpack))
        else:
            cpus.append(_plain(file, number, offset, size))
    return clock


def _packed(file: _File, number: int, offset: int, size: int, unpack: _Unpack) -> Cpu:
    """A CPU whose pages are compressed in pieces; they are decompressed to disk when they are read first."""
    file.give(number, offset, size)
    held: list[IO[bytes]] = []

    def read(begin: int, length: int) -> bytes:
        if not held:
            held.append(tempfile.TemporaryFile(dir=file.folder))  # noqa: SIM115  # closed with its last reference
            file.at = offset
            for _ in range(file.number(4) if size else 0):
                if file.at >= offset + size:
                    raise file.error(f"CPU {number} has more pieces than bytes")
                packed, plain = file.number(4), file.number(4)
                held[0].write(_unpacked(file, packed, plain, unpack))
        held[0].seek(begin)
        return held[0].read(length)

    return Cpu(number, file.name, read)


def _zlib(data: bytes, length: int) -> bytes | None:
    try:
        plain = zlib.decompressobj().decompress(data, length)
    except zlib.error:
        return None
    return plain if len(plain) == length else None


def _zstd(data: bytes, length: int) -> bytes | None:
    try:
        plain = pa.Codec("zstd").decompress(data, decompressed_size=length, asbytes=True)
    except (pa.ArrowException, OSError):
        return None
    return bytes(plain) if len(plain) == length else None


_UNPACK: dict[bytes, _Unpack] = {b"none": lambda data, length: None, b"zlib": _zlib, b"zstd": _zstd}
