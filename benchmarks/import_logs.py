"""Importing text logs: lines a second of one core's time. The logs are the recorded e1000's, over and over."""

import io
import lzma
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from benchmarks.result import Result
from mmiotap.formats import mmiotrace, qemu

DATA = Path(__file__).parents[1] / "tests" / "data"
GOAL = 1_000_000
LINES = 2_000_000
ROUNDS = 3
#: What stands in front of each line, as QEMU's version and options have it: of a time in microseconds.
PREFIXES: dict[str, Callable[[int], bytes]] = {
    "QEMU's log": lambda us: b"",
    "QEMU's log with times": lambda us: b"4711@%d.%06d:" % (1_795_275_381 + us // 10**6, us % 10**6),
    "QEMU's log with dates": lambda us: (
        b"2026-11-21T15:36:%02d.%06dZ qemu-system-x86_64: (4711:CPU 0/TCG): " % (us // 10**6 % 60, us % 10**6)
    ),
}


def run() -> list[Result]:
    """Medians of some rounds, on one core, whose time counts, and not that of others who run on it.

    The rounds of all logs take turns, so what disturbs one disturbs all.
    """
    once = _log("qemu-e1000.log.xz")
    logs: dict[str, tuple[Callable[[BinaryIO, str, Path], object], bytes]] = {
        "mmiotrace text": (mmiotrace.import_log, _repeated(_log("mmiotrace-e1000.log.xz")))
    }
    for name, prefix in PREFIXES.items():
        lines = _repeated(once).splitlines(keepends=True)
        logs[name] = qemu.import_log, b"".join(prefix(10 * us) + line for us, line in enumerate(lines))
    rates: dict[str, list[float]] = {name: [] for name in logs}
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        for _ in range(ROUNDS):
            for name, (import_log, log) in logs.items():
                with tempfile.TemporaryDirectory() as folder:
                    start = time.process_time()
                    import_log(io.BytesIO(log), "log", Path(folder) / "trace")
                    rates[name].append(log.count(b"\n") / (time.process_time() - start))
    finally:
        os.sched_setaffinity(0, cores)
    medians = {name: statistics.median(found) for name, found in rates.items()}
    return [
        Result(f"importing {name}, lines a second of a core", f"≥ {GOAL}", rate, "", rate >= GOAL)
        for name, rate in medians.items()
    ]


def _log(name: str) -> bytes:
    return lzma.decompress((DATA / name).read_bytes())


def _repeated(log: bytes) -> bytes:
    return log * (LINES // log.count(b"\n"))
