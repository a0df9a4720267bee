"""The engine from outside against gdb's software watch, which steps through everything, on the same 32 bytes.

And what an access costs: recorded, and with handlers, which are in another process than the tracer.
"""

import statistics
import subprocess
import sys

from benchmarks.programs import TIME_LIMIT, Program, numbers, program
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
            ratios, costs = [], []
            for _ in range(TURNS):
                watched = _watched(outside, work)
                [recorded] = outside.recorded(outside.device, RECORDED, work, options=OUTSIDE)
                ratios.append(watched / recorded)
                costs.append(recorded / 1000)
            ratio = statistics.median(ratios)
            between = "0.1 µs of work each" if work else "nothing between them"
            name = f"from outside / gdb's software watch, events a second, {between}"
            # A loop of bare stores is the best that can happen to who steps through everything: no goal.
            goal = GOAL if work else 0.0
            results.append(Result(name, f"≥ {goal:.0f}" if goal else "", ratio, "", ratio >= goal))
            results.append(Result(f"an access from outside, {between}", "", statistics.median(costs), "µs", True))
        hooked = statistics.median(_hooked(outside) / 1000 for _ in range(TURNS))
        results.append(Result("an access from outside with a pre and a post", "", hooked, "µs", True))
    return results


def _hooked(outside: Program) -> int:
    """The same, of ``mmiotap probe``."""
    script = outside.device.parent / "handlers.py"
    script.write_text("def pre(access):\n    access.value += 1\n\ndef post(access):\n    pass\n")
    probe = [sys.executable, "-m", "mmiotap", "probe", *OUTSIDE, "--at", f"{outside.device}:0+32", "--script"]
    [nanoseconds] = numbers([*probe, str(script), "--", *outside.command(outside.device, RECORDED, 0)])
    return nanoseconds


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
