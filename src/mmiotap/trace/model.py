"""What a trace knows beside its events: mappings, modules, processes. One JSON object a line in the trace folder."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Self


@dataclass(frozen=True)
class _Record:
    def to_json(self) -> dict[str, Any]:
        """An object of the fields, without those that are not known (None)."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Self:
        """Raises TypeError if a field is missing; fields of later versions are ignored."""
        return cls(**{field.name: record[field.name] for field in fields(cls) if field.name in record})


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
