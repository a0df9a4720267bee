"""What it costs to start: of recording a program that does nothing, and of asking for help."""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.result import Result

RECORD_GOAL = 0.25
HELP_GOAL = 0.12
ROUNDS = 15


def run() -> list[Result]:
    """Medians, in seconds."""
    installed = Path(sys.executable).with_name("mmiotap")
    mmiotap = [str(installed)] if installed.exists() else [sys.executable, "-m", "mmiotap"]
    with tempfile.TemporaryDirectory(prefix="mmiotap-bench-") as folder:
        record = [*mmiotap, "record", "-q", "-f", "-o", f"{folder}/trace", "--", "true"]
        extra = statistics.median(_seconds(record) - _seconds(["true"]) for _ in range(ROUNDS))
    asking = statistics.median(_seconds([*mmiotap, "--help"]) for _ in range(ROUNDS))
    return [
        Result("mmiotap record -- true, over true", f"≤ {RECORD_GOAL} s", extra, "s", extra <= RECORD_GOAL),
        Result("mmiotap --help", f"≤ {HELP_GOAL} s", asking, "s", asking <= HELP_GOAL),
    ]


def _seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return time.perf_counter() - start
