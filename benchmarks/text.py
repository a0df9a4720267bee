"""Counting accesses by register: ``mmiotap stats`` against what people do with the kernel's text log.

That is a Python program that takes it line by line, and ``grep | awk``. All count reads and writes of each address, and
say the same, which is checked. The seconds are the processors', start and all.
"""

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.big import BAR, generate
from benchmarks.result import Result

EVENTS = 20_000_000

_AWK = 'grep "^[RW] " "$1" | awk \'{ n[$1 " " $5]++ } END { for (i in n) print i, n[i] }\''
_LINES = """
import sys
counts = {}
with open(sys.argv[1]) as log:
    for line in log:
        words = line.split()
        if words[0] in ("R", "W"):
            key = words[0], int(words[4], 16)
            counts[key] = counts.get(key, 0) + 1
for (way, address), count in counts.items():
    print(way, hex(address), count)
"""


def run() -> list[Result]:
    """How much longer each of the others takes."""
    with tempfile.TemporaryDirectory(prefix="mmiotap-bench-") as folder:
        trace, log = generate(Path(folder) / "t", EVENTS), Path(folder) / "log"
        with log.open("wb") as file:
            show = [sys.executable, "-m", "mmiotap", "show", str(trace), "--format", "mmiotrace"]
            subprocess.run(show, check=True, stdout=file, timeout=600)
        ways: dict[str, tuple[list[str], Callable[[str], dict[tuple[str, int], int]]]] = {
            "stats": ([sys.executable, "-m", "mmiotap", "stats", str(trace), "--json"], _of_stats),
            "a Python program, line by line": ([sys.executable, "-c", _LINES, str(log)], _of_lines),
            "grep | awk": (["sh", "-c", _AWK, "sh", str(log)], _of_lines),
        }
        found = {name: _timed(command) for name, (command, _) in ways.items()}
        said = [counts(found[name][1]) for name, (_, counts) in ways.items()]
        assert all(one == said[0] for one in said)
    took = {name: seconds for name, (seconds, _) in found.items()}
    ours = took.pop("stats")
    return [
        Result("stats of 20 million events, processors' time", "", ours, "s", True),
        *(Result(f"{name}, of its text, against that", "", others / ours, "", True) for name, others in took.items()),
    ]


def _timed(command: list[str]) -> tuple[float, str]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, output


def _of_stats(output: str) -> dict[tuple[str, int], int]:
    """Reads and writes of each address on the bus."""
    counts: dict[tuple[str, int], int] = {}
    for one in json.loads(output)["registers"]:
        for way, count in (("R", one["reads"]), ("W", one["writes"])):
            key = way, (BAR.physical or 0) + one["offset"]
            counts[key] = counts.get(key, 0) + count
    return {key: count for key, count in counts.items() if count}


def _of_lines(output: str) -> dict[tuple[str, int], int]:
    lines = (line.split() for line in output.splitlines())
    return {(way, int(address, 16)): int(count) for way, address, count in lines}
