"""The mmiotrace text log line by line: what each kind of line says (kernel/trace/trace_mmiotrace.c prints them).

Slow and complete; :mod:`mmiotap.formats.mmiotrace_block` takes the bulk of a log and leaves the rest to this.
"""

import re
from dataclasses import dataclass

from mmiotap.trace import layout

#: The only version of the format there has ever been.
VERSION = "20070824"

_TIME = rb"(\d{1,10})\.(\d{6})"
_ID = rb"(-?\d{1,10})"
_HEX = rb"0x([0-9a-fA-F]{1,16})"
_END = rb"(-?\d{1,10})[ \t]*"
_ACCESS = re.compile(rb"([RW]) (\d{1,3}) " + _TIME + b" " + b" ".join([_ID, _HEX, _HEX, _HEX, _END]))
_UNKNOWN = re.compile(
    rb"UNKNOWN " + _TIME + b" " + b" ".join([_ID, _HEX, rb"([0-9a-f]{2}),([0-9a-f]{2}),([0-9a-f]{2})", _HEX, _END])
)
_MAP = re.compile(rb"MAP " + _TIME + b" " + b" ".join([_ID, _HEX, _HEX, _HEX, _HEX, _END]))
_UNMAP = re.compile(rb"UNMAP " + _TIME + b" " + b" ".join([_ID, _HEX, _END]))
_MARK = re.compile(rb"MARK " + _TIME + rb" (.*)", re.DOTALL)
_LOST = re.compile(rb"MARK 0\.000000 Lost (\d{1,19}) events\.")
_LOST_HERE = re.compile(rb"CPU:(\d{1,4}) \[LOST (\d{1,19}) EVENTS\]")
_NOT_PRINTED = (b"rw what?", b"map what?")

_LAYOUTS = {
    b"R": "R WIDTH TIME MAP PHYSICAL VALUE PC PID",
    b"W": "W WIDTH TIME MAP PHYSICAL VALUE PC PID",
    b"UNKNOWN": "UNKNOWN TIME MAP PHYSICAL OPCODES PC PID",
    b"MAP": "MAP TIME MAP PHYSICAL VIRTUAL LENGTH PC PID",
    b"UNMAP": "UNMAP TIME MAP PC PID",
    b"MARK": "MARK TIME TEXT",
    b"PCIDEV": "PCIDEV BUSDEVFN VENDORDEVICE IRQ, seven starts, seven sizes and DRIVER",
}
_ANYTHING = "a line of a mmiotrace log (VERSION, PCIDEV, R, W, UNKNOWN, MAP, UNMAP or MARK)"


@dataclass(slots=True)
class Record:
    """One line that is an event. Fields a line does not have are zero.

    :ivar kind: as in :mod:`mmiotap.trace.layout`.
    :ivar time_ns: None where the line has no time of its own (losses, ``rw what?``): it happened where it stands.
    :ivar value: of an access, masked to its width; how many events of a loss.
    :ivar data: first three bytes of the instruction of an UNKNOWN.
    :ivar virtual: of a MAP, as is ``length`` (bytes).
    """

    kind: int
    time_ns: int | None
    width: int = 0
    map_id: int = 0
    physical: int = 0
    value: int = 0
    pc: int = 0
    pid: int = 0
    cpu: int = -1
    data: bytes | None = None
    text: str | None = None
    virtual: int = 0
    length: int = 0


def parse(line: bytes) -> Record | None:
    """The event of one line (without its end of line); None if it is none."""
    record = _parse(line)
    if record is None or not (-(2**31) <= record.map_id < 2**31 and -(2**31) <= record.pid < 2**31):
        return None
    if record.time_ns is not None and record.time_ns >= 2**32 * 10**9:
        return None
    return record


def _parse(line: bytes) -> Record | None:
    if match := _ACCESS.fullmatch(line):
        kind, width, seconds, micros, map_id, physical, value, pc, pid = match.groups()
        bits = 8 * min(int(width), 8) or 64
        return (
            Record(
                kind=layout.READ if kind == b"R" else layout.WRITE,
                time_ns=_ns(seconds, micros),
                width=int(width),
                map_id=int(map_id),
                physical=int(physical, 16),
                value=int(value, 16) & ((1 << bits) - 1),
                pc=int(pc, 16),
                pid=int(pid),
            )
            if int(width) <= 255
            else None
        )
    if match := _LOST.fullmatch(line):
        return Record(layout.LOST, None, value=int(match[1]))
    if match := _MARK.fullmatch(line):
        return Record(layout.MARK, _ns(match[1], match[2]), text=match[3].decode(errors="backslashreplace"))
    if match := _MAP.fullmatch(line):
        seconds, micros, map_id, physical, virtual, length, pc, pid = match.groups()
        return Record(
            layout.MAP,
            _ns(seconds, micros),
            map_id=int(map_id),
            physical=int(physical, 16),
            virtual=int(virtual, 16),
            length=int(length, 16),
            pc=int(pc, 16),
            pid=int(pid),
        )
    if match := _UNMAP.fullmatch(line):
        seconds, micros, map_id, pc, pid = match.groups()
        return Record(layout.UNMAP, _ns(seconds, micros), map_id=int(map_id), pc=int(pc, 16), pid=int(pid))
    if match := _UNKNOWN.fullmatch(line):
        seconds, micros, map_id, physical, *opcodes, pc, pid = match.groups()
        return Record(
            layout.UNKNOWN,
            _ns(seconds, micros),
            map_id=int(map_id),
            physical=int(physical, 16),
            pc=int(pc, 16),
            pid=int(pid),
            data=bytes(int(opcode, 16) for opcode in opcodes),
        )
    if match := _LOST_HERE.fullmatch(line):
        return Record(layout.LOST, None, cpu=int(match[1]), value=int(match[2]))
    if line in _NOT_PRINTED:
        return Record(layout.UNKNOWN, None, text=line.decode())
    return None


def is_free(line: bytes) -> bool:
    """Can this be a line of a mark's text? Not if it begins as one of the log's own does."""
    return line.split(b" ", 1)[0] not in _LAYOUTS


def expected(line: bytes) -> str:
    """What a line that is none of the log's should have been, judged by its first word."""
    return _LAYOUTS.get(line.split(b" ", 1)[0], _ANYTHING)


def _ns(seconds: bytes, micros: bytes) -> int:
    return (int(seconds) * 1_000_000 + int(micros)) * 1000
