"""One access of the program to its device, as the handlers of a probe see it and may answer it."""

from collections.abc import Callable, Mapping
from enum import Enum

from mmiotap.trace.errors import MmiotapError


class AnswerError(MmiotapError, ValueError):
    """A handler has answered what cannot be answered (now, or so)."""


class Phase(Enum):
    """Where an access is when a handler sees it; decides what may be answered."""

    PRE = "not made yet"
    POST = "made already"
    OVER = "over"  #: observed only, or the program has long gone on


class Verdict(Enum):
    """What becomes of an access. An engine reads it when the handlers have run."""

    DEVICE = "the access is made, as the program meant it"
    ANSWER = "the program reads `value`; the device is not touched"
    SWALLOW = "nothing is written; the device is not touched"
    CHANGE = "`value` is written, or was read, instead"


#: Python finds names of a module ten times as fast as members of an Enum, and programs wait for handlers.
_PRE, _POST = Phase.PRE, Phase.POST
_DEVICE, _ANSWER, _SWALLOW, _CHANGE = Verdict


class Access:
    """What is known of an access. Addresses, offsets and widths are bytes.

    ``value`` of a write is what is being written; of a read it is None before, and after it what was read. It is an
    unsigned little-endian integer of ``width`` bytes, and None where it cannot be known.

    A handler answers in four ways, and only in these:

    * ``pre`` of a read: ``access.answer(value)``: the program gets this, the device is not touched;
    * ``pre`` of a write: ``access.swallow()``: the device is not touched;
    * ``pre`` of a write: ``access.value = v``: this is written instead;
    * ``post`` of a read: ``access.value = v``: the program gets this instead.

    Anything else raises :class:`AnswerError`, and so does an answer when the handlers have returned.
    """

    __slots__ = (
        "_given", "_name_of", "_registers", "_value", "address", "flags", "kind", "map_id", "offset", "path", "pc",
        "phase", "pid", "tid", "time_ns", "verdict", "width",
    )  # fmt: skip

    def __init__(
        self,
        kind: str,
        address: int,
        offset: int,
        width: int,
        value: int | None,
        pc: int,
        pid: int,
        tid: int,
        time_ns: int,
        map_id: int,
        path: str,
        flags: int,
        phase: Phase,
        registers: Mapping[str, int] | Callable[[], Mapping[str, int]] | None = None,
        name_of: Callable[[int, int], str] | None = None,
    ) -> None:
        self.kind = kind  #: "read", "write", or "unknown": an instruction that is not taken apart, only observed
        self.address = address  #: as the program uses it
        self.offset = offset  #: from the start of the mapping, as in a trace
        self.width = width
        self.pc = pc  #: of the program's instruction
        self.pid = pid
        self.tid = tid
        self.time_ns = time_ns  #: CLOCK_MONOTONIC, before the access
        self.map_id = map_id
        self.path = path  #: of the mapping, as /proc/PID/maps shows it
        self.flags = flags  #: of trace.layout: RMW, LOCKED, …
        self.phase = phase
        self.verdict = _DEVICE
        self._value = self._given = value
        self._registers = registers
        self._name_of = name_of

    @property
    def registers(self) -> Mapping[str, int]:
        """The thread's rax … r15, rip and rflags as before the instruction, by name. Empty where only observed."""
        if callable(self._registers):
            self._registers = self._registers()
        return self._registers or {}

    @property
    def symbol(self) -> str | None:
        """The function around ``pc``, as ``function+0x12 (module)``; None where nobody can tell."""
        return self._name_of(self.pid, self.pc) if self._name_of else None

    @property
    def value(self) -> int | None:
        return self._value

    @value.setter
    def value(self, value: int) -> None:
        if self.phase is not (_PRE if self.kind == "write" else _POST) or self.kind == "unknown":
            self._refuse("its value cannot be set")
        self._set(value)
        self.verdict = _CHANGE

    def answer(self, value: int) -> None:
        """Before a read: the program gets this value, and the device is not touched."""
        if self.phase is not _PRE or self.kind != "read":
            self._refuse("it cannot be answered")
        self._set(value)
        self.verdict = _ANSWER

    def swallow(self) -> None:
        """Before a write: it is not made, and the device is not touched."""
        if self.phase is not _PRE or self.kind != "write":
            self._refuse("it cannot be swallowed")
        self.verdict = _SWALLOW

    def made(self, value: int | None) -> None:
        """For engines: the access was made (or answered) and has this value; next are the handlers after it."""
        self._value = self._given = value
        self.phase = _POST
        self.verdict = _DEVICE

    def unanswered(self) -> None:
        """For engines: whatever the handlers have answered does not count."""
        self._value = self._given
        self.verdict = _DEVICE

    def __repr__(self) -> str:
        value = "?" if self._value is None else f"{self._value:#0{2 * self.width + 2}x}"
        return f"<{self.kind} {self.width} at {self.path}:{self.offset:#x}, value {value}, pc {self.pc:#x}>"

    def _set(self, value: int) -> None:
        if not 0 <= value < 1 << 8 * self.width:
            raise AnswerError(f"{value:#x} is no value of {self.width} bytes: & {(1 << 8 * self.width) - 1:#x} cuts it")
        self._value = value

    def _refuse(self, what: str) -> None:
        raise AnswerError(
            f"this {self.kind} is {self.phase.value}: {what}. pre of a read: answer(value); pre of a write: swallow() "
            "or value = …; post of a read: value = …"
        )
