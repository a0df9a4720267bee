"""``mmiotap report`` of a hundred million events: all that a user waits for, and the memory it takes."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.big import generate
from benchmarks.result import Result

EVENTS = 100_000_000


def run() -> list[Result]:
    """Time, memory, and the size of the file."""
    with tempfile.TemporaryDirectory(prefix="mmiotap-bench-") as folder:
        # MMIOTAP_BIG: a trace of so many events that there is already.
        trace = Path(os.environ.get("MMIOTAP_BIG") or generate(Path(folder) / "t", EVENTS))
        file = Path(folder) / "report.html"
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "mmiotap", "report", str(trace), "-o", str(file)])
        _, status, used = os.wait4(process.pid, 0)
        took = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        size = file.stat().st_size / 1e6
    memory = used.ru_maxrss / 2**20
    name = "report, 100 million events"
    return [
        Result(name, "≤ 30 s", took, "s", took <= 30),
        Result(f"{name}, memory", "≤ 2 GiB", memory, "GiB", memory <= 2),
        Result(f"{name}, the file", "≤ 5 MB", size, "MB", size <= 5),
    ]
