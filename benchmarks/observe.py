"""What observers cost: a program whose every access is told to a handler in batches, against it being recorded."""

import statistics
import time

import pyarrow as pa

import mmiotap
from benchmarks.programs import Program, program
from benchmarks.result import Result

GOAL = 0.9
TURNS = 5
ROUNDS, ACCESSES = 4, 1_000_000


def run() -> list[Result]:
    """Whole runs, ends included, for both have to keep up with the program."""
    with program("patched") as patched:
        ratio = statistics.median(_recorded(patched) / _observed(patched) for _ in range(TURNS))
    return [Result("observing in batches / recording, speed", f"≥ {GOAL}", ratio, "", ratio >= GOAL)]


def _recorded(patched: Program) -> float:
    """Seconds."""
    began = time.perf_counter()
    mmiotap.record(_command(patched), maps=[str(patched.device)], path=patched.trace, force=True)
    return time.perf_counter() - began


def _observed(patched: Program) -> float:
    seen = 0

    def count(events: pa.Table) -> None:
        nonlocal seen
        seen += events.num_rows

    began = time.perf_counter()
    with mmiotap.launch(_command(patched)) as target:
        target.watch(f"{patched.device}:0+0x1000", count)
        target.wait()
    seconds = time.perf_counter() - began
    assert seen >= ROUNDS * ACCESSES, f"only {seen} accesses were told"
    return seconds


def _command(patched: Program) -> list[str]:
    """Its output is not wanted."""
    return ["sh", "-c", 'exec "$@" >/dev/null', "sh", *patched.command("access", patched.device, ROUNDS, ACCESSES)]
