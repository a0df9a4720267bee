"""QEMU's log line by line: what a trace event of a memory region says, in the words of QEMU 4 to 11.

:mod:`mmiotap.formats.qemu_block` asks once for each kind of line, and takes the bulk of a log by what it learned. The
events are those of QEMU's trace-events in softmmu (now system) and hw/vfio; what stands before them comes from its log
backend.
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
    rb"memory_region_(?P<event>ops|subpage|ram_device)_(?P<direction>read|write) cpu (?P<cpu>-?\d{1,8}) "
    rb"mr (?P<handle>\S{1,40}) (?:addr|offset) 0x(?P<address>[0-9a-f]{1,16}) value 0x(?P<value>[0-9a-f]{1,16}) "
    rb"size (?P<width>\d{1,3})(?: name '(?P<name>.*)')?",
    re.DOTALL,
)
_VFIO_READ = re.compile(
    rb"vfio_region_(?P<direction>read) +\((?P<name>.*):region(?P<handle>\d{1,2})\+0x(?P<address>[0-9a-f]{1,16}), "
    rb"(?P<width>\d{1,3})\) = 0x(?P<value>[0-9a-f]{1,16})"
)
_VFIO_WRITE = re.compile(
    rb"vfio_region_(?P<direction>write) +\((?P<name>.*):region(?P<handle>\d{1,2})\+0x(?P<address>[0-9a-f]{1,16}), "
    rb"0x(?P<value>[0-9a-f]{1,16}), (?P<width>\d{1,3})\)"
)
#: Where an event begins. What stands before it on its line is a prefix of the log's, or what another has left there.
EVENT = re.compile(rb"memory_region_(?:ops|subpage|ram_device)_(?:read|write) |vfio_region_(?:read|write) ")
#: Characters of the shortest of them.
SHORTEST = len("vfio_region_read ")

#: ``PID@SECONDS.MICROSECONDS:`` (QEMU 4 to 10; a thread's id in all but the oldest).
_STAMP = re.compile(rb"(?P<thread>\d{1,8})@(?P<when>\d{1,10})\.(?P<micros>\d{6}):")
#: ``2026-11-21T15:36:21.123456Z``; g_date_time_format_iso8601 leaves a fraction of zero out.
_ISO = re.compile(rb"(?P<when>(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d))(?:\.(?P<micros>\d{6}))?Z ")
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
    match = _match(line, begin.start())
    if match is None:
        return None
    told = match.groupdict()
    region = Region(EVENTS[told["event"]] if "event" in told else VFIO, told["handle"], told["name"] or b"")
    width, cpu = int(told["width"]), int(told.get("cpu", -1))
    if width > MAX_WIDTH or not -(2**15) <= cpu < 2**15:
        return None
    return Record(
        time_ns=time_ns,
        kind=layout.READ if told["direction"] == b"read" else layout.WRITE,
        width=width,
        region=region,
        address=int(told["address"], 16),
        value=int(told["value"], 16) & ((1 << 8 * min(width, 8)) - 1),
        tid=tid,
        cpu=cpu,
    )


def _match(line: bytes, begin: int) -> re.Match[bytes] | None:
    """The event that is all of a line from ``begin`` on."""
    patterns = (_REGION, _VFIO_READ, _VFIO_WRITE)
    return next(filter(None, (pattern.fullmatch(line, begin) for pattern in patterns)), None)


@dataclass(frozen=True, slots=True)
class Places:
    """Where on a line stands what changes from one access to the next: (begin, end).

    :ivar second: eight characters of the time down to its second; None where there is no time that has all its digits.
    :ivar micros: the six digits behind them; as ``second``.
    """

    address: tuple[int, int]
    value: tuple[int, int]
    second: tuple[int, int] | None
    micros: tuple[int, int] | None


def places(line: bytes) -> Places:
    """Of a line that :func:`parse` reads."""
    begin = EVENT.search(line)
    match = _match(line, begin.start()) if begin else None
    assert begin
    assert match
    time = _STAMP.fullmatch(line, 0, begin.start()) or _ISO.match(line, 0, begin.start())
    point = time.start("micros") - 1 if time and time["micros"] else 0
    # Stamps of fewer digits are of no clock; their lines are read one by one.
    timed = time is not None and point - time.start("when") >= 8
    return Places(
        match.span("address"),
        match.span("value"),
        (point - 8, point) if timed else None,
        (point + 1, point + 7) if timed else None,
    )


def prefix(text: bytes) -> tuple[int | None, int]:
    """Time and thread out of what stands before an event."""
    if match := _STAMP.fullmatch(text):
        time_ns = (int(match["when"]) * 1_000_000 + int(match["micros"])) * 1000
        return time_ns if time_ns < 2**63 else None, int(match["thread"])
    iso_ns = None
    if match := _ISO.match(text):
        iso_ns, text = _iso(match), text[match.end() :]
    thread = _THREAD.fullmatch(text)
    return iso_ns, int(thread[1]) if thread else 0


def _iso(match: re.Match[bytes]) -> int | None:
    fields = [int(field) for field in match.groups()[1:7]]
    try:
        when = datetime(*fields, tzinfo=UTC)  # type: ignore[misc, arg-type]
    except ValueError:
        return None
    return int(when.timestamp()) * 10**9 + int(match["micros"] or 0) * 1000
