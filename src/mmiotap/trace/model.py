"""What a trace knows beside its events: mappings, modules, processes, sites. One JSON object a line in its folder."""

from dataclasses import dataclass, fields
from typing import Any, Self, cast

from mmiotap.trace import layout

#: Words for the states of a site, and for the reasons why it is not patched.
SITE_STATES = {
    layout.SITE_SEEN: "seen",
    layout.SITE_JUMP: "jump",
    layout.SITE_PUNNED: "punned",
    layout.SITE_TRAPPED: "trapped",
    layout.SITE_BACK: "back",
}
SITE_REASONS = {
    layout.WHY_INSTRUCTION: "instruction",
    layout.WHY_NO_TARGET: "no-target",
    layout.WHY_NOT_WRITABLE: "not-writable",
    layout.WHY_LIBC: "libc",
    layout.WHY_ORDINARY: "ordinary",
    layout.WHY_CHANGED: "changed",
    layout.WHY_DISABLED: "disabled",
    layout.WHY_NO_CLOCK: "no-clock",
}


@dataclass(frozen=True)
class _Record:
    def to_json(self) -> dict[str, Any]:
        """An object of the fields, without those that are not known (None)."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Self:
        """Raises TypeError if a field is missing or is something else; fields of later versions are ignored."""
        known = [field for field in fields(cls) if field.name in record]
        for field in known:
            if not isinstance(record[field.name], cast("type", field.type)):
                raise TypeError(f"{field.name} is {record[field.name]!r}")
        return cls(**{field.name: record[field.name] for field in known})


@dataclass(frozen=True)
class Mapping(_Record):
    """Device memory, or what a rule selected, as a program mapped it. Addresses, lengths and offsets are bytes."""

    map_id: int  #: starts at 1, never reused in a trace
    pid: int
    path: str  #: as /proc/PID/maps shows it
    address: int  #: where the program sees it
    length: int
    file_offset: int
    prot: str  #: "rw", "r", … as mmap was asked
    device: str | None = None  #: PCI address, or the name in /dev
    bar: int | None = None
    physical: int | None = None  #: bus address of the first byte
    time_ns: int = 0  #: CLOCK_MONOTONIC; 0: not known


@dataclass(frozen=True)
class Module(_Record):
    """A program or shared object in a process's memory."""

    pid: int
    path: str
    start: int  #: first address
    end: int  #: first address behind it
    bias: int  #: load bias: a pc − bias is the address in the ELF file
    build_id: str  #: GNU build id in hex; "" if it has none


@dataclass(frozen=True)
class Process(_Record):
    """A process that was recorded."""

    pid: int
    ppid: int
    executable: str


@dataclass(frozen=True)
class Site(_Record):
    """An instruction that accessed a mapping: when it was first seen, or when its state changed."""

    pid: int
    pc: int
    width: int  #: bytes of its operand
    state: str  #: of :data:`SITE_STATES`; what a later version says, in digits
    traps: int  #: accesses that trapped, so far
    bytes: str  #: the instruction, in hex
    time_ns: int  #: CLOCK_MONOTONIC
    reason: str | None = None  #: of :data:`SITE_REASONS`
