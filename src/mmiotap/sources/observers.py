"""Who looks at a recording while it is made: probes that observe, and whoever wants whole batches of events.

They read the rows that the program writes anyway, so it does not wait for them, unless they fall behind by the whole
buffer. All run in the thread that seals.
"""

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from mmiotap.kmmio import handlers
from mmiotap.kmmio.access import Access, Phase
from mmiotap.kmmio.place import Place
from mmiotap.kmmio.probe import Handler, Probe
from mmiotap.trace import layout
from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.model import Mapping, Module, Process

if TYPE_CHECKING:
    import pyarrow as pa

    from mmiotap.trace.arena import Chunk

#: Kinds of events that are the program's accesses.
ACCESSES = ("read", "write", "unknown")

#: Gets events, with the columns of docs/architecture.md.
Watcher = Callable[["pa.Table"], None]


class Names(Protocol):
    """Names instruction addresses of processes."""

    def __call__(self, pid: int, pc: int, /) -> str: ...

    def learn(self, modules: Iterable[Module], processes: Iterable[Process], /) -> None:
        """These are, or were, there."""


class Observers:
    """They get every access of a recording once: a thread's rows in their order, those of several threads nearly so.

    ``report`` is called with a line for each handler that raises; the others go on.
    """

    def __init__(self, report: Callable[[str], None], names: Names) -> None:
        self._report = report
        self._names = names
        self._lock = threading.RLock()  # held while they are told, so that who was removed is not running any more
        self._told: dict[int, int] = {}  # how far each stream was told of
        self._watchers: dict[object, tuple[Sequence[Place], Watcher]] = {}
        #: What is known by now of the processes that are recorded.
        self.mappings: dict[int, Mapping] = {}
        self.modules: list[Module] = []
        self.processes: list[Process] = []

    def watch(self, places: Sequence[Place], watcher: Watcher) -> object:
        """Have this called for what happens from now on: accesses to these places, in batches. Returns its key."""
        return self._add(object(), places, watcher)

    def probe(self, place: Place, probe: Probe) -> object:
        """Have the handler ``post`` called for each access to a place. Returns its key."""
        check_observer(probe.pre)
        key = object()

        def each(events: "pa.Table") -> None:
            for access in _accesses(events, self.mappings, self._names):
                if key in self._watchers:
                    handlers.run([probe], access, self._report)

        return self._add(key, [place], each)

    def remove(self, key: object) -> None:
        """When this returns it is not called any more. (By itself: after this call.)"""
        with self._lock:
            del self._watchers[key]

    def look(self, chunks: "Sequence[Chunk]") -> None:
        """Tell them what is new in a snapshot of the arena. Never raises, whatever they do."""
        from mmiotap.trace import rows

        for part in rows.in_parts(rows.unsealed(chunks, self._told)):
            found = rows.convert(part, self.mappings, rows.Scratch())
            self._told.update(rows.sealed_by(part))
            self.modules += found.modules
            self.processes += found.processes
            if found.modules or found.processes:
                self._names.learn(found.modules, found.processes)
            with self._lock:
                for key, (places, watcher) in tuple(self._watchers.items()):
                    if key in self._watchers:
                        self._tell(places, watcher, found.events)

    def _add(self, key: object, places: Sequence[Place], watcher: Watcher) -> object:
        with self._lock:
            self._watchers[key] = places, watcher
        return key

    def _tell(self, places: Sequence[Place], watcher: Watcher, events: "pa.Table") -> None:
        try:
            chosen = _at(places, events, self.mappings)
            if chosen.num_rows:
                watcher(chosen)
        except Exception as error:
            self._report(f"an observer failed: {handlers.what_and_where(error)}")


def check_observer(pre: Handler | None) -> None:
    """Raises MmiotapError if a probe that observes has a ``pre``."""
    if pre:
        raise MmiotapError("a probe that observes sees accesses when they are over: it has a post, and no pre")


def _at(places: Sequence[Place], events: "pa.Table", mappings: dict[int, Mapping]) -> "pa.Table":
    """The accesses that have a byte in one of these places."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    events = events.filter(pc.field("kind").isin(ACCESSES))
    map_ids = events["map_id"].to_numpy()
    offsets = events["offset"].to_numpy()
    ends = offsets + np.maximum(events["width"].to_numpy(), 1)  # of some instructions no width is known
    chosen = np.zeros(events.num_rows, np.bool_)
    for mapping, place in itertools.product(mappings.values(), places):
        if span := place.span(mapping):
            first, behind = span.start - mapping.address, span.stop - mapping.address
            chosen |= (map_ids == mapping.map_id) & (offsets < behind) & (ends > first)
    return events.filter(pa.array(chosen))


def _accesses(events: "pa.Table", mappings: dict[int, Mapping], name_of: Callable[[int, int], str]) -> Iterator[Access]:
    names = ("kind", "map_id", "offset", "width", "value", "data", "pc", "pid", "tid", "time_ns", "flags")
    columns = [events[name].to_pylist() for name in names]
    for kind, map_id, offset, width, value, data, pc, pid, tid, time_ns, flags in zip(*columns, strict=True):
        mapping = mappings[map_id]
        if flags & layout.VALUE_UNKNOWN or kind == "unknown":
            value = None
        elif data is not None:
            value = int.from_bytes(data, "little")
        yield Access(
            kind, mapping.address + offset, offset, width, value, pc, pid, tid, time_ns, map_id, mapping.path, flags,
            Phase.OVER, None, name_of,
        )  # fmt: skip
