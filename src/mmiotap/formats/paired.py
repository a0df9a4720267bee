"""Accesses that are told of by two events each: before and after (include/trace/events/rwmmio.h), or asked and answered
(kvm_mmio, include/trace/events/kvm.h).

Two belong together if thread, address and width are the same. They become one row, at the time of the first, with the
value of the second and the time between them.
"""

from typing import Any, NamedTuple

from mmiotap.formats.importing import NOT_SAID, Rows
from mmiotap.trace import layout
from mmiotap.trace.model import Mapping

#: What an event tells of: that a read begins, that one has ended, a write, that one was made.
BEGIN, END, WRITE, AFTER = range(4)
#: Paths of the mappings that stand for whole address spaces: offsets are addresses.
KVM, RWMMIO = "kvm:guest-physical", "kernel:virtual"
#: Reads that have begun and not ended. More than these never will: their ends were lost, or are not traced.
_MOST_BEGUN = 4096

_Key = tuple[str, int, int, int]


class Told(NamedTuple):
    """One event. ``space`` is KVM or RWMMIO, ``value`` None where it does not tell, ``width`` bytes."""

    time_ns: int
    step: int
    space: str
    address: int
    width: int
    value: int | None
    pid: int
    tid: int
    cpu: int
    pc: int = 0
    text: str | None = None


class Pairs:
    """Events in the order of their time in, rows out. Call end at the end. Mappings get ids from ``first_map``."""

    def __init__(self, rows: Rows, first_map: int = 1) -> None:
        self._rows = rows
        self._first_map = first_map
        self._maps: dict[str, int] = {}
        self._begun: dict[_Key, dict[str, Any]] = {}
        #: Writes whose other event may follow.
        self._written: dict[_Key, None] = {}

    def take(self, told: Told) -> None:
        key = (told.space, told.tid, told.address, told.width)
        row: dict[str, Any] = {
            "time_ns": told.time_ns,
            "width": told.width,
            "map_id": self._maps.setdefault(told.space, self._first_map + len(self._maps)),
            "offset": told.address,
            # Of accesses wider than 8 bytes kvm_mmio tells the low half.
            "flags": NOT_SAID if told.width > 8 else 0,
            "pid": told.pid,
            "tid": told.tid,
            "cpu": told.cpu,
            "pc": told.pc,
            "text": told.text,
        }
        if told.step == BEGIN:
            self._give_up(key)
            self._begun[key] = row
            if len(self._begun) > _MOST_BEGUN:
                self._give_up(next(iter(self._begun)))
        elif told.step == END:
            if begun := self._begun.pop(key, None):
                duration = told.time_ns - begun["time_ns"]
                row = begun | ({"duration_ns": duration} if 0 <= duration < layout.NO_DURATION else {})
            self._rows.add(layout.READ, value=told.value or 0, **row)
        elif told.step == WRITE:
            self._rows.add(layout.WRITE, value=told.value or 0, **row)
            self._written[key] = None
            if len(self._written) > _MOST_BEGUN:
                self._written.pop(next(iter(self._written)))
        elif key in self._written:
            del self._written[key]
        elif told.value is not None:
            self._rows.add(layout.WRITE, value=told.value, **row)

    def _give_up(self, key: _Key) -> None:
        """A read that does not end any more: it was made, but its value is not known."""
        if begun := self._begun.pop(key, None):
            self._rows.add(layout.READ, value=0, **(begun | {"flags": NOT_SAID}))

    def end(self) -> None:
        for key in list(self._begun):
            self._give_up(key)
        for space, map_id in self._maps.items():
            self._rows.add_mapping(Mapping(map_id, 0, space, address=0, length=0, file_offset=0, prot="rw"))
        self._rows.flush()
