"""``mmiotap show`` with a narrow filter, on a hundred million events: all that a user waits for, and the memory."""

import statistics
import tempfile
from pathlib import Path

from benchmarks.big import hundred_million, measured
from benchmarks.result import Result

ROUNDS = 5
#: Places that no driver touched, a moment, and what is rare.
FILTERS = {
    "a moment": ["--filter", "time in 5000..5000.01"],
    "a moment, an option": ["--time", "5000..5000.01"],
    "a register at a moment": ["--filter", 'reg == "CTRL" and time in 5000..5000.1'],
    "a rare offset": ["--filter", "offset == 0x9999"],
    "a rare offset, an option": ["--offset", "0x9999"],
    "a rare value": ["--filter", "value in 0x12345000..0x12345fff"],
    "another mapping": ["--filter", "map == 7"],
    "another process": ["--filter", "pid == 5"],
}


def run() -> list[Result]:
    """One goal for each kind of narrow filter, and one for the memory of all."""
    with tempfile.TemporaryDirectory(prefix="mmiotap-bench-") as folder:
        trace = hundred_million(Path(folder))
        found = {name: [measured("show", trace, *words) for _ in range(ROUNDS)] for name, words in FILTERS.items()}
    results = []
    for name, rounds in found.items():
        took = statistics.median(seconds for seconds, _ in rounds)
        results.append(Result(f"show, 100 million events, {name}", "≤ 1 s", took, "s", took <= 1))
    memory = max(most for rounds in found.values() for _, most in rounds)
    return [*results, Result("show, memory for these", "≤ 2 GiB", memory, "GiB", memory <= 2)]
