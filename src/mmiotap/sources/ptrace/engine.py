"""The engine from outside: a tracer that arms pages of a process, takes its faults, and lets it go on.

One Python thread, the tracer, owns every call of ptrace(2); it waits for the next stop of any traced thread, does what
the stop asks for, and lets the thread run. So one access is made at a time, and an access is one straight piece of code
(access.py). The other Python threads ask the tracer to do things for them (:meth:`Engine.do`).
"""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from mmiotap.kmmio import handlers
from mmiotap.kmmio.access import Access
from mmiotap.kmmio.place import AtAddress, InMapping, Place
from mmiotap.kmmio.probe import Handler, Probe
from mmiotap.kmmio.registry import Registry, page_of
from mmiotap.sources.ptrace import access, calls, maps, process
from mmiotap.sources.ptrace.access import Log, Making, Touched
from mmiotap.sources.ptrace.bell import Bell
from mmiotap.sources.ptrace.calls import Gone, SignalInfo
from mmiotap.sources.ptrace.following import Following, copies_memory
from mmiotap.sources.ptrace.instruction import Operand
from mmiotap.sources.ptrace.regions import Part
from mmiotap.sources.ptrace.space import Pages, Space
from mmiotap.sources.ptrace.thread import STOPPING, Ended, Thread
from mmiotap.sources.ptrace.ways import WAYS, Way
from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.names import rule_selects

_T = TypeVar("_T")
#: Has the handlers of probes run for an access, and answer it.
Answering = Callable[[Sequence[Probe], Access], None]


@dataclass(eq=False)
class Placed:
    """Probes at a place: one in each mapping, of each address space, that the place is found in."""

    place: Place
    pre: Handler | None = None
    post: Handler | None = None
    hook: bool = True
    probes: list[tuple[Space, Probe]] = field(default_factory=list)


class Engine:
    """Traces a process, its threads, and the processes that it forks.

    ``rules`` select mappings that are recorded into ``log``, as ``record --map`` does; places that are probed come by
    :meth:`probe`. ``way`` is one of ways.WAYS. ``report`` gets a line for whatever a user should know; ``name_of``
    names code by process and address. ``answer`` runs handlers, if they are not to be called here: those of a process
    that the user can kill are elsewhere (tracer.py), for without its tracer a program dies at the next armed page.

    >>> engine = Engine(report=print)
    >>> engine.attach(1234)  # doctest: +SKIP
    >>> placed = engine.probe(InMapping("/dev/uio0", 0x10, 4), pre=print)  # doctest: +SKIP
    >>> engine.wait(10_000)  # doctest: +SKIP
    >>> engine.detach()  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        way: str = "emulate",
        rules: Sequence[str] = (),
        log: Log | None = None,
        report: Callable[[str], None],
        name_of: Callable[[int, int], str] | None = None,
        enabled: bool = True,
        answer: Answering | None = None,
    ) -> None:
        check_way(way)
        self.log = log
        self.name_of = name_of
        self.pid = 0
        self.exit_code: int | None = None  #: once the process has ended: its status, or minus the signal it died of
        self.left_behind: list[int] = []  #: when it is over: processes that were traced, and run on
        self.unanswered = 0  #: accesses that went on without an answer: here handlers take the time that they take
        self.rules = list(rules)
        self.report = report
        self._answer = answer or self._run_handlers
        self._way = Way(way)
        self._enabled = enabled
        self._following = Following(self)
        self._threads: dict[int, Thread] = {}
        self._spaces: dict[int, Space] = {}  # by thread
        self._placed: list[Placed] = []
        self._map_ids = 0
        self._early: dict[int, int] = {}  # the first stops of threads that nobody has told us of yet
        self._backlog: deque[tuple[int, int]] = deque()  # stops that came while we waited for one thread
        self._current: Thread | None = None
        self._requests: deque[Callable[[], None]] = deque()
        self._asking = threading.Lock()
        self._bell: Bell | None = None
        self._tracer: threading.Thread | None = None
        self._over = threading.Event()
        self._leaving = False
        self._trouble: BaseException | None = None

    # For everybody

    def attach(self, pid: int) -> None:
        """Trace a running process from now on. Raises MmiotapError if it cannot be traced."""
        process.check(pid)
        self.pid = pid
        self._start(lambda: self._seize_all(pid))

    def launch(self, program: str, command: list[str]) -> None:
        """Start a program and trace it from its first instruction on. Raises OSError if it cannot be started."""
        self.prepare(program, command).run()

    def prepare(self, program: str, command: list[str]) -> process.Waiting:
        """The first half of :meth:`launch`: a traced process, that has still to be told to become the program."""
        waiting = process.Waiting(program, command)
        self.pid = waiting.pid
        self._start(lambda: self._seize_child(waiting.pid))
        return waiting

    def probe(
        self, place: Place, *, pre: Handler | None = None, post: Handler | None = None, hook: bool = True
    ) -> Placed:
        """Have handlers run for each access to a place: where it is now, and wherever it is mapped later.

        They run in the tracer's thread, and the program waits for them; those of a ``hook`` may answer. Raises
        ProbeExists, or MmiotapError if there is nothing at an address. A program may be probed before it is launched.
        """
        placed = Placed(place, pre, post, hook)
        self.do(lambda: self._place(placed))
        return placed

    def unprobe(self, placed: Placed) -> None:
        """Returns when no handler of it runs, or ever will."""
        self.do(lambda: self._displace(placed))

    def enable(self, enabled: bool) -> None:
        """Arm, or disarm, whatever is probed and recorded."""
        self.do(lambda: self._enable(enabled))

    def wait(self, milliseconds: int | None = None) -> bool:
        """Is it over, now or within this time: has the process ended, or were we told to detach?"""
        over = self._over.wait(None if milliseconds is None else milliseconds / 1000)
        if over and self._trouble:
            raise self._trouble
        return over

    def leave(self) -> None:
        """Begin to detach; :meth:`wait` tells when that is done."""
        if not self._leaving:
            with suppress(Finished):
                self.ask(self._leave)

    def detach(self) -> None:
        """Leave the process as it would be without us. Nothing happens if it is over."""
        with suppress(Finished):
            self.do(self._leave)
        if self._tracer:
            self._tracer.join()

    def do(self, action: Callable[[], _T]) -> _T:
        """Have the tracer do something between two accesses, and wait for the result. Raises Finished if it is over."""
        if self._tracer is None or threading.current_thread() is self._tracer:
            return action()
        future: Future[_T] = Future()

        def request() -> None:
            try:
                future.set_result(action())
            except BaseException as error:
                future.set_exception(error)

        self.ask(request)
        return future.result()

    def ask(self, request: Callable[[], None]) -> None:
        """The same, without waiting for it. The request must not raise."""
        with self._asking:
            if self._over.is_set() or self._bell is None:
                raise Finished("the process is not traced any more")
            self._requests.append(request)
            self._bell.ring()

    # The tracer

    def _start(self, begin: Callable[[], None]) -> None:
        """Start the tracer, and return when it has begun. Raises what went wrong with that."""
        begun: Future[None] = Future()
        self._tracer = threading.Thread(target=self._trace, args=(begin, begun), name="mmiotap-tracer", daemon=True)
        self._tracer.start()
        begun.result()

    def _trace(self, begin: Callable[[], None], begun: "Future[None]") -> None:
        bell = self._bell = Bell()
        try:
            begin()
            begun.set_result(None)
            while not self._leaving:
                self._next()
        except BaseException as error:
            if begun.done():
                self._trouble = error
            else:
                begun.set_exception(error)
            self._leave()
        with self._asking:
            self._over.set()
            self._bell = None
        bell.remove()
        while self._requests:
            self._requests.popleft()()

    def _next(self) -> None:
        """Wait for a stop, and serve it."""
        if not self._backlog and not self._requests:
            self._collect()
        if not self._backlog:
            while self._requests:
                self._requests.popleft()()
            return
        tid, status = self._backlog.popleft()
        thread = self._threads.get(tid)
        if thread is None:
            if os.WIFSTOPPED(status):
                self._early[tid] = status
            return
        try:
            if not os.WIFSTOPPED(status):
                raise Ended(tid, status)
            if not thread.stopped:
                thread.stop(status)
            self._serve(thread, status)
        except Ended as ended:
            self._forget(ended.tid, ended.status)
        except Gone:
            pass  # it is being killed; its end is yet to come
        finally:
            self._current = None

    def _collect(self) -> None:
        """Wait for a stop, or for the bell, and take all stops that there are.

        Each thread has one at most, so all have their turn: the kernel would always tell of the same ones first.
        """
        options = calls.WALL | calls.WNOTHREAD | os.WUNTRACED
        tid, status = os.waitpid(-1, options)
        while tid:
            if not self._bell or tid != self._bell.pid:
                self._backlog.append((tid, status))
                if os.WIFSTOPPED(status) and tid in self._threads:
                    with suppress(Gone):
                        self._threads[tid].stop(status)
            tid, status = os.waitpid(-1, options | os.WNOHANG)

    def _serve(self, thread: Thread, status: int) -> None:
        """Do what a stop asks for, and let the thread run."""
        number, event = calls.stopping_signal(status), calls.stopping_event(status)
        space = self._spaces[thread.tid]
        self._current = thread
        if number == calls.AT_CALL:
            self._at_call(space, thread)
        elif event == calls.EVENT_STOP and number in STOPPING:
            thread.stay_stopped()
            return
        elif event:
            self._event(space, thread, event)
        elif thread.signal is not None and _may_be_ours(thread.signal):
            fault, thread.signal = thread.signal, None
            if not self._ours(space, thread, fault):
                thread.signal = thread.signal or fault  # a signal that came meanwhile goes first: the fault comes again
        self._current = None
        if not self._leaving:
            thread.go_on()

    # Faults

    def _ours(self, space: Space, thread: Thread, fault: SignalInfo) -> bool:
        """Make an access to an armed page. False: the fault is the program's own, and it is to get it."""
        page = space.regions.at(fault.address)
        if page is None:
            return False
        before = thread.registers()
        instruction = space.instruction_at(before.rip)
        found = access.touched(space, instruction, before)
        if not all(access.allowed(operand, part) for operand, _, part in found):
            return False
        if not found:
            nowhere = Operand(None, None, 1, 0, None, 0, False, False, None, None)
            found = [(nowhere, fault.address, page)]
        self._way.prepare(self, space, thread)
        begun = (space.registry.begin(thread.tid, address, max(operand.width, 1)) for operand, address, _ in found)
        hit = next((hit for hit in begun if hit), None)
        if hit is None:
            return thread.may_be_late(before.rip, fault.address, space.pages.armings)
        try:
            targets = []
            for operand, address, part in found:
                for end in {page_of(address), page_of(address + max(operand.width, 1) - 1)} - hit.pages:
                    space.registry.again(thread.tid, end)
                targets.append(Touched(operand, address, part, space.registry.covering(address, operand.width)))
            making = Making(thread, space, instruction, before, targets)
            with self._way.reach(self, space, hit, making) as (deltas, opened):
                met = making.make(deltas, self, opened)
        finally:
            space.registry.end(hit)
        if met is not None:
            thread.signal = thread.signal or met
        return True

    def before(self, probes: Sequence[Probe], seen: Access) -> None:
        """Run the handlers before an access."""
        if probes:
            self._answer(probes, seen)

    def after(self, probes: Sequence[Probe], seen: Access) -> None:
        """Run the handlers after an access."""
        if probes:
            self._answer(probes, seen)

    def observed(self, probes: Sequence[Probe], seen: Access) -> None:
        """Tell those who only observe, when all is over."""
        for probe in probes:
            for handler in (probe.pre, probe.post):
                if handler:
                    self._answer([Probe(probe.start, probe.length, None, handler, probe.hook)], seen)

    def _run_handlers(self, probes: Sequence[Probe], seen: Access) -> None:
        handlers.run(probes, seen, self.report)

    def one_more_page(self, thread: Thread, fault: SignalInfo) -> bool:
        """The instruction has met another page of ours that is not open. True: now it is."""
        space = self._spaces[thread.tid]
        if fault.number != signal.SIGSEGV or space.regions.at(fault.address) is None:
            return False
        if space.registry.again(thread.tid, fault.address) is None:
            return False
        if not self._way.opens:
            space.open_one_more(page_of(fault.address))
        return True

    def hold_others(self, space: Space, thread: Thread) -> None:
        """Stop the other threads of an address space. Their stops are served after this one, and so they go on.

        A thread in a system call is left there: it stops when it comes out, and touches nothing before. Not so one that
        forks: a copy of the memory that is made now would be open.
        """
        for other in list(space.threads.values()):
            if other is not thread and not other.stopped and (other.call is None or copies_memory(space, other.call)):
                self._halt(other)

    def _halt(self, thread: Thread) -> None:
        """Have a running thread stop; whatever it stops for is served later."""
        try:
            calls.interrupt(thread.tid)
            status = thread.wait()
            if calls.stopping_event(status) == calls.EVENT_STOP and thread.has_faulted():
                calls.go_on(thread.tid)
                status = thread.wait()
            thread.stop(status)
            self._backlog.append((thread.tid, status))
        except Ended as ended:
            self._backlog.append((ended.tid, ended.status))
        except Gone:
            pass

    def _borrow(self, space: Space) -> Thread:
        """A stopped thread of an address space that can make system calls for us."""
        threads = list(space.threads.values())
        if self._current in threads and self._current is not None and self._current.usable:
            return self._current
        for thread in [*threads, *sorted(threads, key=lambda thread: thread.call is not None)]:
            if not thread.stopped:
                self._halt(thread)
            if thread.usable:
                return thread
        for thread in threads:
            self._let_in(thread)
            if thread.usable:
                return thread
        raise OSError(0, f"no thread of process {space.pid} can make a system call now")

    def _let_in(self, thread: Thread) -> None:
        """A thread that has stopped on its way into a system call: let it go there, and stop it in it, or behind it."""
        current = self._current
        for stop in [stop for stop in self._backlog if stop[0] == thread.tid and os.WIFSTOPPED(stop[1])]:
            self._backlog.remove(stop)
            self._serve(thread, stop[1])
        self._current = current
        if not thread.stopped:
            self._halt(thread)

    # System calls, threads, processes

    def _at_call(self, space: Space, thread: Thread) -> None:
        call = calls.system_call(thread.tid)
        if call is None:
            return
        if call.entry:
            thread.call = call
            if space.followed:
                self._following.entering(space, thread, call)
        else:
            entered, thread.call = thread.call, None
            if entered and space.followed:
                self._following.left(space, thread, entered, call.result)

    def _event(self, space: Space, thread: Thread, event: int) -> None:
        if event in (calls.EVENT_FORK, calls.EVENT_VFORK, calls.EVENT_CLONE):
            self._new_thread(space, thread, event)
        elif event == calls.EVENT_EXEC:
            self._new_program(thread)

    def _new_thread(self, space: Space, parent: Thread, event: int) -> None:
        """Another thread, or a process with a copy of the memory, or (vfork) one that shares it."""
        tid = calls.event_message(parent.tid)
        try:
            pid = int(maps.status(tid)["Tgid"])
        except (OSError, KeyError):
            pid = tid if event != calls.EVENT_CLONE else parent.pid  # killed already
        child = Thread(tid, pid)
        mine = space
        if pid != parent.pid and event != calls.EVENT_VFORK:
            mine = self._new_space(pid)
            mine.followed = space.followed
            mine.inherit(space)
            for placed in self._placed:
                placed.probes += [(mine, probe) for where, probe in placed.probes if where is space]
        self._add(child, mine)
        if (status := self._early.pop(tid, None)) is not None:
            self._backlog.append((tid, status))
        # Its first stop may wait behind others: whoever holds all threads meanwhile must not wait for it once more.
        for status in [status for stopped, status in self._backlog if stopped == tid and os.WIFSTOPPED(status)]:
            with suppress(Gone):
                child.stop(status)

    def _new_program(self, thread: Thread) -> None:
        """exec: the memory is gone, and so are the other threads; this one may have had another id."""
        former = calls.event_message(thread.tid)
        for other in [other for other in self._threads.values() if other.pid == thread.pid]:
            if other is not thread:
                self._drop(other.tid)
        if former != thread.tid:
            self._drop(former)
        self._drop(thread.tid)
        thread.call = None
        space = self._new_space(thread.pid)
        self._add(thread, space)
        if problem := process.word_size(thread.pid):
            self.report(f"process {thread.pid} now {problem}: it runs on unseen")
            space.followed = False
        if self.log:
            self.log.new_program(thread.pid)

    def _new_space(self, pid: int) -> Space:
        return Space(pid, self._new_registry, self._borrow)

    def _new_registry(self, pages: Pages) -> Registry:
        return Registry(pages, open_while_hit=self._way.opens)

    def _add(self, thread: Thread, space: Space) -> None:
        self._threads[thread.tid] = thread
        self._spaces[thread.tid] = space
        space.threads[thread.tid] = thread

    def _drop(self, tid: int) -> None:
        thread = self._threads.pop(tid, None)
        if thread is not None and self.log:
            self.log.ended(thread)
        space = self._spaces.pop(tid, None)
        if space is not None:
            space.threads.pop(tid, None)
            if not space.threads:
                for placed in self._placed:
                    placed.probes = [(where, probe) for where, probe in placed.probes if where is not space]
                space.close()

    def _forget(self, tid: int, status: int) -> None:
        """A thread has ended; of the process's first one that is known only when all have."""
        self._drop(tid)
        if tid == self.pid:
            self.exit_code = os.waitstatus_to_exitcode(status)
            self._leave()

    # Beginning and end

    def _seize_child(self, pid: int) -> None:
        """A child of ours, that is not yet the program it will be."""
        calls.seize(pid)
        thread = Thread(pid, pid)
        space = self._new_space(pid)
        space.followed = False
        self._add(thread, space)

    def _seize_all(self, pid: int) -> None:
        """All threads of a process, those included that start meanwhile."""
        try:
            space = self._new_space(pid)
            while new := [tid for tid in maps.threads(pid) if tid not in self._threads]:
                for tid in new:
                    with suppress(Gone):
                        calls.seize(tid)
                        self._add(Thread(tid, pid), space)
                        self._halt(self._threads[tid])
        except OSError as error:
            raise process.refused(pid, error) from error
        if not self._threads:
            raise MmiotapError(f"process {pid} has just ended")
        self._following.take_over_all(space)

    def _leave(self) -> None:
        """Disarm everything, take away what we have mapped, and let all threads run on alone."""
        if self._leaving:
            return
        self._leaving = True
        self.left_behind = sorted({thread.pid for thread in self._threads.values()} - {self.pid})
        for space in set(self._spaces.values()):
            with suppress(Gone, OSError):
                for thread in list(space.threads.values()):
                    if not thread.stopped:
                        self._halt(thread)
                self._make_usable(space)
                self._leave_space(space)
        for thread in self._threads.values():
            with suppress(Gone, OSError):
                thread.detach()
        for space in set(self._spaces.values()):
            space.close()
        self._threads.clear()
        self._spaces.clear()

    def _make_usable(self, space: Space) -> None:
        """If all threads are on their way into system calls, have one come out again."""
        threads = list(space.threads.values())
        if not any(thread.usable for thread in threads):
            calls.interrupt(threads[0].tid)
            threads[0].go_on()
            threads[0].stop(threads[0].wait())
            threads[0].usable = True

    def _leave_space(self, space: Space) -> None:
        for thread in space.threads.values():
            fault = thread.signal
            if fault and _may_be_ours(fault) and space.regions.at(fault.address):
                thread.signal = None  # it tries again, and nothing is armed then
        with space.pages.together():
            for probe in space.registry.probes:
                space.registry.release(probe)
        space.leave()

    # Probes

    def _place(self, placed: Placed) -> None:
        self._placed.append(placed)
        try:
            for space in set(self._spaces.values()):
                if space.followed:
                    self._following.take_over_all(space)
                    self.place_in(space, placed)
            if isinstance(placed.place, AtAddress) and self._spaces and not placed.probes:
                raise MmiotapError(f"nothing is mapped at {placed.place.start:#x} that could be probed")
        except BaseException:
            self._displace(placed)
            raise

    def place_in(self, space: Space, placed: Placed) -> None:
        """Probes of a place where it is in an address space, and is not probed yet."""
        for part in space.regions:
            place = placed.place
            start = place.address(part.mapping) if isinstance(place, InMapping) else place.start
            if start is None:
                continue
            first, end = max(start, part.start), min(start + placed.place.length, part.end)
            mine = [probe for where, probe in placed.probes if where is space]
            if first < end and not any(probe.start <= first < probe.end for probe in mine):
                self.register(space, Probe(first, end - first, placed.pre, placed.post, placed.hook), placed)

    def register(self, space: Space, probe: Probe, placed: Placed | None = None) -> None:
        """Arm a probe, or keep it until recording is enabled."""
        if self._enabled:
            with space.pages.together():
                space.registry.register(probe)
        else:
            space.waiting.append(probe)
        if placed:
            placed.probes.append((space, probe))

    def release(self, space: Space, probe: Probe) -> None:
        """Disarm a probe; nothing is served by anybody else, so there is nobody to wait for."""
        if probe in space.waiting:
            space.waiting.remove(probe)
        else:
            with space.pages.together():
                space.registry.release(probe)

    def _displace(self, placed: Placed) -> None:
        if placed in self._placed:
            self._placed.remove(placed)
        for space, probe in placed.probes:
            self.release(space, probe)
        placed.probes.clear()

    def cut(self, space: Space, start: int, end: int) -> None:
        """These addresses are not what they were: no probe covers them any more."""
        for probe in [*space.registry.probes, *space.waiting]:
            if probe.start < end and probe.end > start:
                self.release(space, probe)
                owner = next((placed for placed in self._placed if (space, probe) in placed.probes), None)
                if owner:
                    owner.probes.remove((space, probe))
                for first, last in ((probe.start, min(start, probe.end)), (max(end, probe.start), probe.end)):
                    if first < last:
                        rest = Probe(first, last - first, probe.pre, probe.post, probe.hook)
                        self.register(space, rest, owner)

    def _enable(self, enabled: bool) -> None:
        self._enabled = enabled
        for space in set(self._spaces.values()):
            with space.pages.together():
                if enabled:
                    waiting, space.waiting = space.waiting, []
                    for probe in waiting:
                        space.registry.register(probe)
                else:
                    space.waiting = list(space.registry.probes)
                    for probe in space.waiting:
                        space.registry.release(probe)

    @property
    def needs_aliases(self) -> bool:
        """Whether the way would be another one without."""
        return not self._way.opens

    def next_map_id(self) -> int:
        """Ids start at 1 and are never used again."""
        self._map_ids += 1
        return self._map_ids

    def wanted(self, space: Space, part: Part) -> tuple[bool, list[Placed]]:
        """Whether a mapping is to be recorded, and the places that are in it."""
        recorded = any(rule_selects(rule, part.mapping.path) for rule in self.rules)
        return recorded, [placed for placed in self._placed if _reaches(placed.place, part)]


def check_way(way: str) -> None:
    """Raises MmiotapError if this engine cannot go it."""
    if way not in WAYS:
        raise MmiotapError(f"the ptrace engine has no way {way!r}; it has {', '.join(WAYS)}")


class Finished(MmiotapError):  # noqa: N818  (it is no error: processes end)
    """The process has ended, or was left."""


def _may_be_ours(info: SignalInfo) -> bool:
    """A fault on a page that is mapped, and that the thread may not touch: so are armed ones."""
    return info.number == signal.SIGSEGV and info.code in (calls.SEGV_ACCERR, calls.SEGV_PKUERR)


def _reaches(place: Place, part: Part) -> bool:
    if isinstance(place, InMapping):
        return place.address(part.mapping) is not None
    return place.start < part.end and place.start + place.length > part.start
