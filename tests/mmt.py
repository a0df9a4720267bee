"""A log as valgrind-mmt writes it. Debian has no package of it, so this follows its layout: docs/import.md."""

import struct


def record(kind: bytes, layout: str, *fields: int, tail: bytes = b"") -> bytes:
    return kind + struct.pack(f"<{layout}", *fields) + tail + b"\n"


def buffer(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def access(kind: bytes, mapping: int, offset: int, data: bytes) -> bytes:
    return record(kind, "IIB", mapping, offset, len(data), tail=data)


def access_at(kind: bytes, address: int, data: bytes) -> bytes:
    return record(kind, "QB", address, len(data), tail=data)


def opened(descriptor: int, path: bytes) -> bytes:
    return record(b"o", "III", 2, 0, descriptor, tail=buffer(path))


def mapped(number: int, start: int, length: int, *, descriptor: int = 5, offset: int = 0) -> bytes:
    return record(b"M", "QIIIIQQ", offset, 3, 1, descriptor, number, start, length)


#: Every kind of record once, the binary ones of nvidia's driver among them.
LOG = b"".join(
    [
        b"==123== mmt, a tool\n--123-- text\n",
        opened(5, b"/dev/nvidia0"),
        record(b"d", "II", 5, 6),
        mapped(0, 0x4000_0000, 0x1000, descriptor=6, offset=0xF0000000),
        access(b"w", 0, 0x140, b"\x01\x02\x03\x04"),
        access(b"r", 0, 0x10, b"\x0a"),
        access(b"w", 0, 0x200, bytes(range(16))),
        record(b"S", "I", 0),
        access_at(b"R", 0x4000_0ABC, b"\xff\xee"),
        access_at(b"W", 0x5000_0000, b"\x01\x00\x00\x00\x00\x00\x00\x80"),
        record(b"i", "II", 5, 0xC0106, tail=buffer(b"\n\n")),
        record(b"y", "Q", 0x7000, tail=buffer(b"dump")),
        record(b"j", "IIQQ", 5, 0xC0106, 0, 0, tail=buffer(b"")),
        record(b"t", "I", 1, tail=buffer(b"hello")),
        record(b"ni", "II", 5, 1, tail=buffer(b"x")),
        record(b"no", "Q", 0x7000, tail=buffer(b"name") + buffer(b"dump")),
        record(b"nc", "III", 1, 2, 3, tail=buffer(b"object")),
        record(b"nk", "", tail=buffer(b"a mark\n")),
        record(b"nM", "QIIIIQQQQ", 0, 1, 1, 5, 7, 0x6000_0000, 0x2000, 0, 0),
        access(b"r", 7, 4, b"\x01\x00\x00\x00"),
        record(b"e", "QIQQQQQQ", 0, 7, 0x6000_0000, 0x2000, 0, 0, 0x6100_0000, 0x4000),
        record(b"u", "QIQQQQ", 0, 0, 0x4000_0000, 0x1000, 0, 0),
    ]
)
