"""An access that a Python handler answers, against a round trip over a Unix socket between two Python processes."""

import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.programs import TIME_LIMIT, Program, program
from benchmarks.result import Result
from mmiotap.kmmio.access import Access
from mmiotap.kmmio.place import InMapping
from mmiotap.kmmio.probe import Probe
from mmiotap.sources import agent
from mmiotap.sources.hooks import Hooks

GOAL = 5
TURNS = 5
ROUNDS, ACCESSES, TRIPS = 3, 5_000, 5_000

#: Answers each request with the value of a register, as the simplest device on a socket would.
DEVICE = """
import socket, sys
connection = socket.socket(fileno=int(sys.argv[1]))
while request := connection.recv(64):
    connection.send(b"\\1\\0\\0\\0" if request[0] == 4 else request[:4])
"""
#: What a handler is told of an access, at the least: where, how wide, what.
REQUEST = bytes([4, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])


def run() -> list[Result]:
    """Medians; both take turns, for the machine's speed changes, and so do ratios."""
    with program("hooks") as hooks:
        turns = [(_socket(), _hooked(hooks, "apart"), _hooked(hooks, "loop")) for _ in range(TURNS)]
    trip, apart, loop = (statistics.median(times) for times in zip(*turns, strict=True))
    ratio = statistics.median(trip / apart for trip, apart, _ in turns)
    following = statistics.median(trip / loop for trip, _, loop in turns)
    return [
        Result("a Unix-socket round trip / a hooked access", f"≥ {GOAL}", ratio, "", ratio >= GOAL),
        Result("the same / a hooked access in a loop of accesses", "", following, "", True),
        Result("a Unix-socket round trip", "", trip / 1000, "µs", True),
        Result("a hooked access", "", apart / 1000, "µs", True),
        Result("a hooked access in a loop of accesses", "", loop / 1000, "µs", True),
    ]


def _hooked(hooks: Program, way: str) -> float:
    """Nanoseconds."""

    def pre(access: Access) -> None:
        if access.offset == 4:
            access.answer(1)

    hooked = Hooks()
    hooked.add(InMapping(str(hooks.device), 0, 4096), Probe(0, 4096, pre))
    out = hooks.device.with_name("times")
    command = ["sh", "-c", 'exec "$@" >"$0"', str(out), *hooks.command(way, hooks.device, ROUNDS, ACCESSES)]
    result = agent.record(command, maps=[str(hooks.device)], path=Path(hooks.trace), force=True, hooks=hooked)
    assert result.status == 0
    assert hooked.counts.asked == (ROUNDS + 1) * ACCESSES
    return statistics.median(map(int, out.read_text().split()))


def _socket() -> float:
    """Nanoseconds."""
    ours, theirs = socket.socketpair()
    device = subprocess.Popen([sys.executable, "-c", DEVICE, str(theirs.fileno())], pass_fds=[theirs.fileno()])
    theirs.close()
    times = []
    with ours:
        for _ in range(ROUNDS + 1):
            began = time.perf_counter_ns()
            for _ in range(TRIPS):
                ours.send(REQUEST)
                ours.recv(64)
            times.append((time.perf_counter_ns() - began) / TRIPS)
    device.wait(TIME_LIMIT)
    return statistics.median(times[1:])
