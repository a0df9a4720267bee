"""What kmmio's registry promises, said once more and as simply as possible: by trying every probe and every page.

It is slow, has no locks, and shares no code with the registry. A test does the same to both and compares.
"""

from dataclasses import dataclass, field

PAGE = 4096


@dataclass(eq=False)
class SpecHit:
    """A hit in flight: the probes that have a byte in it, and its pages."""

    probes: list[object]
    pages: set[int]


@dataclass
class Spec:
    """The state of an address space. Probes are anything with ``start`` and ``end``."""

    open_while_hit: bool
    probes: list = field(default_factory=list)  # type: ignore[type-arg]
    hits: dict[int, SpecHit] = field(default_factory=dict)
    graces: list[tuple[set[SpecHit], set[int]]] = field(default_factory=list)
    open: set[int] = field(default_factory=set)

    def touching(self, start: int, end: int) -> list[object]:
        """The probes that have a byte of this range, by address."""
        found = [probe for probe in self.probes if probe.start < end and start < probe.end]
        return sorted(found, key=lambda probe: probe.start)

    def covered(self, page: int) -> bool:
        return bool(self.touching(page, page + PAGE))

    def armed(self, page: int) -> bool:
        return self.covered(page) and page not in self.open

    def known(self, page: int) -> bool:
        """Covered, or released when one of the hits that are in flight already was."""
        in_flight = set(self.hits.values())
        return self.covered(page) or any(page in pages and hits & in_flight for hits, pages in self.graces)

    def register(self, probe: object) -> bool:
        """Whether it is taken."""
        start, end = probe.start, probe.end  # type: ignore[attr-defined]
        if self.touching(start, end):
            return False
        self.probes.append(probe)
        return True

    def register_as_far_as(self, start: int, hole: int) -> None:
        """A probe from ``start`` is not taken, because its page ``hole`` cannot be armed."""
        self.graces.append((set(self.hits.values()), {page for page in pages(start, hole) if not self.covered(page)}))

    def unregister(self, probe: object) -> None:
        self.probes.remove(probe)
        released = {page for page in pages(probe.start, probe.end) if not self.covered(page)}  # type: ignore[attr-defined]
        self.graces.append((set(self.hits.values()), released))
        self.open -= released

    def begin(self, thread: int, address: int, width: int) -> SpecHit | None:
        met = {page for page in pages(address, address + width) if self.known(page)}
        if not met:
            return None
        hit = self.hits[thread] = SpecHit(self.touching(address, address + width), met)
        self._let_through(met)
        return hit

    def again(self, thread: int, address: int) -> list[object] | None:
        """The probes that come with this page; None if the fault is the program's."""
        hit = self.hits[thread]
        [page] = pages(address, address + 1)
        closed_meanwhile = self.open_while_hit and self.armed(page)
        if not self.known(page) or (page in hit.pages and not closed_meanwhile):
            return None
        hit.pages.add(page)
        self._let_through({page})
        more = [probe for probe in self.touching(address, address + 1) if probe not in hit.probes]
        hit.probes += more
        return more

    def end(self, thread: int) -> None:
        self.open -= self.hits.pop(thread).pages

    def fork(self) -> "Spec":
        return Spec(self.open_while_hit, list(self.probes))

    def _let_through(self, met: set[int]) -> None:
        if self.open_while_hit:
            self.open |= {page for page in met if self.covered(page)}


def pages(start: int, end: int) -> set[int]:
    return {byte // PAGE * PAGE for byte in (*range(start, end, PAGE), end - 1) if byte >= start}
