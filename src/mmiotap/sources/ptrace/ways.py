"""The four ways to let an access through while no other goes unseen: the 2008 thread's A to D.

* ``step`` (A): open the page for all, run the instruction, close. What others do in that moment is not seen.
* ``lock`` (B): the same, and the other threads are stopped for that long.
* ``private`` (C): open the page for this thread only, by a protection key.
* ``emulate`` (D): leave the page closed, and run the instruction on another mapping of the same file, the alias. Where
  there is none, or the instruction cannot be moved there, ``lock`` is the way.

Each is a context: inside, the device is reachable so many bytes further than the program's addresses.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from mmiotap.kmmio.registry import Hit
from mmiotap.sources.ptrace.access import Making
from mmiotap.sources.ptrace.space import Space
from mmiotap.sources.ptrace.thread import Thread

WAYS = ("emulate", "step", "lock")


class Holding(Protocol):
    """Who can stop the other threads."""

    def hold_others(self, space: Space, thread: Thread) -> None:
        """Stop them; they go on after this access."""


class Way:
    """A way by its name. ``opens``: the registry opens the pages of a hit, and arms them again when it ends."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.opens = name != "emulate"

    def prepare(self, holder: Holding, space: Space, thread: Thread) -> None:
        """Before the registry is told of a hit, and so opens its pages."""
        if self.name == "lock":
            holder.hold_others(space, thread)

    @contextmanager
    def reach(self, holder: Holding, space: Space, hit: Hit, making: Making) -> Iterator[tuple[Sequence[int], bool]]:
        """The distances, one for each of its targets, and whether the page is open."""
        if self.opens:
            yield [0] * len(making.targets), True
        elif making.movable and all(target.part.alias is not None for target in making.targets):
            yield [target.part.delta for target in making.targets], False
        else:
            holder.hold_others(space, making.thread)
            with space.opened(hit.pages):
                yield [0] * len(making.targets), True
