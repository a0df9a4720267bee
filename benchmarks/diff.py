"""``mmiotap diff`` of two traces of a million events: the processors' time, and the memory it takes.

The second one is another run: the same, or with one bit of one write changed, with every thousandth value changed, or
with ten thousand accesses more in the middle.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.big import generate
from benchmarks.result import Result
from mmiotap.trace.reader import open_trace
from mmiotap.trace.schema import EVENTS
from mmiotap.trace.writer import TraceWriter

COUNT = 1_000_000
ROUNDS = 3
GIB = 2**30


def run() -> list[Result]:
    """A goal for each, and one for the memory of all."""
    found = []
    with tempfile.TemporaryDirectory(prefix="mmiotap-bench-") as folder:
        one = generate(Path(folder) / "a", COUNT)
        for name, (change, status) in CHANGES.items():
            other = _changed(one, Path(folder) / name.replace(" ", "-"), change)
            took = statistics.median(_seconds(one, other, status) for _ in range(ROUNDS))
            found.append(Result(f"diff of two traces of a million events, {name}", "≤ 10 s", took, "s", took <= 10))
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / GIB
    return [*found, Result("memory for that", "≤ 2 GiB", most, "", most <= 2)]


def _one_bit(events: pa.Table) -> pa.Table:
    value = events["value"].to_numpy().copy()
    value[COUNT // 2] ^= np.uint64(2)
    return _with_values(events, value)


def _every_thousandth(events: pa.Table) -> pa.Table:
    value = events["value"].to_numpy().copy()
    value[500::1000] ^= np.uint64(1 << 31)
    return _with_values(events, value)


def _more(events: pa.Table) -> pa.Table:
    return pa.concat_tables([events.slice(0, COUNT // 2), events.slice(1000, 10_000), events.slice(COUNT // 2)])


CHANGES: dict[str, tuple[Callable[[pa.Table], pa.Table], int]] = {
    "equal": (lambda events: events, 0),
    "one bit": (_one_bit, 1),
    "every thousandth": (_every_thousandth, 1),
    "ten thousand more": (_more, 1),
}


def _with_values(events: pa.Table, value: "np.ndarray[tuple[int], np.dtype[np.uint64]]") -> pa.Table:
    at = EVENTS.get_field_index("value")
    return events.set_column(at, EVENTS.field(at), pa.array(value))


def _changed(path: Path, other: Path, change: Callable[[pa.Table], pa.Table]) -> Path:
    trace = open_trace(path)
    events = change(trace.events())
    times = pa.array(np.arange(events.num_rows) * 1000)
    writer = TraceWriter.create(other, trace.info | {"state": "recording"})
    writer.add_mappings(trace.mappings)
    writer.append(events.set_column(0, EVENTS.field(0), times))
    writer.finish()
    return other


def _seconds(a: Path, b: Path, status: int) -> float:
    """Of the processors, start and all; on a machine that is busy the time that passes says nothing."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "mmiotap", "diff", str(a), str(b), "--limit", "0"]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, timeout=600, env=os.environ)
    assert done.returncode == status
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
