"""The rows that a trace must hold for a case, from what the case says and the window on plain memory."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mmiotap.trace import layout

from .case import SIDE, Access, Case, Strings, Value

#: Flags that say what an access was; the others say how it was seen.
MEANING = (
    layout.RMW | layout.LOCKED | layout.VALUE_UNKNOWN | layout.STRING | layout.NONTEMPORAL | 0xF << layout.REASON_SHIFT
)


@dataclass(frozen=True)
class Row:
    """A row of the trace, without what is of no interest here. ``value`` is the whole of it, at any width."""

    kind: str
    width: int
    offset: int
    value: int
    flags: int

    def __str__(self) -> str:
        return f"{self.kind} of {self.width} at {self.offset:#x}: {self.value:#x}, flags {self.flags:#x}"


def rows(case: Case, content: bytes, before: bytes, after: bytes) -> list[Row]:
    """What one run of a case must leave in the trace. ``content`` is the window without the case's patches."""
    if case.strings:
        return list(elements(case.strings, before, content[:SIDE], case.registers))
    return [row(access, before if access.kind == "read" else after) for access in case.accesses]


def row(access: Access, memory: bytes) -> Row:
    flags = (
        layout.RMW * access.rmw
        | layout.LOCKED * access.locked
        | layout.NONTEMPORAL * access.nontemporal
        | layout.STRING * access.string
        | (0 if access.known else layout.VALUE_UNKNOWN | layout.REASON_LOCKED << layout.REASON_SHIFT)
    )
    there = int.from_bytes(memory[access.offset : access.offset + access.width], "little") if access.known else 0
    value = there if access.value is None else access.value
    return Row(access.kind, access.width, access.offset, value, flags)


def elements(strings: Strings, window: bytes, side: bytes, registers: Mapping[str, int | str | Value]) -> Iterator[Row]:
    """A string instruction, element by element, as the SDM's pseudocode runs it."""
    memory = {"region": bytearray(window), "side": bytearray(side)}
    width = strings.width
    accumulator = registers.get("rax", 0)
    assert isinstance(accumulator, int)
    accumulator &= (1 << 8 * width) - 1
    step = -width if strings.backwards else width

    def load(place: tuple[str, int], index: int) -> int:
        at = place[1] + index * step
        return int.from_bytes(memory[place[0]][at : at + width], "little")

    for index in range(strings.count):
        read = []
        for place in (strings.source, strings.target):
            if place is None or (place is strings.target and strings.operation in ("movs", "stos")):
                continue
            read.append(load(place, index))
            if place[0] == "region":
                yield Row("read", width, place[1] + index * step, read[-1], layout.STRING)
        if strings.operation in ("movs", "stos"):
            assert strings.target
            value = read[0] if strings.operation == "movs" else accumulator
            at = strings.target[1] + index * step
            memory[strings.target[0]][at : at + width] = value.to_bytes(width, "little")
            if strings.target[0] == "region":
                yield Row("write", width, at, value, layout.STRING)
        elif strings.until:
            equal = read[0] == (read[1] if len(read) == 2 else accumulator)
            if equal == (strings.until == "repne"):
                return
