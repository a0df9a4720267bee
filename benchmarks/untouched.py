"""Code that touches no device, traced against untraced."""

import statistics

from benchmarks.programs import program
from benchmarks.result import Result

GOAL = 1.01
ROUNDS = 15


def run() -> list[Result]:
    """Each run reports its fastest round; the two ways take turns."""
    with program("untouched") as untouched:
        pairs = [(untouched.recorded(untouched.device), untouched.alone(untouched.device)) for _ in range(ROUNDS)]
    ratio = statistics.median(traced for traced, _ in pairs) / statistics.median(alone for _, alone in pairs)
    return [Result("code that touches no device, traced / untraced", f"≤ {GOAL}", ratio, "", ratio <= GOAL)]
