"""A trapped access against the least that a trap can cost, and how it scales over two cores."""

import statistics

from benchmarks.programs import program
from benchmarks.result import Result

TRAP_GOAL = 1.3
SCALING_GOAL = 1.8
ACCESSES = 60_000
#: Patched ones are that much quicker.
PATCHED = 250_000
#: Rounds of four additions that take about as long.
PLAIN = 15_000_000
ROUNDS = 8
TURNS = 5
#: What two processors give differs from one second to the next, where they are threads of a host: more turns for that.
SCALING_TURNS = 15
TRAPPED = ("--patch", "off")


def run() -> list[Result]:
    """Medians. The programs take turns, and in them the numbers of threads, for the machine's speed changes."""
    with program("trap") as trap:
        bare, mmio, loop, usual, plain = [], [], [], [], []
        for turn in range(SCALING_TURNS):
            usual += _pairs(trap.recorded("loop", trap.device, ROUNDS, PATCHED))
            plain += _pairs(trap.alone("plain", trap.device, ROUNDS, PLAIN))
            if turn >= TURNS:
                continue
            bare += _pairs(trap.alone("bare", "-", ROUNDS, ACCESSES))
            mmio += _pairs(trap.recorded("mmio", trap.device, ROUNDS, ACCESSES, options=TRAPPED))
            loop += _pairs(trap.recorded("loop", trap.device, ROUNDS, ACCESSES, options=TRAPPED))
    trap_alone = statistics.median(one for one, _ in bare)
    ratio = statistics.median(one for one, _ in mmio) / trap_alone
    following = statistics.median(one for one, _ in loop) / trap_alone
    scaling = _scaling(usual)
    return [
        Result("a trapped access / a bare SIGSEGV round trip", f"≤ {TRAP_GOAL}", ratio, "", ratio <= TRAP_GOAL),
        Result("an access in a loop of accesses / the same", "", following, "", True),
        Result("two threads / one, accesses a second", f"≥ {SCALING_GOAL}", scaling, "", scaling >= SCALING_GOAL),
        Result("the same with --patch off", "", _scaling(loop), "", True),
        Result("the same if each access traps", "", _scaling(mmio), "", True),
        Result("the same of bare SIGSEGV round trips", "", _scaling(bare), "", True),
        Result("the same of additions, nothing recorded", "", _scaling(plain), "", True),
    ]


def _pairs(numbers: list[int]) -> list[tuple[int, int]]:
    """Nanoseconds of one thread, and right after it of two that make twice the accesses."""
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _scaling(pairs: list[tuple[int, int]]) -> float:
    """Of each pair by itself: from one to the next the machine may have become twice as fast."""
    return statistics.median(2 * one / two for one, two in pairs)
