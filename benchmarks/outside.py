"""The engine from outside against gdb's software watch, which steps through everything, on the same 32 bytes."""

import statistics
import subprocess

from benchmarks.programs import TIME_LIMIT, Program, program
from benchmarks.result import Result

GOAL = 20.0
#: gdb gets fewer: it takes a fraction of a second each.
WATCHED, RECORDED = 20, 3000
#: Turns of work between two accesses: none, and a tenth of a microsecond of it.
WORK = (0, 50)
TURNS = 3
OUTSIDE = ("--engine", "ptrace")
GDB = (
    "set can-use-hw-watchpoints 0",
    "set confirm off",
    "break begin",
    "run",
    "watch -l *(char (*)[32]) $rdi",
    "commands 2\nsilent\ncontinue\nend",
    "continue",
)


def run() -> list[Result]:
    """Medians of turns."""
    results = []
    with program("outside") as outside:
        for work in WORK:
            ratios = []
            for _ in range(TURNS):
                watched = _watched(outside, work)
                [recorded] = outside.recorded(outside.device, RECORDED, work, options=OUTSIDE)
                ratios.append(watched / recorded)
            ratio = statistics.median(ratios)
            between = "0.1 µs of work each" if work else "nothing between them"
            name = f"from outside / gdb's software watch, events a second, {between}"
            # A loop of bare stores is the best that can happen to who steps through everything: no goal.
            goal = GOAL if work else 0.0
            results.append(Result(name, f"≥ {goal:.0f}" if goal else "", ratio, "", ratio >= goal))
    return results


def _watched(outside: Program, work: int) -> int:
    """Nanoseconds an access, as the program itself prints them."""
    script = outside.device.parent / "watch.gdb"
    script.write_text("\n".join(GDB))
    command = ["gdb", "-q", "-nx", "-batch", "-x", str(script), "--args"]
    result = subprocess.run(
        [*command, *outside.command(outside.device, WATCHED, work)],
        check=True,
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
    )
    [nanoseconds] = [line for line in result.stdout.splitlines() if line.isdecimal()]
    return int(nanoseconds)
