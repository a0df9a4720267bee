"""Draining the kernel's mmiotrace against ``cat trace_pipe >file``, in one guest: all is emulated, so ratios only."""

import json
import shlex
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.result import Result

_ROOT = Path(__file__).parent.parent
_DRAIN = _ROOT / "benchmarks" / "kernel_drain.py"
_GOAL = 3
_EVENTS, _ROUNDS = 100_000, 3
_DEVICES = ["-netdev user,id=n0", "-device e1000,netdev=n0,romfile="]


def run() -> list[Result]:
    sys.path.insert(0, str(_ROOT / "tests" / "guest"))
    from boot import boot

    drain = shlex.join([sys.executable, str(_DRAIN), str(_EVENTS), str(_ROUNDS)])
    with tempfile.TemporaryDirectory() as folder:
        said = boot(drain, Path(folder), _DEVICES, limit=900)
    rounds = json.loads(said.strip().splitlines()[-1])
    faster = statistics.median(one["cat"]["seconds"] / one["mmiotap"]["seconds"] for one in rounds)
    whole = statistics.median(one["cat"]["whole"] / one["mmiotap"]["whole"] for one in rounds)
    cheaper = statistics.median(one["cat"]["cpu"] / one["mmiotap"]["cpu"] for one in rounds)
    return [
        Result("the kernel's events a second, against cat trace_pipe", f"≥ {_GOAL}", faster, "", faster >= _GOAL),
        Result("the same until all is in the trace", "", whole, "", True),
        Result("processor time of cat trace_pipe, against ours", "> 1", cheaper, "", cheaper > 1),
    ]
