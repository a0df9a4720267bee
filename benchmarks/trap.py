"""A trapped access against the least that a trap can cost, and how it scales over two cores."""

import statistics

from benchmarks.programs import Program, program
from benchmarks.result import Result

TRAP_GOAL = 1.3
SCALING_GOAL = 1.8
ACCESSES = 200_000
ROUNDS = 9


def run() -> list[Result]:
    """Medians over rounds in which everything takes its turn, for the machine's speed changes as it likes."""
    with program("trap") as trap:
        rounds = [_round(trap) for _ in range(ROUNDS)]
    ratio = statistics.median(one["mmio", 1] / one["bare", 1] for one in rounds)
    scaling = {kind: statistics.median(2 * one[kind, 1] / one[kind, 2] for one in rounds) for kind in ("mmio", "bare")}
    return [
        Result("a trapped access / a bare SIGSEGV round trip", f"≤ {TRAP_GOAL}", ratio, "", ratio <= TRAP_GOAL),
        Result(
            f"two threads / one, accesses a second (bare SIGSEGV: {scaling['bare']:.2f})",
            f"≥ {SCALING_GOAL}",
            scaling["mmio"],
            "",
            scaling["mmio"] >= SCALING_GOAL,
        ),
    ]


def _round(trap: Program) -> dict[tuple[str, int], int]:
    """Nanoseconds by kind and threads."""
    times = {}
    for threads in (1, 2):
        times["bare", threads] = trap.alone("bare", "-", threads, ACCESSES)
        times["mmio", threads] = trap.recorded("mmio", trap.device, threads, ACCESSES)
    return times
