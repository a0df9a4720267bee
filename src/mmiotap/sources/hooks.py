"""Hooks: probes whose handlers run while the program waits, and may answer its accesses.

The threads of a program that the agent records ask in shared memory (hook_channel.py), and a thread of ours answers
them, one after the other. It spins for some microseconds before it sleeps, for the next access is often near.
"""

import contextlib
import os
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmiotap.kmmio import handlers
from mmiotap.kmmio.access import Access, AnswerError, Phase, Verdict
from mmiotap.kmmio.place import AtAddress, InMapping, Place
from mmiotap.kmmio.probe import Probe, ProbeExists
from mmiotap.sources import hook_layout as layout
from mmiotap.sources.hook_channel import ON_FAILURE, Channel, Tenant, check_rule
from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.layout import READ, UNKNOWN, VALUE_UNKNOWN, WRITE

#: Seconds that a handler may take.
DEFAULT_LIMIT = 1.0
#: Looks for a question before the server sleeps: some 50 microseconds.
SPINS = 300
IDLE_SECONDS = 0.1
#: How long a thread that waits for others sleeps between two looks, and how long it waits for processes to look.
LOOK_AGAIN_SECONDS = 0.0002
PATIENCE_SECONDS = 2.0

#: What each handler wants, from S_PHASE on: phase, kind, width, flags, map id, number of
#: probes, offset, value, first probe.
_HEAD = struct.Struct("<I4xIIIi8xI8xQ16xQ200xH")
#: What only some want, from S_PID on: pid, tid, address, pc, time.
_REST = struct.Struct("<ii4xQ8xQq")
_REGISTERS = struct.Struct("<18Q")
_NAMES = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)), "rip", "rflags")
_KINDS = {READ: "read", WRITE: "write", UNKNOWN: "unknown"}
_PHASES = {layout.PRE: Phase.PRE, layout.POST: Phase.POST}
#: Python finds names of a module ten times as fast as members of an Enum.
_DEVICE, _ANSWER, _CHANGE = Verdict.DEVICE, Verdict.ANSWER, Verdict.CHANGE


@dataclass(frozen=True)
class HookCounts:
    """How often hooks were asked, and how often the program had to go on without an answer."""

    asked: int  #: accesses that some probe covers
    too_slow: int  #: the handlers took longer than the limit
    no_slot: int  #: too many threads asked at once
    unserved: int  #: nobody was there to answer any more
    failed: int  #: a handler raised
    unplaced: int  #: probes, or parts of them, that a process had no room for

    @property
    def unanswered(self) -> int:
        return self.too_slow + self.no_slot + self.unserved


class Hooks:
    """The hook probes of a recording, from before it starts (``agent.record(…, hooks=hooks)``) until it is over.

    ``limit`` is how many seconds a handler may take. After that, or if it raises, or we die, the program goes on with
    the device's own answer, or with ``on_failure="stop"`` is killed. Handlers run in one thread. ``report`` is called,
    in that thread, with a line for each handler that raises.
    """

    def __init__(
        self,
        *,
        limit: float = DEFAULT_LIMIT,
        on_failure: str = ON_FAILURE[0],
        report: Callable[[str], None] | None = None,
        name_of: Callable[[int, int], str] | None = None,
    ) -> None:
        if on_failure not in ON_FAILURE:
            raise MmiotapError(f"there is no way {on_failure!r} to go on: {' or '.join(ON_FAILURE)}")
        if not limit > 0:
            raise MmiotapError(f"a handler that may take {limit} seconds can never answer: give it more than 0")
        self._limit, self._on_failure = limit, on_failure
        self._report = report or (lambda text: print(f"mmiotap: {text}", file=sys.stderr))
        self._name_of = name_of
        self._lock = threading.Lock()
        self._places: dict[Probe, tuple[int, Place]] = {}
        self._probes: dict[int, Probe] = {}
        self._retired: dict[int, list[Tenant]] = {}  # entries of removed probes, with the hits that may know them
        self._channel: Channel | None = None
        self._server: threading.Thread | None = None
        self._have_posts = False
        self._over = False
        self._failed = 0
        self._paths: dict[int, str] = {}

    # Probes

    def add(self, place: Place, probe: Probe) -> None:
        """Have this probe's handlers run for accesses to this place (``probe.start`` says nothing here).

        On a running recording every process knows of it when this returns, unless one is stopped. Raises ProbeExists
        if another probe covers some of the place, as far as that shows in what both are called by.
        """
        check_rule(place)
        with self._lock:
            for _, other in self._places.values():
                if _overlap(place, other):
                    raise ProbeExists(f"the probe on {_text(other)} covers some of {_text(place)}: remove it first")
            index = self._free_entry()
            self._places[probe] = index, place
            self._probes[index] = probe
            self._have_posts = self._have_posts or probe.post is not None
            if self._channel:
                self._channel.write_probe(index, place, _wants(probe))
        self._tell_all()

    def remove(self, probe: Probe) -> None:
        """When this returns, no handler of the probe is running and none will. (In a handler: but for this one.)"""
        with self._lock:
            index, _ = self._places.pop(probe)
            del self._probes[index]
            if self._channel:
                self._channel.erase_probe(index)
                self._retired[index] = self._channel.tenants()
        self._tell_all()
        if threading.current_thread() is not self._server:
            while self._in_flight(index):
                time.sleep(LOOK_AGAIN_SECONDS)

    def _free_entry(self) -> int:
        for index in range(layout.MAX_PROBES):
            if index not in self._probes and not self._in_flight(index):
                self._retired.pop(index, None)
                return index
        raise MmiotapError(f"there is room for {layout.MAX_PROBES} hooks: cover more with one of them")

    def _in_flight(self, index: int) -> bool:
        """Is there still a hit that began when this entry was another probe's?"""
        tenants = self._retired.get(index, [])
        return bool(tenants and self._channel and not self._over and set(tenants) & set(self._channel.tenants()))

    def _tell_all(self) -> None:
        if self._channel is None:
            return
        generation = self._channel.tell_all()
        end = time.monotonic() + PATIENCE_SECONDS
        while self._channel.lagging(generation) and time.monotonic() < end:
            time.sleep(LOOK_AGAIN_SECONDS)

    # Serving

    @contextlib.contextmanager
    def serving(self, live: Path) -> Iterator[None]:
        """Make the channel in this folder and answer, until the block is left. Raises DiskError without room for it."""
        with self._lock:
            self._channel = channel = Channel(live / "hooks", limit=self._limit, on_failure=self._on_failure)
            for probe, (index, place) in self._places.items():
                channel.write_probe(index, place, _wants(probe))
        channel.serve(layout.SERVING)
        self._server = threading.Thread(target=self._serve, args=(channel,), name="mmiotap-hooks", daemon=True)
        self._server.start()
        try:
            yield
        finally:
            self._over = True
            channel.wake_server()
            self._server.join()

    @property
    def counts(self) -> HookCounts:
        """So far; when the recording is over, in all."""
        if self._channel is None:
            return HookCounts(0, 0, 0, 0, 0, 0)
        count = self._channel.count
        return HookCounts(
            asked=count(layout.H_HITS),
            too_slow=count(layout.H_TOO_SLOW),
            no_slot=count(layout.H_NO_SLOT),
            unserved=count(layout.H_UNSERVED),
            failed=self._failed,
            unplaced=count(layout.H_NO_ROOM),
        )

    def _serve(self, channel: Channel) -> None:
        known: dict[Tenant, float] = {}
        last = -1
        try:
            while not self._over:
                for _ in range(SPINS):
                    slot = channel.next_asked(last + 1)
                    if slot >= 0:
                        self._answer(channel, slot)
                        last = slot
                        break
                    last = -1
                else:
                    channel.sleep(IDLE_SECONDS)
                    known = self._sweep(channel, known)
        finally:
            channel.serve(layout.OVER)
            for slot, _ in channel.tenants():
                channel.answer(slot, layout.AS_IT_IS)

    def _answer(self, channel: Channel, slot: int) -> None:
        """Every access waits for this: few calls, and nothing is worked out that nobody asks for."""
        if channel.take(slot):
            question = channel.question(slot)
            phase, kind, width, flags, map_id, count, offset, number, first = _HEAD.unpack_from(
                question, layout.S_PHASE
            )
            probes = self._first_of(first) if count == 1 else self._all_of(question, count)
            value: int | None = number if width <= 8 else int.from_bytes(question[layout.S_VALUE :][:width], "little")
            if flags & VALUE_UNKNOWN or (phase == layout.PRE and kind == READ):
                value = None
            if map_id not in self._paths:
                self._paths[map_id] = channel.path(slot)
            shape = _Closed if flags & VALUE_UNKNOWN else _Asked
            access = shape(question, _KINDS[kind], offset, width, value, flags, _PHASES[phase])
            access.map_id, access.path, access._name_of = map_id, self._paths[map_id], self._name_of
            if not self._run(probes, access):
                return  # it is being killed, and must not go on meanwhile
            verdict = access.verdict
            if verdict is _DEVICE:
                channel.answer(slot, layout.AS_IT_IS)
            elif verdict is _CHANGE:
                channel.answer(slot, layout.CHANGED, access.value, width)
            else:
                # The device has no part in it: what comes after it can come now.
                if self._have_posts:
                    access.made(access.value)
                    if not self._run(probes, access):
                        return
                channel.answer(slot, layout.ANSWERED if verdict is _ANSWER else layout.SWALLOWED, access.value, width)
        if channel.state(slot) == layout.GIVEN_UP:
            channel.free(slot)

    def _first_of(self, index: int) -> tuple[Probe, ...]:
        probe = self._probes.get(index)
        return (probe,) if probe else ()

    def _all_of(self, question: bytes, count: int) -> tuple[Probe, ...]:
        indices = memoryview(question)[layout.S_PROBES :].cast("H")[:count]
        return tuple(probe for probe in map(self._probes.get, indices) if probe)

    def _run(self, probes: tuple[Probe, ...], access: Access) -> bool:
        """Whether the program may go on."""
        try:
            done = handlers.run(probes, access, self._failure)
        except BaseException as error:  # one that ends a thread must not end this one
            done = False
            access.unanswered()
            self._failure(f"{access}: {error!r}")
        if done or self._on_failure == "device":
            return True
        with contextlib.suppress(ProcessLookupError):
            os.kill(access.pid, signal.SIGKILL)
        return False

    def _failure(self, text: str) -> None:
        self._failed += 1
        self._report(text)

    def _sweep(self, channel: Channel, known: dict[Tenant, float]) -> dict[Tenant, float]:
        """Frees the slots of threads that have given up, and of those that are gone. Returns who has one since when.

        Called between two answers, so nobody uses a slot that was given up. A hit has at most four questions.
        """
        now = time.monotonic()
        tenants = {tenant: known.get(tenant, now) for tenant in channel.tenants()}
        for slot in range(layout.MAX_SLOTS):
            if channel.state(slot) == layout.GIVEN_UP:
                channel.free(slot)
        for (slot, tenancy), since in tenants.items():
            if now - since > 4 * self._limit + 1 and not channel.owner_lives(slot) and tenancy:
                channel.free(slot)
        return tenants


class _Asked(Access):
    """An access as a thread asks about it. What few handlers look at is taken from the question when one does."""

    __slots__ = ("_question",)

    def __init__(
        self, question: bytes, kind: str, offset: int, width: int, value: int | None, flags: int, phase: Phase
    ) -> None:
        self._question = question
        self.kind = kind
        self.offset = offset
        self.width = width
        self._value = self._given = value
        self.flags = flags
        self.phase = phase
        self.verdict = _DEVICE

    def __getattr__(self, name: str) -> Any:
        if name in ("pid", "tid", "address", "pc", "time_ns"):
            self.pid, self.tid, self.address, self.pc, self.time_ns = _REST.unpack_from(self._question, layout.S_PID)
        elif name == "_registers":
            self._registers = dict(zip(_NAMES, _REGISTERS.unpack_from(self._question, layout.S_REGISTERS), strict=True))
        else:
            raise AttributeError(name)
        return getattr(self, name)


class _Closed(_Asked):
    """An access whose value nobody can know: it cannot be answered either."""

    __slots__ = ()

    @property
    def value(self) -> int | None:
        return self._value

    @value.setter
    def value(self, value: int) -> None:
        self._refuse_all()

    def swallow(self) -> None:
        self._refuse_all()

    def _refuse_all(self) -> None:
        raise AnswerError(
            f"this {self.kind} belongs to a locked instruction that runs on the device as a whole: "
            "answer its read, and its write can be answered too"
        )


def _wants(probe: Probe) -> int:
    return (layout.PRE if probe.pre else 0) | (layout.POST if probe.post else 0)


def _text(place: Place) -> str:
    match place:
        case AtAddress(start, length):
            return f"{start:#x}+{length:#x}"
        case InMapping(rule, offset, length):
            return f"{rule}:{offset:#x}+{length:#x}"


def _overlap(one: Place, other: Place) -> bool:
    """Do both cover some byte, for all that shows?"""
    match one, other:
        case AtAddress(start, length), AtAddress(other_start, other_length):
            return start < other_start + other_length and other_start < start + length
        case InMapping(rule, start, length), InMapping(other_rule, other_start, other_length):
            return rule == other_rule and start < other_start + other_length and other_start < start + length
    return False
