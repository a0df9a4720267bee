"""Code that touches no device, traced against untraced."""

import statistics

from benchmarks.programs import program
from benchmarks.result import Result

GOAL = 1.01
ROUNDS = 15


def run() -> list[Result]:
    """Each run reports its fastest round; the two ways take turns."""
    with program("untouched") as untouched:
        traced, alone = [], []
        for _ in range(ROUNDS):
            traced += untouched.recorded(untouched.device)
            alone += untouched.alone(untouched.device)
    ratio = statistics.median(traced) / statistics.median(alone)
    return [Result("code that touches no device, traced / untraced", f"≤ {GOAL}", ratio, "", ratio <= GOAL)]
