"""A driver's loop under mmiotap and under others: Frida (PyPI: frida) and valgrind's lackey (Debian: valgrind).

What they miss. Frida's Stalker: values (they would have to be read again), and code that was running before it came;
that it looks at the program's own code only, and knows the mapping, is for its speed, and told to it here. Frida's
MemoryAccessMonitor: all but the first access to a page. lackey: values, times and threads; it prints every instruction
and every access that there is.
"""

import contextlib
import importlib
import importlib.util
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.programs import HERE, TIME_LIMIT, Program, program
from benchmarks.result import Result

ROUNDS, TURNS = 4, 3
#: Rounds that the program makes and does not print.
UNPRINTED = 2


@dataclass(frozen=True)
class Loop:
    """A way of benchmarks/patched.c, and the accesses of a round: so many that it takes a millisecond at least."""

    way: str
    words: str
    alone: int
    watched: int
    under_lackey: int


LOOPS = [
    Loop("work", "one access a microsecond", 50_000, 50_000, 200),
    Loop("apart", "accesses back to back", 2_000_000, 50_000, 5_000),
]


def run() -> list[Result]:
    with program("patched") as patched:
        return [result for loop in LOOPS for result in _results(patched, loop)]


def _results(patched: Program, loop: Loop) -> list[Result]:
    """Everything by the same loop alone. Of each run the fastest round, of those the median; all take turns."""
    times: dict[str, list[int]] = defaultdict(list)
    seen: dict[str, list[float]] = defaultdict(list)
    alone, watched = ((loop.way, patched.device, ROUNDS, count) for count in (loop.alone, loop.watched))
    frida = {
        "Frida's Stalker": ("stalker.js", "qjs", watched),
        # In the other runtime it hangs (Frida 17.25).
        "Frida's MemoryAccessMonitor": ("monitor.js", "v8", alone),
    }
    for turn in range(TURNS):
        times["alone"].append(min(patched.alone(*alone)))
        times["mmiotap"].append(min(patched.recorded(*watched)))
        times["mmiotap --patch off"].append(min(patched.recorded(*watched, options=("--patch", "off"))))
        if importlib.util.find_spec("frida"):
            for name, (script, runtime, arguments) in frida.items():
                numbers, accesses = _under_frida(script, runtime, patched.command(*arguments))
                times[name].append(min(numbers))
                seen[name].append(100 * accesses / ((ROUNDS + UNPRINTED) * arguments[3]))
        elif turn == 0:
            print("others: no Frida here (pip install frida)", file=sys.stderr)
        if shutil.which("valgrind"):
            command = patched.command(loop.way, patched.device, ROUNDS, loop.under_lackey)
            times["valgrind's lackey"].append(min(_under_lackey(command)))
        elif turn == 0:
            print("others: no valgrind here (apt install valgrind)", file=sys.stderr)
    by_itself = statistics.median(times.pop("alone"))
    ratios = {name: statistics.median(numbers) / by_itself for name, numbers in times.items()}
    return [
        *(Result(f"{loop.words}, {name} / alone", "", ratio, "", True) for name, ratio in ratios.items()),
        *(Result(f"{loop.words}, {name}: seen", "", min(shares), "%", True) for name, shares in seen.items()),
    ]


def _under_frida(script_file: str, runtime: str, command: list[str]) -> tuple[list[int], int]:
    """What the program printed, and how many of its accesses were seen."""
    frida: Any = importlib.import_module("frida")
    gone = threading.Event()
    seen: list[int] = []
    printed = bytearray()

    def note(message: dict[str, Any], data: bytes | None) -> None:
        assert message["type"] == "send", message
        seen.append(message["payload"])
        script.post({"type": "noted"})

    device = frida.get_local_device()
    device.on("output", lambda pid, fd, data: printed.extend(data) if fd == 1 else None)
    pid = device.spawn(command, stdio="pipe")
    try:
        session = device.attach(pid)
        session.on("detached", lambda *_: gone.set())
        script = session.create_script((HERE / script_file).read_text(), runtime=runtime)
        script.on("message", note)
        script.load()
        device.resume(pid)
        gone.wait(TIME_LIMIT)
    finally:
        # It ends by itself, perhaps just now.
        with contextlib.suppress(frida.ProcessNotFoundError, frida.NotSupportedError):
            if not gone.is_set():
                device.kill(pid)
    return [int(number) for number in printed.split()], seen[0]


def _under_lackey(command: list[str]) -> list[int]:
    with tempfile.TemporaryDirectory(prefix="mmiotap-bench-") as folder:
        lackey = ["valgrind", "--tool=lackey", "--trace-mem=yes", f"--log-file={Path(folder) / 'log'}"]
        result = subprocess.run([*lackey, *command], check=True, capture_output=True, text=True, timeout=TIME_LIMIT)
    return [int(number) for number in result.stdout.split()]
