"""What a benchmark found."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """One goal and how it went."""

    name: str
    goal: str  #: as a reader should see it, such as "≤ 1.5"; "": there is none
    measured: float  #: median
    unit: str  #: "" for a ratio
    met: bool
