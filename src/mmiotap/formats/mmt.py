"""valgrind-mmt's binary log: accesses of a program to device memory, as valgrind saw them.

The layout is that of envytools' reader of it (demmt): packed records, little-endian, that begin with their type and end
with a newline; a buffer is a 32-bit length and that many bytes. Lines that begin with `=` or `-` are valgrind's own
text. There are no times, threads or instruction addresses in it.
"""

import json
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mmiotap.formats.compressed import Log
from mmiotap.formats.importing import LONGEST_LINE, Ending, Rows, Writer
from mmiotap.trace import layout
from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.model import Mapping
from mmiotap.trace.store import TraceDir

_END = b"\n"
#: Lines of valgrind's own. Nothing is tried twice, so none takes memory.
_TEXT = re.compile(rb"(?:[=-][^\n]*+\n)*+")
#: A longer buffer (a dump of memory) is none: the writer's own are at most 64 KiB.
_LONGEST_BUFFER = 16 << 20
_LONGEST_NAME = 4096
_READ = 1 << 20

#: Layouts by type, behind the type's own one or two bytes. B before the end: that many bytes follow; I: a buffer.
_ACCESS, _ACCESS_AT = struct.Struct("<IIB"), struct.Struct("<QB")
_MMAP, _MMAP_2 = struct.Struct("<QIQQ"), struct.Struct("<QIIIIQQ")
_UNMAP, _REMAP = struct.Struct("<QIQQQQ"), struct.Struct("<QIQQQQQQ")
_NV_MMAP, _NV_MMAP_2 = struct.Struct("<QIQQQQ"), struct.Struct("<QIIIIQQQQ")
_OPEN, _DUP = struct.Struct("<IIII"), struct.Struct("<II")
_FIXED = {
    b"m": _MMAP, b"M": _MMAP_2, b"u": _UNMAP, b"e": _REMAP, b"d": _DUP, b"S": struct.Struct("<I"),
    b"nm": _NV_MMAP, b"nM": _NV_MMAP_2, b"nd": _DUP, b"nl": _DUP, b"nb": _DUP, b"nv": struct.Struct("<I"),
    b"nx": struct.Struct("<I"), b"np": struct.Struct("<IIIQ"), b"nt": struct.Struct("<III"),
    b"na": struct.Struct("<IIQ"),
    b"ng": struct.Struct("<IIIII"), b"nG": struct.Struct("<IIIQI"), b"nh": struct.Struct("<IIII"),
    b"nH": struct.Struct("<IIIQ"), b"ne": struct.Struct("<IIQ"), b"nr": struct.Struct("<IIQ"),
}  # fmt: skip
_COUNTED = {b"r": _ACCESS, b"w": _ACCESS, b"R": _ACCESS_AT, b"W": _ACCESS_AT}
_WITH_BUFFER = {
    b"o": _OPEN, b"t": struct.Struct("<II"), b"i": struct.Struct("<III"), b"j": struct.Struct("<IIQQI"),
    b"y": struct.Struct("<QI"),
    b"nc": struct.Struct("<IIII"), b"ni": struct.Struct("<III"), b"nj": struct.Struct("<III"),
    b"n1": struct.Struct("<IQI"),
    b"n4": struct.Struct("<I"), b"nk": struct.Struct("<I"), b"nP": struct.Struct("<I"),
}  # fmt: skip
#: The one record with two buffers: an address and a name, then what is there.
_DUMP = b"no"
_DUMP_HEAD = struct.Struct("<QI")
_PROTECTION = (("r", 1), ("w", 2), ("x", 4))


class _CutError(Exception):
    """The log ends within a record."""


class _Bytes:
    """The log, byte by byte, with a small part of it in memory."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._held = b""
        self._at = 0
        self.offset = 0

    def more(self) -> bool:
        return self._at < len(self._held) or self._fill()

    def take(self, size: int) -> bytes:
        while len(self._held) - self._at < size:
            if not self._fill():
                raise _CutError
        data = self._held[self._at : self._at + size]
        self._at += size
        self.offset += size
        return data

    def skip_line(self) -> bool:
        """Over the next end of line, and over lines of valgrind's that follow; False if no end is near."""
        while (end := self._held.find(_END, self._at)) < 0:
            if len(self._held) - self._at > LONGEST_LINE:
                return False
            if not self._fill():
                raise _CutError
        if end - self._at > LONGEST_LINE:
            return False
        self.take(end - self._at + 1)
        if found := _TEXT.match(self._held, self._at):
            self.take(found.end() - self._at)
        return True

    def _fill(self) -> bool:
        data = self._read(_READ)
        self._held = self._held[self._at :] + data
        self._at = 0
        return bool(data)


def load(log: Log, writer: Writer) -> Ending:
    """The importer (:mod:`mmiotap.formats.importing`)."""
    data = _Bytes(log.read)
    reader = _Reader(log.name, Rows(writer))
    begin, cut = 0, None
    while data.more():
        begin = data.offset
        try:
            reader.record(data)
        except _CutError:
            cut = "a part of a record"
            break
    if cut and not reader.rows.any:
        raise MmiotapError(f"{log.name}, byte {begin}: it ends within a record, and holds no access before it")
    reader.rows.flush()
    return Ending(0, cut, f"byte {begin}: the last record", info={"passed_over": reader.passed_over})


def recognises(head: bytes) -> bool:
    """Whether these bytes are records, and one of an access or a mapping is among them."""
    chunks = iter([head])
    data = _Bytes(lambda _: next(chunks, b""))
    reader = _Reader("", Rows(_Nowhere()))
    try:
        while data.more():
            reader.record(data)
    except _CutError:
        pass
    except MmiotapError:
        return False
    return reader.rows.any


class _Nowhere:
    dir = TraceDir(Path())

    def append(self, table: object) -> None: ...

    def add_mappings(self, mappings: object) -> None: ...


@dataclass
class _Reader:
    name: str
    rows: Rows
    passed_over: int = 0
    _live: dict[int, Mapping] = field(default_factory=dict)  #: by the log's own number, which is used again
    _files: dict[int, str] = field(default_factory=dict)
    _next_id: int = 1

    def record(self, data: _Bytes) -> None:
        """The next record. Raises _CutError at the end of the log, MmiotapError for what is no record."""
        begin = data.offset
        kind = data.take(1)
        if kind in (b"=", b"-"):
            if not data.skip_line():
                raise self._no_record(begin, "a line of valgrind's that does not end")
            return
        if kind == b"n":
            kind += data.take(1)
        payload = b""
        if found := _FIXED.get(kind):
            head = found.unpack(data.take(found.size))
        elif found := _COUNTED.get(kind):
            head = found.unpack(data.take(found.size))
            payload = data.take(head[-1])
        elif found := _WITH_BUFFER.get(kind):
            head = found.unpack(data.take(found.size))
            payload = self._buffer(data, head[-1], begin)
        elif kind == _DUMP:
            head = _DUMP_HEAD.unpack(data.take(_DUMP_HEAD.size))
            self._buffer(data, head[-1], begin)
            (length,) = struct.unpack("<I", data.take(4))
            self._buffer(data, length, begin)
        else:
            raise self._no_record(begin, f"the type {kind!r} is not known")
        if data.take(1) != _END:
            raise self._no_record(begin, f"a record of type {kind.decode()!r} does not end with a newline")
        self._understand(kind, head, payload, begin)

    def _buffer(self, data: _Bytes, length: int, begin: int) -> bytes:
        if length > _LONGEST_BUFFER:
            raise self._no_record(begin, f"a buffer of {length} bytes")
        return data.take(length)

    def _no_record(self, begin: int, why: str) -> MmiotapError:
        return MmiotapError(f"{self.name}, byte {begin}: no record of valgrind-mmt's binary log: {why}")

    def _understand(self, kind: bytes, head: tuple[int, ...], payload: bytes, begin: int) -> None:
        match kind:
            case b"r" | b"w":
                self._access(kind == b"r", self._live.get(head[0]), head[1], payload, begin)
            case b"R" | b"W":
                holds = (one for one in self._live.values() if one.address <= head[0] < one.address + one.length)
                mapping = next(holds, None)
                self._access(kind == b"R", mapping, head[0] - (mapping.address if mapping else 0), payload, begin)
            case b"m" | b"nm":
                self._map(head[1], offset=head[0], start=head[2], length=head[3])
            case b"M" | b"nM":
                path = self._files.get(head[3])
                self._map(head[4], offset=head[0], start=head[5], length=head[6], prot=head[1], path=path)
            case b"u":
                self._unmap(head[1])
            case b"e":
                before = self._live.get(head[1])
                self._unmap(head[1])
                path, prot = (before.path, before.prot) if before else (None, None)
                self._map(head[1], offset=head[0], start=head[6], length=head[7], path=path, words=prot)
            case b"o":
                self._open(head[2], payload[:_LONGEST_NAME].rstrip(b"\0").decode(errors="backslashreplace"))
            case b"d":
                if head[0] in self._files:
                    self._open(head[1], self._files[head[0]])
            case b"nk":
                self.rows.add(layout.MARK, 0, text=payload.rstrip(b"\0\n").decode(errors="backslashreplace"))
            case _:
                self.passed_over += 1

    def _access(self, is_read: bool, mapping: Mapping | None, offset: int, data: bytes, begin: int) -> None:
        if not data:
            raise self._no_record(begin, "an access of no bytes")
        self.rows.add(
            layout.READ if is_read else layout.WRITE,
            0,
            width=len(data),
            map_id=mapping.map_id if mapping else 0,
            offset=offset,
            value=int.from_bytes(data[:8], "little"),
            data=data if len(data) > 8 else None,
        )

    def _open(self, descriptor: int, path: str) -> None:
        if len(self._files) >= 65536 and descriptor not in self._files:
            self._files.pop(next(iter(self._files)))
        self._files[descriptor] = path

    def _map(
        self,
        number: int,
        *,
        offset: int,
        start: int,
        length: int,
        prot: int = 3,
        path: str | None = None,
        words: str | None = None,
    ) -> None:
        mapping = Mapping(
            map_id=self._next_id,
            pid=0,
            path=path or f"mmt:{number}",
            address=start,
            length=length,
            file_offset=offset,
            prot=words or "".join(letter for letter, bit in _PROTECTION if prot & bit),
        )
        self._next_id += 1
        if len(self._live) >= 65536 and number not in self._live:
            self._live.pop(next(iter(self._live)))
        self._live[number] = mapping
        self.rows.add_mapping(mapping)
        self.rows.add(layout.MAP, 0, map_id=mapping.map_id, value=start, text=json.dumps(mapping.to_json()))

    def _unmap(self, number: int) -> None:
        if mapping := self._live.pop(number, None):
            text = json.dumps(mapping.to_json())
            self.rows.add(layout.UNMAP, 0, map_id=mapping.map_id, value=mapping.length, text=text)
