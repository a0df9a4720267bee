"""Importing mmiotrace text: lines a second on one core. The log is the recorded e1000's, over and over."""

import io
import lzma
import os
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.result import Result
from mmiotap.formats.mmiotrace import import_log

LOG = Path(__file__).parents[1] / "tests" / "data" / "mmiotrace-e1000.log.xz"
GOAL = 1_000_000
LINES = 2_000_000
ROUNDS = 3


def run() -> list[Result]:
    """Median of some rounds, on one core."""
    once = lzma.decompress(LOG.read_bytes())
    log = once * (LINES // once.count(b"\n"))
    lines = log.count(b"\n")
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        with tempfile.TemporaryDirectory() as folder:
            rates = [lines / _seconds(log, Path(folder) / "trace") for _ in range(ROUNDS)]
    finally:
        os.sched_setaffinity(0, cores)
    rate = statistics.median(rates)
    return [Result("importing mmiotrace text, lines a second", f"≥ {GOAL}", rate, "", rate >= GOAL)]


def _seconds(log: bytes, trace: Path) -> float:
    start = time.perf_counter()
    import_log(io.BytesIO(log), "log", trace, force=True)
    return time.perf_counter() - start
