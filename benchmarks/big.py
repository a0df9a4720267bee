"""Traces of any size, for benchmarks: python -m benchmarks.big TRACE EVENTS.

The recorded e1000 driver (tests/data) over and over: its offsets, values and widths in its order, at its pace, from two
threads. Values of every hundredth access are random.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.store import recorded
from mmiotap.trace.model import Mapping, Process
from mmiotap.trace.schema import EVENTS, KINDS
from mmiotap.trace.writer import TraceWriter

#: Events of a part: about as many as a recording has in one.
PART = 1 << 19
PID = 1000
BAR = Mapping(
    1, PID, "/sys/devices/pci0000:00/0000:00:03.0/resource0", 0x7F0000000000, 0x20000, 0, "rw",
    "0000:00:03.0", 0, 0xFEBC0000,
)  # fmt: skip
#: So that its registers are found.
E1000 = {
    "address": "00:03.0", "domain": 0, "vendor": 0x8086, "device": 0x100E, "irq": 11, "driver": "",
    "resources": [{"start": 0xFEBC0000, "size": 0x20000}],
}  # fmt: skip


def generate(path: Path, events: int) -> Path:
    """A finished trace of so many events."""
    log = recorded()
    begin = int(log["time_ns"][0])
    length = int(log["time_ns"][-1]) - begin + 1000
    info = {"format": 1, "source": "agent", "command": ["e1000"], "start_mono_ns": begin, "pci_devices": [E1000]}
    writer = TraceWriter.create(path, info)
    writer.add_mappings([BAR])
    writer.add_processes([Process(PID, 1, "/opt/driver/e1000")])
    random = np.random.default_rng(0)
    words = pa.array([KINDS[number] for number in sorted(KINDS)], pa.string())
    for first in range(0, events, PART):
        number = np.arange(first, min(first + PART, events))
        turn, place = np.divmod(number, len(log))
        rows = log[place]
        kinds = np.searchsorted(sorted(KINDS), rows["kind"])
        values = rows["value"].copy()
        chosen = number % 100 == 0
        values[chosen] = random.integers(0, 2**32, int(chosen.sum()), np.uint64)
        count = len(number)
        columns = {
            "time_ns": rows["time_ns"] + turn * length,
            "duration_ns": pa.nulls(count, pa.uint32()),
            "kind": pa.DictionaryArray.from_arrays(kinds.astype(np.int8), words),
            "width": rows["width"],
            "map_id": np.ones(count, np.int32),
            "offset": rows["offset"],
            "value": values,
            "data": pa.nulls(count, pa.binary()),
            "pc": rows["pc"],
            "pid": np.full(count, PID, np.int32),
            "tid": (PID + number // 100 % 2).astype(np.int32),
            "cpu": (number // 100 % 2).astype(np.int16),
            "flags": np.zeros(count, np.uint32),
            "text": pa.nulls(count, pa.string()),
        }
        writer.append(pa.table({name: pa.array(column) for name, column in columns.items()}, schema=EVENTS))
    writer.finish()
    return path


def hundred_million(folder: Path) -> Path:
    """A trace of so many events: the one that MMIOTAP_BIG names, or a new one in the folder."""
    return Path(os.environ.get("MMIOTAP_BIG") or generate(folder / "t", 100_000_000))


def measured(*words: str | Path) -> tuple[float, float]:
    """``mmiotap`` with these arguments: seconds, start and all, and GiB. What it writes is not shown."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "mmiotap", *words], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    took = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return took, used.ru_maxrss / 2**20


if __name__ == "__main__":
    generate(Path(sys.argv[1]), int(sys.argv[2]))
