"""Answering the threads that ask in the hooks' channel: one after the other, in a thread of ours.

Every access waits for what is done here. So the server spins for some microseconds before it sleeps, for the next
access is often near; nothing is worked out that no handler looks at; and the one long function calls few others.
"""

import contextlib
import os
import signal
import struct
import threading
import time
from collections.abc import Callable, Mapping

from mmiotap.kmmio.access import Access, AnswerError, Phase, Verdict
from mmiotap.kmmio.handlers import run
from mmiotap.kmmio.probe import Probe
from mmiotap.sources import hook_layout as layout
from mmiotap.sources.hook_channel import Channel, Tenant
from mmiotap.trace.layout import READ, UNKNOWN, VALUE_UNKNOWN, WRITE

#: Looks for a question before the server sleeps: 3 to 50 microseconds, the more the more often one was found. Where
#: others want the processors, looking in vain takes them from the very thread that is to ask.
FEWEST_SPINS, MOST_SPINS = 10, 160
IDLE_SECONDS = 0.1

#: Of a slot: state, request, phase, kind, width, flags, map id, pid, tid, number of probes, address, offset, pc, time,
#: value, first probe.
_QUESTION = struct.Struct("<I4xI8xI4xIIIiiiIQQQqQ200xH")
_REGISTERS = struct.Struct("<18Q")
_NAMES = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)), "rip", "rflags")
_KINDS = {READ: "read", WRITE: "write", UNKNOWN: "unknown"}
_PHASES = {layout.PRE: Phase.PRE, layout.POST: Phase.POST}
#: Python finds names of a module ten times as fast as members of an Enum.
_DEVICE, _ANSWER, _CHANGE = Verdict.DEVICE, Verdict.ANSWER, Verdict.CHANGE
_CLAIMED, _BEFORE, _ANSWERED, _SWALLOWED = layout.CLAIMED, layout.PRE, layout.ANSWERED, layout.SWALLOWED


class Server:
    """Runs the handlers of ``probes``, by the numbers of their entries; the caller changes them while it serves."""

    def __init__(
        self,
        channel: Channel,
        probes: Mapping[int, Probe],
        *,
        limit: float,
        stops: bool,
        report: Callable[[str], None],
        name_of: Callable[[int, int], str] | None,
    ) -> None:
        self._channel = channel
        self._probes = probes
        self._limit = limit
        self._stops = stops
        self._report = report
        self._name_of = name_of
        self._paths: dict[int, str] = {}
        self._over = False
        self._tenants: dict[Tenant, float] = {}
        self.failed = 0  #: handlers that raised
        self._thread = threading.Thread(target=self._serve, name="mmiotap-hooks", daemon=True)
        channel.serve(layout.SERVING)
        self._thread.start()

    @property
    def is_here(self) -> bool:
        """Is this the thread that runs handlers?"""
        return threading.current_thread() is self._thread

    def close(self) -> None:
        """What is asked now is answered; then nobody asks any more."""
        self._over = True
        self._channel.wake_server()
        self._thread.join()

    def _serve(self) -> None:
        channel = self._channel
        spins = MOST_SPINS
        try:
            while not self._over:
                for _ in range(spins):
                    slot = channel.next_asked()
                    if slot >= 0:
                        self._answer_in_any_case(slot)
                        spins = min(2 * spins, MOST_SPINS)
                        break
                else:
                    spins = max(spins // 2, FEWEST_SPINS)
                    channel.sleep(IDLE_SECONDS)
                    self._sweep()
        finally:
            channel.serve(layout.OVER)
            for slot, _ in channel.tenants():
                channel.answer(slot, channel.request(slot))

    def _answer_in_any_case(self, slot: int) -> None:
        try:
            self._answer(slot)
        except BaseException as error:  # a handler that ends its thread must not end this one
            self._failure(f"a handler's {error!r} ends nothing here")
            self._go_on(slot)

    def _answer(self, slot: int) -> None:
        channel = self._channel
        question = channel.take(slot)
        (
            state, request, phase, kind, width, flags, map_id, pid, tid,
            count, address, offset, pc, time_ns, value, index,
        ) = _QUESTION.unpack_from(question)  # fmt: skip
        if state != _CLAIMED:
            channel.free(slot)  # its thread has given up
            return
        access = _Closed() if flags & VALUE_UNKNOWN else _Asked()
        access.question = question
        access.kind = _KINDS[kind]
        access.address = address
        access.offset = offset
        access.width = width
        access.pc = pc
        access.pid = pid
        access.tid = tid
        access.time_ns = time_ns
        access.flags = flags
        access.map_id = map_id
        access.path = self._paths.get(map_id) or self._note_path(map_id, slot)
        access.phase = _PHASES[phase]
        access.verdict = _DEVICE
        if flags & VALUE_UNKNOWN or (phase == _BEFORE and kind == READ):
            value = None
        elif width > 8:
            value = int.from_bytes(question[layout.S_VALUE :][:width], "little")
        access._value = access._given = value
        access._name_of = self._name_of
        probes = [self._probes[index]] if count == 1 and index in self._probes else self._several(question, count)
        if not run(probes, access, self._failure):
            self._go_on(slot)
            return
        verdict = access.verdict
        if verdict is _DEVICE:
            channel.answer(slot, request)
        elif verdict is _CHANGE:
            channel.answer(slot, request, layout.CHANGED, access.value, width)
        else:
            # The device has no part in it: what comes after it can come now.
            for probe in probes:
                if probe.post:
                    access.made(access.value)
                    if not run(probes, access, self._failure) and self._stops:
                        self._go_on(slot)
                        return
                    break
            channel.answer(slot, request, _ANSWERED if verdict is _ANSWER else _SWALLOWED, access.value, width)

    def _go_on(self, slot: int) -> None:
        """A handler has failed: the device answers, or the program ends here."""
        if self._stops:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._channel.owner(slot), signal.SIGKILL)
        else:
            self._channel.answer(slot, self._channel.request(slot))

    def _note_path(self, map_id: int, slot: int) -> str:
        self._paths[map_id] = path = self._channel.path(slot)
        return path

    def _several(self, question: bytes, count: int) -> list[Probe]:
        """The probes of an access to several of them, without those that are being removed."""
        indices = memoryview(question)[layout.S_PROBES :].cast("H")[:count]
        return [probe for probe in map(self._probes.get, indices) if probe]

    def _failure(self, text: str) -> None:
        self.failed += 1
        self._report(text)

    def _sweep(self) -> None:
        """Frees the slots of threads that have given up, and of those that are gone.

        Called between two answers, so nobody uses a slot that was given up. A hit has at most four questions.
        """
        channel, now = self._channel, time.monotonic()
        self._tenants = {tenant: self._tenants.get(tenant, now) for tenant in channel.tenants()}
        for slot in range(layout.MAX_SLOTS):
            if channel.state(slot) == layout.GIVEN_UP:
                channel.free(slot)
        for (slot, _), since in self._tenants.items():
            if now - since > 4 * self._limit + 1 and not channel.owner_lives(slot):
                channel.free(slot)


class _Asked(Access):
    """An access as a thread asks about it. The server fills it in, one attribute after the other: that is quickest."""

    __slots__ = ("question",)
    __init__ = object.__init__
    question: bytes

    @property
    def registers(self) -> Mapping[str, int]:
        return dict(zip(_NAMES, _REGISTERS.unpack_from(self.question, layout.S_REGISTERS), strict=True))


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
