"""Threads that touch one page at the same time, under each of the four ways: what is missed, and what it costs.

``python -m benchmarks.race [THREADS [PART]]`` prints the table of docs/smp.md; with PART, of one PARTth of the touches.
"""

import sys
from dataclasses import dataclass

import mmiotap
from benchmarks.programs import Program, program
from benchmarks.result import Result
from mmiotap.sources import keys

THREADS = 2
LETTERS = {"step": "A", "lock": "B", "private": "C", "emulate": "D"}
#: Touches of each thread, by engine and way: a million, or what the slow ways do in less than a minute.
TOUCHES = {
    ("agent", "step"): 1_000_000,
    ("agent", "lock"): 20_000,
    ("agent", "private"): 1_000_000,
    ("agent", "emulate"): 1_000_000,
    ("ptrace", "step"): 10_000,
    ("ptrace", "lock"): 10_000,
    ("ptrace", "emulate"): 10_000,
}


@dataclass(frozen=True)
class Race:
    """One way, as the program and its trace tell of it."""

    engine: str
    way: str
    made: int  #: accesses, as the program counts them
    recorded: int
    recursive: int | None  #: hits, where there are any and they are counted
    seconds: float

    @property
    def missed(self) -> int:
        return self.made - self.recorded


def race(racer: Program, engine: str, way: str, threads: int, touches: int) -> Race:
    """Run and count. Raises CalledProcessError if a load was wrong."""
    options = ("--engine", engine, "--smp", way, "--buffer", "256M")
    made, _, nanoseconds = racer.recorded(racer.device, threads, touches, options=options)
    trace = mmiotap.open(racer.trace)
    kinds = trace.events(["kind"]).column("kind").to_pylist()
    recorded = sum(kind in ("read", "write") for kind in kinds)
    if trace.lost:
        raise RuntimeError(f"{trace.lost} events were lost: nothing can be said of what was missed")
    return Race(engine, way, made, recorded, trace.info.get("recursive"), nanoseconds / 1e9)


def ways() -> list[tuple[str, str]]:
    """Engines and ways that this machine has."""
    try:
        keys.check()
    except mmiotap.MmiotapError:
        return [(engine, way) for engine, way in TOUCHES if way != "private"]
    return list(TOUCHES)


def run() -> list[Result]:
    with program("race") as racer:
        races = [race(racer, *which, THREADS, TOUCHES[which]) for which in ways()]
    results = []
    for found in races:
        may_miss = found.way == "step"
        share = 100 * found.missed / found.made
        name = f"{found.engine}, {found.way}: missed, of {found.made:,} accesses of {THREADS} threads"
        results.append(Result(name, "" if may_miss else "0", share, "%", may_miss or found.missed == 0))
        results.append(Result("the same: accesses a second", "", found.made / found.seconds, "", True))
    return results


def main(threads: int, part: int) -> None:
    columns = (
        "engine",
        "2008",
        "`--smp`",
        "threads",
        "accesses made",
        "events",
        "missed",
        "recursive",
        "accesses a second",
    )
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    with program("race") as racer:
        for which in ways():
            found = race(racer, *which, threads, TOUCHES[which] * THREADS // threads // part)
            share = f"{found.missed:,}" + (f" ({100 * found.missed / found.made:.1f} %)" if found.missed else "")
            recursive = "" if found.recursive is None else f"{found.recursive:,}"
            rate = f"{float(f'{found.made / found.seconds:.2g}'):,.0f}"
            words = [found.engine, LETTERS[found.way], f"`{found.way}`", threads]
            words += [f"{found.made:,}", f"{found.recorded:,}", share, recursive, rate]
            print(f"| {' | '.join(map(str, words))} |", flush=True)


if __name__ == "__main__":
    threads, part = [*map(int, sys.argv[1:]), *(THREADS, 1)[len(sys.argv) - 1 :]]
    main(threads, part)
