"""``mmiotap report`` of a hundred million events: all that a user waits for, and the memory it takes."""

import tempfile
from pathlib import Path

from benchmarks.big import hundred_million, measured
from benchmarks.result import Result


def run() -> list[Result]:
    """Time, memory, and the size of the file."""
    with tempfile.TemporaryDirectory(prefix="mmiotap-bench-") as folder:
        file = Path(folder) / "report.html"
        took, memory = measured("report", hundred_million(Path(folder)), "-o", file)
        size = file.stat().st_size / 1e6
    name = "report, 100 million events"
    return [
        Result(name, "≤ 30 s", took, "s", took <= 30),
        Result(f"{name}, memory", "≤ 2 GiB", memory, "GiB", memory <= 2),
        Result(f"{name}, the file", "≤ 5 MB", size, "MB", size <= 5),
    ]
