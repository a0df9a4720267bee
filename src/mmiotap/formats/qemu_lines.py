"""QEMU's log line by line: what a trace event of a memory region says, in the words of QEMU 4 to 11.

Slow and complete; :mod:`mmiotap.formats.qemu_block` takes the bulk of a log and leaves the rest to this. The events are
those of QEMU's trace-events in softmmu (now system) and hw/vfio; what stands before them comes from its log backend.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from mmiotap.trace import layout

#: Which of QEMU's events a line is. The same access may be told by several: by OPS whenever that event is on.
OPS, SUBPAGE, RAM_DEVICE, VFIO = range(4)
EVENTS = {b"ops": OPS, b"subpage": SUBPAGE, b"ram_device": RAM_DEVICE}

MAX_WIDTH = 255
_MAX_INT = 2**31

_REGION = re.compile(
    rb"memory_region_(ops|subpage|ram_device)_(read|write) cpu (-?\d{1,8}) mr (\S{1,40}) "
    rb"(?:addr|offset) 0x([0-9a-f]{1,16}) value 0x([0-9a-f]{1,16}) size (\d{1,3})(?: name '(.*)')?",
    re.DOTALL,
)
_VFIO_READ = re.compile(
    rb"vfio_region_read +\((.*):region(\d{1,2})\+0x([0-9a-f]{1,16}), (\d{1,3})\) = 0x([0-9a-f]{1,16})"
)
_VFIO_WRITE = re.compile(
    rb"vfio_region_write +\((.*):region(\d{1,2})\+0x([0-9a-f]{1,16}), 0x([0-9a-f]{1,16}), (\d{1,3})\)"
)
#: Where an event begins. What stands before it on its line is a prefix of the log's, or what another has left there.
EVENT = re.compile(rb"memory_region_(?:ops|subpage|ram_device)_(?:read|write) |vfio_region_(?:read|write) ")
#: Characters of the shortest of them.
SHORTEST = len("vfio_region_read ")

#: ``PID@SECONDS.MICROSECONDS:`` (QEMU 4 to 10; a thread's id in all but the oldest).
_STAMP = re.compile(rb"(\d{1,8})@(\d{1,10})\.(\d{6}):")
#: ``2026-11-21T15:36:21.123456Z``; g_date_time_format_iso8601 leaves a fraction of zero out.
_ISO = re.compile(rb"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{6}))?Z ")
#: ``[guest] program: (thread id:thread name): ``, each part as -msg and the version have it (QEMU 10.2 and later).
_THREAD = re.compile(rb".*?\((\d{1,8}):[^()]*\): ", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Region:
    """Which region of memory or ports an access went to, as far as a line of the log tells.

    :ivar event: of :data:`EVENTS`, or VFIO.
    :ivar handle: tells regions of the same name apart: a pointer of QEMU's. Of VFIO: the number of the region.
    :ivar name: empty where QEMU does not say (before version 6.2, and for ram_device and subpage).
    """

    event: int
    handle: bytes
    name: bytes


@dataclass(frozen=True, slots=True)
class Record:
    """One access.

    :ivar time_ns: since 1970, UTC; None where the line does not tell.
    :ivar address: of OPS: on the bus; else from the start of the region.
    :ivar value: masked to the width.
    :ivar tid: the thread of QEMU that made it; 0 where the line does not tell.
    :ivar cpu: of the guest; −1 where no processor of its made it, or the line does not tell.
    """

    time_ns: int | None
    kind: int
    width: int
    region: Region
    address: int
    value: int
    tid: int
    cpu: int


def parse(line: bytes) -> Record | None:
    """The access of one line (without its end of line); None if it is none that can be read."""
    begin = EVENT.search(line)
    if begin is None:
        return None
    time_ns, tid = prefix(line[: begin.start()])
    text = line[begin.start() :]
    if match := _REGION.fullmatch(text):
        event, direction, processor, handle, address, value, width, name = match.groups()
        region, cpu = Region(EVENTS[event], handle, name or b""), int(processor)
        kind = layout.READ if direction == b"read" else layout.WRITE
    elif match := _VFIO_READ.fullmatch(text):
        name, handle, address, width, value = match.groups()
        kind, region, cpu = layout.READ, Region(VFIO, handle, name), -1
    elif match := _VFIO_WRITE.fullmatch(text):
        name, handle, address, value, width = match.groups()
        kind, region, cpu = layout.WRITE, Region(VFIO, handle, name), -1
    else:
        return None
    if int(width) > MAX_WIDTH or not -(2**15) <= cpu < 2**15:
        return None
    bits = 8 * min(int(width), 8)
    return Record(time_ns, kind, int(width), region, int(address, 16), int(value, 16) & ((1 << bits) - 1), tid, cpu)


def prefix(text: bytes) -> tuple[int | None, int]:
    """Time and thread out of what stands before an event."""
    if match := _STAMP.fullmatch(text):
        return (int(match[2]) * 1_000_000 + int(match[3])) * 1000, int(match[1])
    time_ns = None
    if match := _ISO.match(text):
        time_ns, text = _iso(match), text[match.end() :]
    thread = _THREAD.fullmatch(text)
    return time_ns, int(thread[1]) if thread else 0


def _iso(match: re.Match[bytes]) -> int | None:
    fields = [int(field) for field in match.groups()[:6]]
    try:
        when = datetime(*fields, tzinfo=UTC)  # type: ignore[misc, arg-type]
    except ValueError:
        return None
    return int(when.timestamp()) * 10**9 + int(match[7] or 0) * 1000
