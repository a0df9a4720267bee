"""A patched access against the least that it can cost, against a trap, and against no access at all."""

import statistics

from benchmarks.programs import Program, program
from benchmarks.result import Result

LIMIT_GOAL = 1.5
TRAP_GOAL = 80
KMMIO_GOAL = 500
#: Of loads that hit L1, 4 cycles each: 3 ns at 3.2 GHz.
MEMORY_GOAL = 2.4
WORK_GOAL = 1.05

TURNS = 5
ROUNDS = 6
#: Accesses a round; the buffer has room for those of a round of two threads.
PATCHED, TRAPPED, KMMIO, CHASED, WORKING, CHANGES = 200_000, 20_000, 4_000, 100_000, 10_000, 200
AT_ONCE, OFF, BY_HAND = ("--patch", "1"), ("--patch", "off"), ("--patch", "1000000000")


def run() -> list[Result]:
    """Of each run the fastest round, of those the median. All ways take turns, for the machine's speed changes."""
    with program("patched") as patched:
        turns = [_turn(patched) for _ in range(TURNS)]
    one = {way: statistics.median(min(turn[way]) for turn in turns) for way in turns[0]}
    limit, ticks = one["access"] / one["clock"], one["access"] / one["ticks"]
    trap, kmmio = one["apart"] / one["access"], one["kmmio"] / one["access"]
    memory = (one["chase, patched"] - one["chase"]) / one["chase"]
    work = one["work, traced"] / one["work"]
    scaling = 2 * one["access"] / one["access by two"]
    return [
        Result("a patched access / access, clock, row in C", f"≤ {LIMIT_GOAL}", limit, "", limit <= LIMIT_GOAL),
        Result("the same / access, rdtscp, row in C", "", ticks, "", True),
        Result("a trapped access / a patched one", f"≥ {TRAP_GOAL}", trap, "", trap >= TRAP_GOAL),
        Result("fault, open, step, close / a patched access", f"≥ {KMMIO_GOAL}", kmmio, "", kmmio >= KMMIO_GOAL),
        Result(
            "a patched site on ordinary memory: extra / a load from L1",
            f"≤ {MEMORY_GOAL}",
            memory,
            "",
            memory <= MEMORY_GOAL,
        ),
        Result("one access a microsecond, traced / untraced", f"≤ {WORK_GOAL}", work, "", work <= WORK_GOAL),
        Result("two threads / one, patched accesses a second", "", scaling, "", True),
        *(
            Result(f"patching and unpatching while two threads run, {name}", "", one[name] / 1e6, "µs", True)
            for name in PROTOCOLS
        ),
    ]


PROTOCOLS = ("breakpoint", "stop-machine")


def _turn(patched: Program) -> dict[str, list[int]]:
    """Picoseconds of one access, by the way of it."""
    device, rows = patched.device, patched.device.with_name("rows")
    access = patched.recorded("access", device, ROUNDS, PATCHED, options=AT_ONCE)
    found = {
        "access": access[::2],
        "access by two": access[1::2],
        "clock": patched.alone("clock", device, ROUNDS, PATCHED, rows),
        "ticks": patched.alone("ticks", device, ROUNDS, PATCHED, rows),
        "apart": patched.recorded("apart", device, ROUNDS, TRAPPED, options=OFF),
        "kmmio": patched.alone("kmmio", device, ROUNDS, KMMIO),
        "chase": patched.alone("chase", device, ROUNDS, CHASED),
        "chase, patched": patched.recorded("chase", device, ROUNDS, CHASED, options=AT_ONCE),
        "work": patched.alone("work", device, 2 * ROUNDS, WORKING),
        "work, traced": patched.recorded("work", device, 2 * ROUNDS, WORKING),
    }
    for number, name in enumerate(PROTOCOLS):
        found[name] = patched.recorded("change", device, ROUNDS, CHANGES, number, options=BY_HAND)
    return found
