"""Draining the kernel's mmiotrace against ``cat trace_pipe >file``, in a guest: everything is emulated, so ratios only."""

import json
import shlex
import sys
import tempfile
from pathlib import Path

from benchmarks.result import Result

_ROOT = Path(__file__).parent.parent
_GOAL = 3
_EVENTS = 100_000
_DEVICES = ["-netdev user,id=n0", "-device e1000,netdev=n0,romfile="]


def run() -> list[Result]:
    sys.path.insert(0, str(_ROOT / "tests" / "guest"))
    from boot import boot

    drain = shlex.join([sys.executable, str(_ROOT / "benchmarks" / "kernel_drain.py"), str(_EVENTS)])
    source = shlex.quote(str(_ROOT / "src"))
    with tempfile.TemporaryDirectory() as folder:
        said = boot(f"export PYTHONPATH={source}\n{drain}", Path(folder), _DEVICES, limit=600)
    found = json.loads(said.strip().splitlines()[-1])
    rate = {name: one["events"] / one["seconds"] for name, one in found.items()}
    ratio = rate["mmiotap"] / rate["cat"]
    less = (found["cat"]["cpu"] / found["cat"]["events"]) / (found["mmiotap"]["cpu"] / found["mmiotap"]["events"])
    return [
        Result("the kernel's events a second / cat trace_pipe", f"≥ {_GOAL}", ratio, "", ratio >= _GOAL),
        Result("CPU time an event of cat trace_pipe / ours", "> 1", less, "", less > 1),
        Result("events a second of cat trace_pipe, emulated", "", rate["cat"], "", True),
    ]
