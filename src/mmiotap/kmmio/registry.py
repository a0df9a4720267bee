"""kmmio's registry: which pages are armed, whose fault it is, and when a page may be forgotten.

It knows nothing of processes: an engine arms pages and takes faults, and asks here what they mean. The labels K1 to K5
and R1 to R3 are those of protocols/kmmio.pml, the model that is checked. The life of a hit:

1. the engine takes a fault and calls :meth:`Registry.begin`. None says that it is the program's own;
2. the handlers before the access run, the access is made, the handlers after it run. Where that is done by opening the
   page for the one instruction, a further fault of it goes to :meth:`Registry.again`;
3. :meth:`Registry.end` arms again what is still probed.

A page that no probe covers any more is disarmed at once but stays known for a **grace period**, until every hit has
ended that was in flight then: a fault that was raised before, and comes late, is ours and not the program's.
"""

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from mmiotap.kmmio.probe import Probe, ProbeExists
from mmiotap.trace.errors import MmiotapError

PAGE = 4096


class Pages(Protocol):
    """How pages are armed. Called with the registry locked: no call may wait for a thread that calls the registry."""

    def arm(self, page: int) -> None:
        """From now on touching the page at this address faults. Raises OSError if there is no such page."""

    def disarm(self, page: int) -> None:
        """From now on it does not. A page that is gone is disarmed: this never fails."""


@dataclass(eq=False)
class FaultPage:
    """A page that faults. ``count`` probes cover some of it; 0: it is only known for its grace period."""

    address: int
    count: int = 0
    armed: bool = False


@dataclass(eq=False)
class Hit:
    """An access in flight, from its fault to its end."""

    thread: int
    address: int
    width: int
    probes: tuple[Probe, ...]  #: that cover a byte of it, in the order of their addresses; none for a neighbour
    pages: set[int]  #: the fault pages that it has met
    server: threading.Thread  #: which serves it


@dataclass(eq=False)
class Grace:
    """The time in which pages that were released stay known: until ``hits``, those that began before, have ended."""

    hits: set[Hit]
    servers: frozenset[threading.Thread]  #: that serve those hits: who waits in one of them waits for ever
    pages: tuple[FaultPage, ...]
    over: threading.Event = field(default_factory=threading.Event)


class Registry:
    """The probes of one address space. Every method may be called from any thread at any time.

    Invariants, outside of the lock: a page is known while a probe covers it, or a grace period holds it. It is armed if
    a probe covers it, except while a hit has it open. Probes do not overlap. A thread has at most one hit in flight.
    """

    def __init__(self, pages: Pages, *, open_while_hit: bool) -> None:
        """``open_while_hit``: a page is disarmed while an access to it is made, as the seed does it."""
        self._arming = pages
        self._open_while_hit = open_while_hit
        self._lock = threading.Lock()
        self._starts: list[int] = []  # sorted, as _probes is
        self._probes: list[Probe] = []
        self._pages: dict[int, FaultPage] = {}
        self._hits: dict[int, Hit] = {}
        self._graces: list[Grace] = []

    @property
    def probes(self) -> tuple[Probe, ...]:
        """In the order of their addresses."""
        with self._lock:
            return tuple(self._probes)

    def register(self, probe: Probe) -> None:
        """Arm the pages of a probe. Raises ProbeExists, or OSError if a page cannot be armed: then none of them is."""
        with self._lock:
            if covered := self._covering(probe.start, probe.length):
                raise ProbeExists(f"a probe at {probe}: {covered[0]} is covered by another one already")
            taken: list[int] = []
            try:
                for address in pages_of(probe.start, probe.length):
                    self._take(address)
                    taken.append(address)
            except OSError:
                self._release(taken)
                raise
            at = bisect_left(self._starts, probe.start)
            self._starts.insert(at, probe.start)
            self._probes.insert(at, probe)

    def unregister(self, probe: Probe) -> None:
        """Disarm the pages that only this probe covers, and wait until no handler of it runs or will run.

        Called by a handler it cannot wait for its own hit. Then it returns at once, and the pages are forgotten when
        that hit, and all others of that time, have ended.
        """
        grace = self.release(probe)
        if threading.current_thread() not in grace.servers:
            grace.over.wait()  # R2

    def release(self, probe: Probe) -> Grace:
        """The first half of :meth:`unregister`: disarm, and return what there is to wait for."""
        with self._lock:
            at = bisect_left(self._starts, probe.start)
            if self._probes[at : at + 1] != [probe]:
                raise MmiotapError(f"there is no such probe at {probe}")
            del self._starts[at], self._probes[at]
            return self._release(pages_of(probe.start, probe.length))

    def begin(self, thread: int, address: int, width: int) -> Hit | None:
        """A thread has faulted on its way to ``width`` bytes at ``address``. None: not ours, it is the program's fault.

        The access may lie across two pages; it is ours if one of them is. A width that is not known is 1.
        """
        with self._lock:  # K1 and K2
            if thread in self._hits:
                raise RuntimeError(f"thread {thread} has a hit in flight: its next fault goes to again()")
            pages = {page for page in pages_of(address, width) if page in self._pages}
            if not pages:
                return None
            probes = self._covering(address, width)
            hit = Hit(thread, address, width, probes, pages, threading.current_thread())
            self._hits[thread] = hit
            self._open(pages)
            return hit

    def again(self, thread: int, address: int) -> tuple[Probe, ...] | None:
        """A thread with a hit in flight has faulted once more, at ``address``, before its instruction was through.

        Another of our pages is one more page of the same access: the result are the probes that come with it, and the
        instruction is run again. So it is for a page that was armed again meanwhile, as the end of another thread's hit
        does it (the recursive hit of 2008). None: the page was open, so it really is absent: the program's fault.
        """
        with self._lock:  # K1 and K2 once more
            hit = self._hits[thread]
            page = self._pages.get(page_of(address))
            if page is None or (page.address in hit.pages and not (self._open_while_hit and page.armed)):
                return None
            hit.pages.add(page.address)
            self._open([page.address])
            more = tuple(probe for probe in self._covering(address, 1) if probe not in hit.probes)
            hit.probes += more
            return more

    def end(self, hit: Hit) -> None:
        """The access has been made, or has failed: arm what is still probed, and let go who waits for this hit.

        Raises OSError if a page cannot be armed any more; the hit has ended nevertheless, and the others are armed.
        """
        with self._lock:  # K4 and K5
            del self._hits[hit.thread]
            for grace in tuple(self._graces):
                grace.hits.discard(hit)
                self._forget_if_over(grace)
            refused = []
            for address in hit.pages:
                page = self._pages.get(address)
                if page is not None and page.count and not page.armed:
                    try:
                        self._arm(page)
                    except OSError as error:
                        refused.append(error)
            if refused:
                raise refused[0]

    def covering(self, address: int, width: int) -> tuple[Probe, ...]:
        """The probes that cover some of these bytes, in the order of their addresses."""
        with self._lock:
            return self._covering(address, width)

    def in_flight(self, thread: int) -> Hit | None:
        """The hit of a thread. A debug trap of a thread without one is not ours."""
        with self._lock:
            return self._hits.get(thread)

    def fork(self, pages: Pages) -> "Registry":
        """The registry of a child process: the same probes, all armed, and no hits, for those are of other threads.

        The engine calls it before the child runs, and before anything changes in the parent's registry.
        """
        child = Registry(pages, open_while_hit=self._open_while_hit)
        for probe in self.probes:
            child.register(probe)
        return child

    def _covering(self, address: int, width: int) -> tuple[Probe, ...]:
        """Probes do not overlap, so those that cover some of it are neighbours in the list."""
        first = max(bisect_right(self._starts, address) - 1, 0)
        behind = bisect_left(self._starts, address + width)
        return tuple(probe for probe in self._probes[first:behind] if probe.end > address)

    def _take(self, address: int) -> None:
        """One more probe covers this page. Where another does already, it is armed, or will be at the end of a hit."""
        page = self._pages.get(address) or FaultPage(address)
        if not page.count:
            self._arm(page)
        page.count += 1
        self._pages[address] = page

    def _release(self, addresses: Iterable[int]) -> Grace:
        """R1. One probe less covers these pages: those that no other covers are disarmed and get their grace period."""
        released = [self._pages[address] for address in addresses]
        for page in released:
            page.count -= 1
            if not page.count:
                self._disarm(page)
        hits = set(self._hits.values())
        servers = frozenset(hit.server for hit in hits)
        grace = Grace(hits, servers, tuple(page for page in released if not page.count))
        self._graces.append(grace)
        self._forget_if_over(grace)
        return grace

    def _forget_if_over(self, grace: Grace) -> None:
        """R3. A page that was armed again meanwhile stays, and so does one that a later grace period holds.

        Those end in the order in which they began: a later one waits for at least the hits of an earlier one.
        """
        if grace.hits:
            return
        self._graces.remove(grace)
        held = {page for later in self._graces for page in later.pages}
        for page in grace.pages:
            if not page.count and page not in held:
                del self._pages[page.address]
        grace.over.set()

    def _open(self, addresses: Iterable[int]) -> None:
        """Let one instruction through, where that is how accesses are made."""
        if self._open_while_hit:
            for address in addresses:
                self._disarm(self._pages[address])

    def _arm(self, page: FaultPage) -> None:
        self._arming.arm(page.address)
        page.armed = True

    def _disarm(self, page: FaultPage) -> None:
        if page.armed:
            self._arming.disarm(page.address)
            page.armed = False


def page_of(address: int) -> int:
    """The address of the page that this byte lies in."""
    return address & -PAGE


def pages_of(address: int, length: int) -> range:
    """The addresses of all pages that some of these bytes lie in."""
    return range(page_of(address), address + length, PAGE)
