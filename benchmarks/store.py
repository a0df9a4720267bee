"""What the store costs: sealing against writing the same rows with pyarrow alone, and bytes an event on disk.

The rows are those of a recorded e1000 driver (tests/data): its offsets, values and widths in its order and at its
times, which that log rounds to microseconds and which get random nanoseconds here.
"""

import gc
import lzma
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from benchmarks.result import Result
from mmiotap.trace import layout, store
from mmiotap.trace.arena import Arena, ArenaWriter
from mmiotap.trace.rows import FIELDS
from mmiotap.trace.schema import EVENTS
from mmiotap.trace.sealer import Sealer

LOG = Path(__file__).parent.parent / "tests" / "data" / "mmiotrace-e1000.log.xz"
BAR = 0xFEBC0000
KIND = {"R": layout.READ, "W": layout.WRITE}
THREADS = 2
#: The e1000 recording so often that it fills four parts.
TIMES_OVER = 148
ROUNDS = 5


def run() -> list[Result]:
    """Both goals."""
    with tempfile.TemporaryDirectory(prefix="mmiotap-bench-") as folder:
        ratio = statistics.median(_ratio(Path(folder) / "t") for _ in range(ROUNDS))
        size = _bytes_an_event(Path(folder) / "t")
    return [
        Result("recording to Parquet, against pyarrow alone", "≤ 1.5", ratio, "", ratio <= 1.5),
        Result("e1000 recording on disk, an event", "≤ 6 bytes", size, "bytes", size <= 6),
    ]


def main() -> None:
    for result in run():
        print(
            f"{result.name}: goal {result.goal}, measured {result.measured:.2f}, {'met' if result.met else 'not met'}"
        )


def _ratio(folder: Path) -> float:
    """Seconds to seal an arena, by those that pyarrow takes to write the table that comes out with zstd."""
    arena = _recording(folder, np.tile(recorded(), TIMES_OVER))
    sealer = Sealer(folder, arena)
    gc.collect()
    began = time.perf_counter()
    sealer.finish()
    sealed = time.perf_counter() - began
    alone = 0.0
    for part in store.TraceDir(folder).parts():
        table = pq.read_table(part, schema=EVENTS)
        began = time.perf_counter()
        pq.write_table(table, folder / "alone.parquet", compression="zstd")
        alone += time.perf_counter() - began
    return sealed / alone


def _bytes_an_event(folder: Path) -> float:
    """What the folder of one e1000 recording takes, blocks of the file system and all."""
    events = recorded()
    Sealer(folder, _recording(folder, events)).finish()
    shutil.rmtree(folder / "live")
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*")) / len(events)


def recorded() -> npt.NDArray[np.void]:
    """The accesses of the log as rows."""
    with lzma.open(LOG, "rt") as log:
        words = [line.split() for line in log if line[0] in KIND]
    rows = np.zeros(len(words), FIELDS)
    random = np.random.default_rng(0)
    rows["time_ns"] = [round(float(word[2]) * 1e6) * 1000 for word in words] + random.integers(0, 1000, len(words))
    rows["time_ns"].sort()
    rows["kind"] = [KIND[word[0]] for word in words]
    rows["width"] = [int(word[1]) for word in words]
    rows["offset"] = [int(word[4], 16) - BAR for word in words]
    rows["value"] = [int(word[5], 16) for word in words]
    # A driver has a place in its code for every register that it reads or writes.
    rows["pc"] = 0x55D0C0DE1000 + 23 * rows["offset"] % 4093 + rows["kind"]
    rows["map_id"] = 1
    rows["duration_ns"] = layout.NO_DURATION
    return rows


def _recording(folder: Path, rows: npt.NDArray[np.void]) -> Arena:
    """A trace whose arena holds these rows, a stretch of them from one thread, the next from another."""
    shutil.rmtree(folder, ignore_errors=True)
    trace = store.create(folder, force=False)
    here = {"recorder_pid": os.getpid(), "recorder_start": store.process_start(os.getpid())}
    store.write_info(folder, {"format": 1, "state": "recording", **here})
    arena = Arena.create(
        trace.arena,
        segments=THREADS,
        rules=[],
        on_full="wait",
        latency=False,
        enabled=True,
        recorder_pid=os.getpid(),
        recorder_start=0,
    )
    step = np.median(np.diff(rows["time_ns"]))
    rows = rows.copy()
    rows["time_ns"] = np.where(
        np.diff(rows["time_ns"], prepend=0) < 0, step, np.diff(rows["time_ns"], prepend=0)
    ).cumsum()
    _about_the_process(ArenaWriter(arena, pid=os.getpid(), tid=999))
    threads = [ArenaWriter(arena, pid=os.getpid(), tid=1000 + index) for index in range(THREADS)]
    of_thread = np.arange(len(rows)) // 100 % THREADS
    for index, thread in enumerate(threads):
        own = rows[of_thread == index]
        own["cpu"] = index
        for first in range(0, len(own), layout.ROWS_PER_SEGMENT):
            thread.write_rows(own[first : first + layout.ROWS_PER_SEGMENT].tobytes())
    return arena


def _about_the_process(thread: ArenaWriter) -> None:
    """What every recording has beside its accesses: the program, its libraries, the mapping."""
    thread.write(layout.PROCESS, extra=b"/opt/driver/e1000")
    for library in ("e1000", "libc.so.6", "ld-linux-x86-64.so.2", "mmiotap/_agent.so"):
        thread.write(layout.MODULE, extra=bytes(16) + b"\x14\0\0\0" + bytes(20) + f"/usr/lib/{library}".encode())
    path = b"/sys/devices/pci0000:00/0000:00:03.0/resource0"
    thread.write(layout.MAP, time_ns=1, map_id=1, value=0x7F0000000000, extra=bytes(24) + path)


if __name__ == "__main__":
    main()
