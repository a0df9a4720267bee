"""trace.dat files as trace-cmd writes them, of pages and formats that are given. trace-cmd report reads them."""

import struct
import zlib
from collections.abc import Callable, Sequence

PAGE = 4096
BEGIN = b"\x17\x08\x44tracing"


def _sized(text: bytes, size: str = "Q") -> bytes:
    return struct.pack(f"<{size}", len(text)) + text


def _header(header_page: bytes) -> bytes:
    return b"header_page\0" + _sized(header_page) + b"header_event\0" + _sized(b"")


def _events(events: list[bytes]) -> bytes:
    return struct.pack("<I", len(events)) + b"".join(map(_sized, events))


def version_6(
    header_page: bytes, events: list[bytes], cpus: list[bytes], *, system: str = "printk", others: Sequence[bytes] = ()
) -> bytes:
    """``others`` are the events of a ``system``."""
    head = BEGIN + b"6\0" + struct.pack("<BBI", 0, 8, PAGE) + _header(header_page) + _events(events)
    head += struct.pack("<I", 1) + system.encode() + b"\0" + _events([b"name: console\nID: 9\n", *others])
    head += _sized(b"", "I") + _sized(b"", "I") + _sized(b"") + struct.pack("<I", len(cpus))
    head += (
        b"options  \0" + struct.pack("<H", 4) + _sized(b"local [mono]\0", "I") + struct.pack("<H", 0) + b"flyrecord\0"
    )
    offset = -(-(len(head) + 16 * len(cpus)) // PAGE) * PAGE
    data = b""
    for pages in cpus:
        head += struct.pack("<QQ", offset + len(data), len(pages))
        data += pages
    return head.ljust(offset, b"\0") + data


def version_7(
    header_page: bytes,
    events: list[bytes],
    cpus: list[bytes],
    *,
    name: str = "none",
    pack: Callable[[bytes], bytes] = zlib.compress,
) -> bytes:
    packed = name != "none"
    file = BEGIN + b"7\0" + struct.pack("<BBI", 0, 8, PAGE) + name.encode() + b"\0" + b"1\0"
    first = len(file)
    file += bytes(8)
    places = {}
    for number, text in ((16, _header(header_page)), (17, _events(events))):
        places[number] = len(file)
        data = pack(text) if packed else text
        body = struct.pack("<II", len(data), len(text)) + data if packed else data
        file += struct.pack("<HHIQ", number, int(packed), 0, len(body)) + body
    section = len(file)
    begin = -(-(section + 16) // PAGE) * PAGE
    buffer = struct.pack("<Q", section) + b"\0mono\0" + struct.pack("<II", PAGE, len(cpus))
    data = b""
    for number, pages in enumerate(cpus):
        body = pages
        if packed:
            pieces = [pages[at : at + 10 * PAGE] for at in range(0, len(pages), 10 * PAGE)]
            body = struct.pack("<I", len(pieces))
            for piece in pieces:
                small = pack(piece)
                body += struct.pack("<II", len(small), len(piece)) + small
        buffer += struct.pack("<IQQ", number, begin + len(data), len(body))
        data += body
    file += struct.pack("<HHIQ", 3, int(packed), 0, begin - section - 16 + len(data))
    file = file.ljust(begin, b"\0") + data
    options = len(file)
    body = struct.pack("<H", 3) + _sized(buffer, "I")
    for number, place in places.items():
        body += struct.pack("<HIQ", number, 8, place)
    body += struct.pack("<HIQ", 0, 8, 0)
    file += struct.pack("<HHIQ", 0, 0, 0, len(body)) + body
    return file[:first] + struct.pack("<Q", options) + file[first + 8 :]
