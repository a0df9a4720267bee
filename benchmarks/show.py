"""``mmiotap show`` with a narrow filter, on a hundred million events: all that a user waits for."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.big import generate
from benchmarks.result import Result

EVENTS = 100_000_000
ROUNDS = 5
#: A place that no driver touched, and a moment.
FILTERS = {"a rare offset": "offset == 0x9999", "a moment": "time in 5000..5000.01"}


def run() -> list[Result]:
    """One goal for each kind of narrow filter."""
    # MMIOTAP_BIG: a trace of so many events that there is already.
    with tempfile.TemporaryDirectory(prefix="mmiotap-bench-") as folder:
        trace = Path(os.environ.get("MMIOTAP_BIG") or generate(Path(folder) / "t", EVENTS))
        found = {
            name: statistics.median(_seconds(trace, text) for _ in range(ROUNDS)) for name, text in FILTERS.items()
        }
    return [Result(f"show, 100 million events, {name}", "≤ 1 s", took, "s", took <= 1) for name, took in found.items()]


def _seconds(trace: Path, text: str) -> float:
    began = time.perf_counter()
    command = [sys.executable, "-m", "mmiotap", "show", str(trace), "--filter", text]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=300)
    return time.perf_counter() - began
