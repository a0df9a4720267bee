"""A probe: a range of addresses, and what is to happen when the program touches it."""

from collections.abc import Callable
from dataclasses import dataclass

from mmiotap.kmmio.access import Access
from mmiotap.trace.errors import MmiotapError

Handler = Callable[[Access], None]

#: Addresses are 64 bits wide.
SPACE = 1 << 64


class ProbeExists(MmiotapError):  # noqa: N818  (the seed's -EEXIST, as Python's own FileExistsError is)
    """Some address of a new probe is covered by another one."""


@dataclass(eq=False)
class Probe:
    """Addresses from ``start``, ``length`` bytes, page-aligned or not. Two probes are never equal, whatever they cover.

    A ``hook`` runs its handlers while the program waits, so they may answer the access; the others observe: their
    handlers get every access in its order, some time after it.
    """

    start: int
    length: int
    pre: Callable[[Access], None] | None = None
    post: Callable[[Access], None] | None = None
    hook: bool = True

    def __post_init__(self) -> None:
        if self.length < 1 or self.start < 0 or self.end > SPACE:
            raise MmiotapError(f"{self}: a probe covers at least one byte, all of them between 0 and 2**64")

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.start + self.length

    def __str__(self) -> str:
        return f"{self.start:#x}+{self.length:#x}"
