"""The hooks' channel: the file that traced threads ask their questions in (docs/hook-format.md).

Its words are read and written through memoryviews of their own type, which are one load or store each. x86-64 shows
them to others in program order, but for a load that overtakes an earlier store; :meth:`Channel.fence` keeps that back.
"""

import mmap
import os
import threading
from pathlib import Path

from mmiotap.kmmio.place import AtAddress, InMapping, Place
from mmiotap.sources import hook_layout as layout
from mmiotap.sources.futex import Futex
from mmiotap.trace import store
from mmiotap.trace.errors import DiskError, MmiotapError

ON_FAILURE = ("device", "stop")
#: Where slot 0 has what every answer needs, in words; and how far it is from one slot to the next.
_WORDS = layout.SLOT_SIZE // 4
_STATE, _VERDICT, _ANSWERED, _ASLEEP, _VALUE = (
    (layout.SLOTS_OFFSET + field) // 4
    for field in (layout.S_STATE, layout.S_VERDICT, layout.S_ANSWERED, layout.S_ASLEEP, layout.S_VALUE)
)
_ASKED, _ASKED_END = layout.ASKED_OFFSET, layout.ASKED_OFFSET + layout.MAX_SLOTS
_GIVEN_UP = layout.GIVEN_UP
_SLOTS, _SLOT_SIZE = layout.SLOTS_OFFSET, layout.SLOT_SIZE
_QUESTION_SIZE = layout.S_PROBES + 2 * layout.MAX_HIT
#: Who has it: a slot and which of its tenancies.
Tenant = tuple[int, int]


def check_failure(limit: float, on_failure: str) -> None:
    """Raises MmiotapError for what cannot become of a program whose handlers fail."""
    if on_failure not in ON_FAILURE:
        raise MmiotapError(f"there is no way {on_failure!r} to go on: {' or '.join(ON_FAILURE)}")
    if not limit > 0:
        raise MmiotapError(f"a handler that may take {limit} seconds can never answer: give it more than 0")


def check_rule(place: Place) -> None:
    """Raises MmiotapError for a rule that an entry has no room for."""
    if isinstance(place, InMapping) and len(os.fsencode(place.rule)) >= layout.RULE_SIZE:
        raise MmiotapError(f"{place.rule}: a probe's rule has at most {layout.RULE_SIZE - 1} bytes: use ** in it")


class Channel:
    """The file, made and mapped. Whoever makes it serves it."""

    def __init__(self, path: Path, *, limit: float, on_failure: str) -> None:
        """``limit`` is in seconds. Raises DiskError if there is no room for it."""
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, layout.HOOKS_SIZE)
                self.memory = mmap.mmap(fd, layout.HOOKS_SIZE)
            finally:
                os.close(fd)
        except OSError as error:
            raise DiskError(error.errno, error.strerror, str(path)) from error
        view = memoryview(self.memory)
        self.bytes, self.u32, self.u64 = view, view.cast("I"), view.cast("Q")
        self._turn = 0
        fence = threading.Lock()
        self._lock, self._unlock = fence.acquire, fence.release
        self._generation = Futex(self.memory, layout.H_GENERATION)
        self._bell = Futex(self.memory, layout.H_BELL)
        self._answered = [Futex(self.memory, self.slot(slot) + layout.S_ANSWERED) for slot in range(layout.MAX_SLOTS)]
        self._set(layout.H_VERSION, layout.HOOK_VERSION)
        self._set(layout.H_ON_FAILURE, ON_FAILURE.index(on_failure))
        self.u64[layout.H_LIMIT_NS // 8] = int(limit * 1e9)
        self._set(layout.H_SERVER_PID, os.getpid())
        self.u64[layout.H_SERVER_START // 8] = store.process_start(os.getpid()) or 0
        view[: len(layout.HOOK_MAGIC)] = layout.HOOK_MAGIC  # last: whoever sees it finds the rest

    def _set(self, offset: int, value: int) -> None:
        self.u32[offset // 4] = value

    def _word(self, offset: int) -> int:
        return self.u32[offset // 4]

    @staticmethod
    def slot(number: int) -> int:
        return layout.SLOTS_OFFSET + number * layout.SLOT_SIZE

    def fence(self) -> None:
        """What we have stored is seen by others before we load anything else: taking a lock does that."""
        self._lock()
        self._unlock()

    def serve(self, state: int) -> None:
        """Say that there is a server now, or none any more."""
        self._set(layout.H_SERVER, state)
        self.tell_all()

    # Probes

    def write_probe(self, index: int, place: Place, wants: int) -> None:
        """Puts a probe into an entry that is not used. It counts when :meth:`tell_all` has been heard."""
        base = layout.PROBES_OFFSET + index * layout.PROBE_SIZE
        incarnation = (self._word(base + layout.B_INCARNATION) + 1) & 0xFFFFFFFF
        self._set(base + layout.B_INCARNATION, incarnation)
        self._set(base + layout.B_WANTS, wants)
        match place:
            case AtAddress(start, length):
                self._set(base + layout.B_BY, layout.BY_ADDRESS)
            case InMapping(rule, start, length) if rule.isdecimal():
                self._set(base + layout.B_BY, layout.BY_MAP_ID)
                self._set(base + layout.B_MAP_ID, int(rule))
            case InMapping(rule, start, length):
                text = os.fsencode(rule) + b"\0"
                self._set(base + layout.B_BY, layout.BY_RULE)
                at = base + layout.B_RULE
                self.bytes[at : at + len(text)] = text
        self.u64[(base + layout.B_START) // 8] = start
        self.u64[(base + layout.B_LENGTH) // 8] = length
        self._set(base + layout.B_STATE, layout.ACTIVE)

    def erase_probe(self, index: int) -> None:
        """No hit that begins from now on is one of this probe."""
        self._set(layout.PROBES_OFFSET + index * layout.PROBE_SIZE + layout.B_STATE, layout.UNUSED)
        self.fence()

    def tell_all(self) -> int:
        """The probes, or the server, have changed: every process looks. Returns what each will then have seen."""
        generation = (self._word(layout.H_GENERATION) + 1) & 0xFFFFFFFF
        self._set(layout.H_GENERATION, generation)
        self._generation.wake_all()
        return generation

    def lagging(self, generation: int) -> bool:
        """Is there a process that lives and has not seen this?"""
        for number in range(layout.MAX_PROCESSES):
            entry = layout.PROCESSES_OFFSET + number * layout.PROCESS_SIZE
            pid = self._word(entry + layout.P_PID)
            if pid and self._word(entry + layout.P_SEEN) != generation:
                if store.process_start(pid) is not None:
                    return True
                self._set(entry + layout.P_PID, 0)
        return False

    # Slots

    def state(self, slot: int) -> int:
        return self._word(self.slot(slot) + layout.S_STATE)

    def free(self, slot: int) -> None:
        """Of a thread that has given up, or is gone."""
        self.bytes[layout.ASKED_OFFSET + slot] = 0
        self._set(self.slot(slot) + layout.S_STATE, layout.FREE)

    def tenants(self) -> list[Tenant]:
        """Slots of hits that are in flight."""
        claimed = [slot for slot in range(layout.MAX_SLOTS) if self.state(slot) == layout.CLAIMED]
        return [(slot, self._word(self.slot(slot) + layout.S_TENANCY)) for slot in claimed]

    def owner(self, slot: int) -> int:
        """Process id of its thread."""
        return self._word(self.slot(slot) + layout.S_PID)

    def owner_lives(self, slot: int) -> bool:
        base = self.slot(slot)
        return Path(f"/proc/{self.owner(slot)}/task/{self._word(base + layout.S_TID)}").exists()

    def take(self, slot: int) -> bytes:
        """Take up what this slot asks: a copy of the slot, without the path."""
        self.bytes[_ASKED + slot] = 0
        start = _SLOTS + slot * _SLOT_SIZE
        return self.memory[start : start + _QUESTION_SIZE]

    def request(self, slot: int) -> int:
        return self._word(self.slot(slot) + layout.S_REQUEST)

    def path(self, slot: int) -> str:
        start = self.slot(slot) + layout.S_PATH
        return os.fsdecode(self.memory[start : start + self._word(self.slot(slot) + layout.S_PATH_LENGTH)])

    def answer(
        self, slot: int, request: int, verdict: int = layout.AS_IT_IS, value: int | None = None, width: int = 0
    ) -> None:
        """Answer a slot's question, and wake its thread if it sleeps. If that has given up, the slot is free."""
        words, base = self.u32, slot * _WORDS
        if value is not None:
            if width <= 8:
                self.u64[(_VALUE + base) // 2] = value
            else:
                at = self.slot(slot) + layout.S_VALUE
                self.bytes[at : at + width] = value.to_bytes(width, "little")
        words[_VERDICT + base] = verdict
        words[_ANSWERED + base] = request
        self._lock()
        self._unlock()
        if words[_ASLEEP + base]:
            self._answered[slot].wake_all()
        if words[_STATE + base] == _GIVEN_UP:
            self.free(slot)

    def sleep(self, seconds: float) -> None:
        """Until somebody asks, at most so long."""
        bell = self._word(layout.H_BELL)
        self._set(layout.H_SERVER_ASLEEP, 1)
        self.fence()
        if 1 not in self.memory[_ASKED:_ASKED_END]:
            self._bell.wait(bell, seconds)
        self._set(layout.H_SERVER_ASLEEP, 0)

    def wake_server(self) -> None:
        self._set(layout.H_BELL, (self._word(layout.H_BELL) + 1) & 0xFFFFFFFF)
        self._bell.wake_all()

    def next_asked(self) -> int:
        """A slot whose thread asks, each in its turn; -1: none."""
        asked = self.memory[_ASKED:_ASKED_END]
        slot = asked.find(1, self._turn)
        if slot < 0:
            slot = asked.find(1)
        self._turn = slot + 1
        return slot

    def count(self, offset: int) -> int:
        """One of the header's counters."""
        return self.u64[offset // 8]
