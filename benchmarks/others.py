"""One access a microsecond, watched by others: Frida's Stalker (PyPI: frida) and valgrind's lackey (Debian: valgrind).

What they miss. Stalker: values (they would have to be read again), and code that was running before it came; that it
looks at the program's own code only, and knows the mapping, is for its speed, and told to it here. Frida's
MemoryAccessMonitor tells of the first access to a page and of no other, so it has no row here. lackey: values, times
and threads; it prints every instruction and every access that there is.
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
from pathlib import Path
from typing import Any

from benchmarks.programs import HERE, TIME_LIMIT, Program, program
from benchmarks.result import Result

ROUNDS, TURNS = 4, 3
#: Rounds that the program makes and does not print.
UNPRINTED = 2
COUNT, COUNT_LACKEY = 50_000, 500


def run() -> list[Result]:
    results = []
    with program("patched") as patched:
        if importlib.util.find_spec("frida"):
            results += _stalker(patched)
        else:
            print("others: no Frida here (pip install frida)", file=sys.stderr)
        if shutil.which("valgrind"):
            results += _lackey(patched)
        else:
            print("others: no valgrind here (apt install valgrind)", file=sys.stderr)
    return results


def _stalker(patched: Program) -> list[Result]:
    alone, watched, seen = [], [], 0
    for _ in range(TURNS):
        alone += patched.alone("work", patched.device, ROUNDS, COUNT)
        numbers, seen_now = _under_stalker(patched.command("work", patched.device, ROUNDS, COUNT))
        watched += numbers
        seen += seen_now
    ratio = statistics.median(watched) / statistics.median(alone)
    share = seen / (TURNS * (ROUNDS + UNPRINTED) * COUNT)
    return [
        Result("one access a microsecond, under Frida's Stalker / alone", "", ratio, "", True),
        Result("the accesses that Stalker saw / all", "", share, "", True),
    ]


def _under_stalker(command: list[str]) -> tuple[list[int], int]:
    """What the program printed, and the accesses that were seen."""
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
        script = session.create_script((HERE / "stalker.js").read_text())
        script.on("message", note)
        script.load()
        device.resume(pid)
        gone.wait(TIME_LIMIT)
    finally:
        with contextlib.suppress(frida.ProcessNotFoundError):
            device.kill(pid)
    return [int(number) for number in printed.split()], seen[0]


def _lackey(patched: Program) -> list[Result]:
    work = ("work", patched.device, 1, COUNT_LACKEY)
    alone = [number for _ in range(ROUNDS) for number in patched.alone(*work)]
    with tempfile.TemporaryDirectory(prefix="mmiotap-bench-") as folder:
        log = Path(folder) / "log"
        command = ["valgrind", "--tool=lackey", "--trace-mem=yes", f"--log-file={log}", *patched.command(*work)]
        result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIME_LIMIT)
    ratio = int(result.stdout) / statistics.median(alone)
    return [Result("one access a microsecond, under valgrind's lackey / alone", "", ratio, "", True)]
