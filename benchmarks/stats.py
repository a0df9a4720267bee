"""``mmiotap stats`` of a hundred million events: all that a user waits for, and the memory it takes."""

import statistics
import tempfile
from pathlib import Path

from benchmarks.big import hundred_million, measured
from benchmarks.result import Result

ROUNDS = 3


def run() -> list[Result]:
    """Time and memory."""
    with tempfile.TemporaryDirectory(prefix="mmiotap-bench-") as folder:
        trace = hundred_million(Path(folder))
        rounds = [measured("stats", trace) for _ in range(ROUNDS)]
    took, memory = (statistics.median(column) for column in zip(*rounds, strict=True))
    name = "stats, 100 million events"
    return [
        Result(name, "≤ 6 s", took, "s", took <= 6),
        Result(f"{name}, memory", "≤ 2 GiB", memory, "GiB", memory <= 2),
    ]
