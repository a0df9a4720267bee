"""Hooks: probes whose handlers run while the program waits, and may answer its accesses.

The threads of a program that the agent records ask in shared memory (hook_channel.py), and a thread of ours answers
them (hook_server.py).
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mmiotap.kmmio.place import AtAddress, InMapping, Place
from mmiotap.kmmio.probe import Probe, ProbeExists
from mmiotap.sources import hook_layout as layout
from mmiotap.sources.hook_channel import ON_FAILURE, Channel, Tenant, check_failure, check_rule
from mmiotap.sources.hook_server import Server
from mmiotap.trace.errors import MmiotapError

#: Seconds that a handler may take.
DEFAULT_LIMIT = 1.0
#: How long a thread that waits for others sleeps between two looks, and how long it waits for processes to look.
LOOK_AGAIN_SECONDS = 0.0002
PATIENCE_SECONDS = 2.0


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
        check_failure(limit, on_failure)
        self._limit, self._on_failure = limit, on_failure
        self._report = report or (lambda text: print(f"mmiotap: {text}", file=sys.stderr))
        self._name_of = name_of
        self._lock = threading.Lock()
        self._places: dict[Probe, tuple[int, Place]] = {}
        self._probes: dict[int, Probe] = {}
        self._retired: dict[int, list[Tenant]] = {}  # entries of removed probes, with the hits that may know them
        self._channel: Channel | None = None
        self._server: Server | None = None
        self._over = False

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
        if not (self._server and self._server.is_here):
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
        self._server = Server(
            channel,
            self._probes,
            limit=self._limit,
            stops=self._on_failure == "stop",
            report=self._report,
            name_of=self._name_of,
        )
        try:
            yield
        finally:
            self._over = True
            self._server.close()

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
            failed=self._server.failed if self._server else 0,
            unplaced=count(layout.H_NO_ROOM),
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
