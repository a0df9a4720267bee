"""The registry of kmmio against its specification, on a simulated page table, and with real threads."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kmmio_spec import PAGE, Spec
from mmiotap.kmmio.access import Access
from mmiotap.kmmio.probe import Probe, ProbeExists
from mmiotap.kmmio.registry import Grace, Hit, Registry
from mmiotap.trace.errors import MmiotapError

PAGES = 6
#: Nothing can be armed here.
HOLE = 4 * PAGE
#: This one the program has taken the rights of, itself: it faults whether armed or not.
ABSENT = 3 * PAGE
THREADS = range(3)
#: Seconds after which a thread that should have gone on is given up.
PATIENCE = 20.0

addresses = st.one_of(
    st.integers(0, PAGES * PAGE - 1),
    st.builds(lambda page, near: max(page * PAGE + near, 0), st.integers(0, PAGES), st.integers(-9, 9)),
)
lengths = st.one_of(st.integers(1, 16), st.integers(1, 2 * PAGE + 2))
widths = st.sampled_from([1, 2, 4, 8, 16, 32])


@dataclass
class PageTable:
    """Which pages of a process fault. The registry must never arm what is armed, or disarm what is not."""

    armed: set[int] = field(default_factory=set)
    inherited: bool = False  # a child's table begins as its parent's was, and all is armed once more

    def arm(self, page: int) -> None:
        assert page % PAGE == 0
        assert self.inherited or page not in self.armed
        if page == HOLE:
            raise OSError(12, "there is no such page")
        self.armed.add(page)

    def disarm(self, page: int) -> None:
        assert page in self.armed
        self.armed.remove(page)

    def fault(self, address: int, width: int) -> int | None:
        """The first byte of the access that faults, as a processor reports it."""
        gone = (byte for byte in range(address, address + width) if byte // PAGE * PAGE in self.armed | {ABSENT})
        return next(gone, None)


@dataclass
class World:
    """An address space: the registry, its page table, what should be so, and what each thread is about to do."""

    registry: Registry
    table: PageTable
    spec: Spec
    hits: dict[int, Hit] = field(default_factory=dict)
    accesses: dict[int, tuple[int, int]] = field(default_factory=dict)
    graces: list[tuple[Grace, set[int]]] = field(default_factory=list)


class AgainstItsSpecification(RuleBasedStateMachine):
    """Random threads of random processes do random things in any order."""

    @initialize(open_while_hit=st.booleans())
    def start(self, open_while_hit: bool) -> None:
        table = PageTable()
        self.worlds = [World(Registry(table, open_while_hit=open_while_hit), table, Spec(open_while_hit))]

    def world(self, number: int) -> World:
        return self.worlds[number % len(self.worlds)]

    @rule(number=st.integers(0, 2), start=addresses, length=lengths)
    def register(self, number: int, start: int, length: int) -> None:
        world = self.world(number)
        probe = Probe(start, length)
        if world.spec.touching(start, start + length):
            assert not world.spec.register(probe)
            with pytest.raises(ProbeExists):
                world.registry.register(probe)
        elif start < HOLE + PAGE and start + length > HOLE:
            world.spec.register_as_far_as(start, HOLE)
            with pytest.raises(OSError, match="no such page"):
                world.registry.register(probe)
        else:
            assert world.spec.register(probe)
            world.registry.register(probe)

    @rule(number=st.integers(0, 2), choice=st.integers(0, 100))
    def unregister(self, number: int, choice: int) -> None:
        world = self.world(number)
        if not world.spec.probes:
            return
        probe = world.spec.probes[choice % len(world.spec.probes)]
        world.spec.unregister(probe)
        world.graces.append((world.registry.release(probe), set(world.hits)))

    @rule(number=st.integers(0, 2), thread=st.sampled_from(THREADS), address=addresses, width=widths)
    def touch(self, number: int, thread: int, address: int, width: int) -> None:
        """A thread begins an access, or goes on with the one that it is at."""
        world = self.world(number)
        if thread in world.hits:
            self.go_on(world, thread)
            return
        if world.table.fault(address, width) is None:
            return
        self.take_fault(world, thread, address, width)

    @rule(number=st.integers(0, 2), thread=st.sampled_from(THREADS), address=addresses, width=widths)
    def late_fault(self, number: int, thread: int, address: int, width: int) -> None:
        """A fault of some time ago comes to the engine, whatever has become of the page since."""
        world = self.world(number)
        if thread not in world.hits:
            self.take_fault(world, thread, address, width)

    @rule(number=st.integers(0, 2), thread=st.sampled_from(THREADS), address=addresses)
    def another_operand(self, number: int, thread: int, address: int) -> None:
        """The instruction has a second operand (movs, push), and that faults too."""
        world = self.world(number)
        if thread in world.hits:
            self.take_another(world, thread, address)

    @rule(number=st.integers(0, 2), thread=st.sampled_from(THREADS))
    def fork(self, number: int, thread: int) -> None:
        world = self.world(number)
        if thread in world.hits or len(self.worlds) > 2:
            return
        table = PageTable(set(world.table.armed), inherited=True)
        child = world.registry.fork(table)
        table.inherited = False
        self.worlds.append(World(child, table, world.spec.fork()))

    @precondition(lambda self: any(world.hits for world in self.worlds))
    @rule()
    def end_all(self) -> None:
        for world in self.worlds:
            for thread in list(world.hits):
                self.end(world, thread)

    @invariant()
    def as_specified(self) -> None:
        for world in self.worlds:
            assert list(world.registry.probes) == world.spec.touching(0, PAGES * 2 * PAGE)
            assert world.table.armed == {page * PAGE for page in range(2 * PAGES) if world.spec.armed(page * PAGE)}
            for thread in THREADS:
                assert world.registry.in_flight(thread) is world.hits.get(thread)
            for grace, threads in world.graces:
                assert grace.over.is_set() == (not threads)

    def take_fault(self, world: World, thread: int, address: int, width: int) -> None:
        expected = world.spec.begin(thread, address, width)
        hit = world.registry.begin(thread, address, width)
        assert (hit is None) == (expected is None)
        if hit is not None and expected is not None:
            assert list(hit.probes) == expected.probes
            world.hits[thread] = hit
            world.accesses[thread] = (address, width)

    def take_another(self, world: World, thread: int, address: int) -> tuple[Probe, ...] | None:
        expected = world.spec.again(thread, address)
        more = world.registry.again(thread, address)
        assert more == (None if expected is None else tuple(expected))
        return more

    def go_on(self, world: World, thread: int) -> None:
        """Where pages open for the instruction it is run again, and may fault again; else it has been run elsewhere."""
        fault = world.table.fault(*world.accesses[thread]) if world.spec.open_while_hit else None
        if fault is None or self.take_another(world, thread, fault) is None:
            self.end(world, thread)

    def end(self, world: World, thread: int) -> None:
        world.spec.end(thread)
        world.registry.end(world.hits.pop(thread))
        for _, threads in world.graces:
            threads.discard(thread)


AgainstItsSpecification.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestAgainstItsSpecification = AgainstItsSpecification.TestCase


def registry(*, open_while_hit: bool = True) -> tuple[Registry, PageTable]:
    table = PageTable()
    return Registry(table, open_while_hit=open_while_hit), table


def begin(of: Registry, address: int, *, thread: int = 1, width: int = 4) -> Hit:
    hit = of.begin(thread, address, width)
    assert hit is not None
    return hit


def test_a_neighbour_on_the_page_is_ours_but_no_probes() -> None:
    kmmio, table = registry()
    probe = Probe(PAGE + 0x10, 4)
    kmmio.register(probe)
    hit = begin(kmmio, PAGE + 0x14)
    assert hit.probes == ()
    assert table.armed == set()
    kmmio.end(hit)
    assert table.armed == {PAGE}
    assert begin(kmmio, PAGE + 0xD).probes == (probe,)


def test_a_page_that_two_probes_share_stays_armed_until_the_second_goes() -> None:
    kmmio, table = registry()
    one, two = Probe(PAGE, 8), Probe(PAGE + 8, PAGE)
    kmmio.register(one)
    kmmio.register(two)
    assert table.armed == {PAGE, 2 * PAGE}
    kmmio.unregister(one)
    assert table.armed == {PAGE, 2 * PAGE}
    kmmio.unregister(two)
    assert table.armed == set()
    assert kmmio.begin(1, PAGE, 4) is None


@pytest.mark.parametrize(("start", "length"), [(0x1000, 1), (0xFFF, 2), (0x1010, 0x2000), (0x10FF, 1), (0, 0x9000)])
def test_a_covered_address_is_refused(start: int, length: int) -> None:
    kmmio, _ = registry()
    kmmio.register(Probe(0x1000, 0x100))
    with pytest.raises(ProbeExists, match=r"0x1000\+0x100"):
        kmmio.register(Probe(start, length))


def test_what_is_not_registered_cannot_be_unregistered() -> None:
    kmmio, _ = registry()
    kmmio.register(Probe(PAGE, 4))
    with pytest.raises(MmiotapError, match="no such probe"):
        kmmio.unregister(Probe(PAGE, 4))


def test_a_page_that_cannot_be_armed_leaves_none_armed() -> None:
    kmmio, table = registry()
    with pytest.raises(OSError, match="no such page"):
        kmmio.register(Probe(HOLE - 2 * PAGE, 3 * PAGE))
    assert table.armed == set()
    assert kmmio.probes == ()


def test_a_page_that_really_is_absent_is_the_programs_affair() -> None:
    kmmio, _ = registry()
    kmmio.register(Probe(ABSENT, 4))
    hit = begin(kmmio, ABSENT)
    assert kmmio.again(1, ABSENT) is None
    kmmio.end(hit)


def test_the_recursive_hit_of_2008_opens_the_page_once_more() -> None:
    kmmio, table = registry()
    kmmio.register(Probe(PAGE, 4))
    mine, other = begin(kmmio, PAGE, thread=1), begin(kmmio, PAGE, thread=2)
    kmmio.end(other)
    assert table.armed == {PAGE}
    assert kmmio.again(1, PAGE) == ()
    assert table.armed == set()
    kmmio.end(mine)
    assert table.armed == {PAGE}


def test_a_page_that_never_opens_stays_armed_in_a_hit() -> None:
    kmmio, table = registry(open_while_hit=False)
    kmmio.register(Probe(PAGE, 4))
    hit = begin(kmmio, PAGE)
    assert table.armed == {PAGE}
    kmmio.end(hit)
    assert table.armed == {PAGE}


def test_an_access_across_two_probed_pages_opens_both() -> None:
    kmmio, table = registry()
    one, two = Probe(2 * PAGE - 8, 8), Probe(2 * PAGE, 8)
    kmmio.register(one)
    kmmio.register(two)
    hit = begin(kmmio, 2 * PAGE - 2)
    assert hit.probes == (one, two)
    assert table.armed == set()
    kmmio.end(hit)
    assert table.armed == {PAGE, 2 * PAGE}


def test_a_second_operand_on_another_page_brings_its_probe() -> None:
    kmmio, table = registry()
    source, target = Probe(PAGE, 8), Probe(5 * PAGE, 8)
    kmmio.register(source)
    kmmio.register(target)
    hit = begin(kmmio, PAGE)
    assert kmmio.again(1, 5 * PAGE + 4) == (target,)
    assert hit.probes == (source, target)
    assert table.armed == set()
    kmmio.end(hit)
    assert table.armed == {PAGE, 5 * PAGE}


def test_unregister_waits_for_a_hit_that_began_before_and_for_none_that_began_later() -> None:
    kmmio, table = registry()
    probe, other = Probe(PAGE, 4), Probe(5 * PAGE, 4)
    kmmio.register(probe)
    kmmio.register(other)
    hit = served_elsewhere(kmmio, PAGE, thread=1)
    over = threading.Event()

    def unregister() -> None:
        kmmio.unregister(probe)
        over.set()

    waiting = threading.Thread(target=unregister)
    waiting.start()
    until(lambda: PAGE not in table.armed and kmmio.probes == (other,))
    later = served_elsewhere(kmmio, 5 * PAGE, thread=2)
    late = served_elsewhere(kmmio, PAGE, thread=3)  # its fault was raised before the page was disarmed
    assert late.probes == ()
    assert not over.is_set()
    kmmio.end(hit)
    assert over.wait(PATIENCE)
    waiting.join()
    assert kmmio.begin(4, PAGE, 4) is None
    kmmio.end(late)
    kmmio.end(later)
    assert table.armed == {5 * PAGE}


def test_a_page_armed_again_in_its_grace_period_stays() -> None:
    kmmio, table = registry(open_while_hit=False)
    probe, again = Probe(PAGE, 4), Probe(PAGE + 8, 4)
    kmmio.register(probe)
    hit = begin(kmmio, PAGE)
    grace = kmmio.release(probe)
    kmmio.register(again)
    kmmio.end(hit)
    assert grace.over.is_set()
    assert table.armed == {PAGE}
    assert begin(kmmio, PAGE + 8).probes == (again,)


def test_a_page_released_twice_is_known_for_the_longer_of_its_grace_periods() -> None:
    kmmio, _ = registry()
    probe = Probe(PAGE, 4)
    kmmio.register(probe)
    early = begin(kmmio, PAGE, thread=1)
    first = kmmio.release(probe)
    kmmio.register(probe)
    late = begin(kmmio, PAGE, thread=2)
    second = kmmio.release(probe)
    kmmio.end(early)
    assert first.over.is_set()
    assert not second.over.is_set()
    kmmio.end(begin(kmmio, PAGE, thread=3))
    kmmio.end(late)
    assert second.over.is_set()
    assert kmmio.begin(3, PAGE, 4) is None


def test_a_handler_that_unregisters_its_own_probe_goes_on() -> None:
    kmmio, table = registry()
    probe = Probe(PAGE, 4)
    kmmio.register(probe)
    hit = begin(kmmio, PAGE)
    kmmio.unregister(probe)  # as its handler does it
    assert table.armed == set()
    late = begin(kmmio, PAGE, thread=2)
    assert late.probes == ()
    kmmio.end(late)
    kmmio.end(hit)
    assert kmmio.begin(1, PAGE, 4) is None


def test_no_handler_runs_after_unregister_whatever_the_threads_do() -> None:
    """Threads touch two pages as fast as they can, while probes on them come and go."""
    table = LockedTable()
    kmmio = Registry(table, open_while_hit=True)
    stop = threading.Event()
    wrong: list[str] = []

    def handler(alive: threading.Event, low: int, high: int) -> "Check":
        return Check(alive, low, high, wrong)

    def program(thread: int) -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            address = PAGE - 2 + (turn * 3 + thread) % 12
            while table.fault(address, 4) is not None:
                hit = kmmio.begin(thread, address, 4)
                if hit is None:
                    continue
                for probe in hit.probes:
                    assert isinstance(probe.pre, Check)
                    probe.pre.hit(address)
                while (fault := table.fault(address, 4)) is not None:
                    if kmmio.again(thread, fault) is None and table.fault(fault, 1) is not None:
                        wrong.append("a page that is armed was taken for absent")
                kmmio.end(hit)
                break

    def owner(low: int, high: int) -> None:
        for _ in range(300):
            alive = threading.Event()
            alive.set()
            probe = Probe(low, high - low, pre=handler(alive, low, high))
            kmmio.register(probe)
            kmmio.unregister(probe)
            alive.clear()

    programs = [threading.Thread(target=program, args=(thread,)) for thread in range(4)]
    owners = [threading.Thread(target=owner, args=span) for span in ((PAGE - 4, PAGE + 2), (PAGE + 2, PAGE + 9))]
    for each in programs + owners:
        each.start()
    for each in owners:
        each.join(PATIENCE)
        assert not each.is_alive()
    stop.set()
    for each in programs:
        each.join(PATIENCE)
        assert not each.is_alive()
    assert wrong == []
    assert table.armed == set()
    assert kmmio.begin(9, PAGE - 4, 16) is None


@dataclass
class Check:
    """A handler that knows when it may run."""

    alive: threading.Event
    low: int
    high: int
    wrong: list[str]

    def hit(self, address: int) -> None:
        if not self.alive.is_set():
            self.wrong.append("a handler ran after its probe was unregistered")
        if address + 4 <= self.low or self.high <= address:
            self.wrong.append("a handler ran for a neighbour")

    def __call__(self, access: Access) -> None:
        raise NotImplementedError


class LockedTable(PageTable):
    """Processors look at it while the registry changes it."""

    def fault(self, address: int, width: int) -> int | None:
        armed = frozenset(tuple(self.armed))
        return next((byte for byte in range(address, address + width) if byte // PAGE * PAGE in armed), None)


def served_elsewhere(of: Registry, address: int, *, thread: int) -> Hit:
    """A hit that another Python thread serves: who waits for it here does not wait for itself."""
    hits: list[Hit] = []
    server = threading.Thread(target=lambda: hits.append(begin(of, address, thread=thread)))
    server.start()
    server.join(PATIENCE)
    return hits[0]


def until(condition: Callable[[], bool]) -> None:
    """Let other threads work until this is so; the time limit of tests ends it otherwise."""
    while not condition():
        threading.Event().wait(0.001)
