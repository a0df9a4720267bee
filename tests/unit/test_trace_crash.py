"""SIGKILL of processes that write to an arena, of the one that seals it, and of the one that recovers it."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from conftest import MMIOTAP, Run, Start, Started
from mmiotap.trace import layout, store
from mmiotap.trace.arena import Arena
from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.reader import Trace, open_trace
from mmiotap.trace.recover import recover
from mmiotap.trace.rows import FIELDS
from mmiotap.trace.sealer import Sealer
from recordings import Producer, abandon, new_recording

HERE = Path(__file__).parent
PROCESSES = 3
SEGMENTS = 4 * PROCESSES
#: A recorder that does nothing but seal: ``FOLDER``.
SEAL_FOR_EVER = """
import sys
from pathlib import Path
from mmiotap.trace.arena import Arena
from mmiotap.trace.rows import FIELDS
from mmiotap.trace.sealer import Sealer
from mmiotap.trace.store import TraceDir
folder = Path(sys.argv[1])
sealer = Sealer(folder, Arena.open(TraceDir(folder).arena, writable=True))
while True:
    sealer.seal()
"""


class Producers:
    """Processes that write to one arena; thread ids are 1, 2, 3 …"""

    def __init__(self, start: Start, arena: Arena, folder: Path) -> None:
        self.started: list[Started] = []
        self._progress: list[Path] = []
        for index in range(PROCESSES):
            progress = folder / f"progress{index}"
            progress.write_bytes(bytes(8))
            self._progress.append(progress)
            command = [sys.executable, HERE / "producer.py", arena.path, index, PROCESSES, index + 1, progress]
            self.started.append(start(*map(str, command)))
            while self.progress()[-1] == 0:  # so that the next takes another stream id
                assert self.started[-1].process.poll() is None, self.started[-1].wait()
                time.sleep(0.001)

    def progress(self) -> list[int]:
        return [int.from_bytes(path.read_bytes(), "little") for path in self._progress]

    def kill(self) -> None:
        for started in self.started:
            started.kill()
            started.process.wait()


@pytest.fixture
def arena(tmp_path: Path) -> Arena:
    return new_recording(tmp_path / "t", segments=SEGMENTS)


@pytest.fixture
def producers(start: Start, arena: Arena, tmp_path: Path) -> Producers:
    return Producers(start, arena, tmp_path)


def check(trace: Trace, at_least: list[int], at_most: list[int] | None = None) -> None:
    """Every thread's rows are there from the first on, none twice, none missing in between, and the data is whole."""
    table = trace.events(["tid", "value", "data"])
    assert trace.count == table.num_rows
    values: list[list[int]] = [[] for _ in range(PROCESSES)]
    for tid, value, data in zip(*table.to_pydict().values(), strict=True):
        assert data == (None if value % 3 else value.to_bytes(8, "little") * 4)
        values[tid - 1].append(value)
    for index, found in enumerate(values):
        assert found == list(range(len(found)))
        assert at_least[index] <= len(found)
        assert at_most is None or len(found) <= at_most[index] + 1  # killed between a row and its count


def test_reading_while_it_runs(arena: Arena, producers: Producers, tmp_path: Path) -> None:
    sealer = Sealer(tmp_path / "t", arena)
    while min(producers.progress()) < 20_000:
        before = producers.progress()
        trace = open_trace(tmp_path / "t")
        assert trace.state == "recording"
        check(trace, before, None)
        sealer.seal()
    producers.kill()
    check(open_trace(tmp_path / "t"), producers.progress(), producers.progress())
    sealer.finish()
    check(open_trace(tmp_path / "t"), producers.progress(), producers.progress())


def test_another_process_reads_while_one_seals(
    start: Start, arena: Arena, producers: Producers, tmp_path: Path
) -> None:
    recorder = start(sys.executable, "-c", SEAL_FOR_EVER, tmp_path / "t")
    while min(producers.progress()) < 20_000:
        before = producers.progress()
        check(open_trace(tmp_path / "t"), before, None)
        assert recorder.process.poll() is None, recorder.wait()


@pytest.mark.parametrize("moment", range(4))
def test_all_are_killed(start: Start, arena: Arena, producers: Producers, tmp_path: Path, moment: int) -> None:
    recorder = start(sys.executable, "-c", SEAL_FOR_EVER, tmp_path / "t")
    while min(producers.progress()) < 2000 * (moment + 1):
        assert recorder.process.poll() is None, recorder.wait()
        time.sleep(random.uniform(0, 0.01))
    recorder.kill()
    recorder.process.wait()
    producers.kill()
    abandon(tmp_path / "t")
    trace = open_trace(tmp_path / "t")
    assert trace.state == "incomplete"
    check(trace, producers.progress(), producers.progress())
    recovered = recover(tmp_path / "t")
    assert recovered is not None
    assert recovered.events == trace.count
    trace = open_trace(tmp_path / "t")
    assert trace.state == "recovered"
    check(trace, producers.progress(), producers.progress())


def test_a_process_that_is_killed_gives_its_segments_back(arena: Arena, producers: Producers, tmp_path: Path) -> None:
    sealer = Sealer(tmp_path / "t", arena)
    producers.kill()
    sealer.seal()
    assert arena.states() == [layout.FREE] * SEGMENTS
    check(open_trace(tmp_path / "t"), producers.progress(), producers.progress())


def test_a_process_that_is_killed_before_it_writes_a_header(start: Start, arena: Arena, tmp_path: Path) -> None:
    started = start("true")
    started.process.wait()
    sealer = Sealer(tmp_path / "t", arena)
    arena.take(1, started.process.pid)
    arena.take(2, os.getpid())
    sealer.seal()
    assert arena.states()[:3] == [layout.FREE, layout.FREE, layout.OWNED]


class TestRecover:
    def test_not_while_the_recorder_runs(self, arena: Arena, mmiotap: Run, tmp_path: Path) -> None:
        result = mmiotap("recover", "t")
        assert result.status == 1
        assert result.stderr == f"mmiotap: t is being recorded by process {os.getpid()}; wait for its end\n"
        assert arena.path.exists()

    def test_not_while_the_program_runs(self, producers: Producers, mmiotap: Run, tmp_path: Path) -> None:
        abandon(tmp_path / "t")
        pids = sorted([os.getpid(), *(started.pid for started in producers.started)])  # we have it mapped, too
        result = mmiotap("recover", "t")
        assert result.status == 1
        assert result.stderr.count("\n") == 1
        assert ", ".join(map(str, pids)) in result.stderr
        assert open_trace(tmp_path / "t").state == "incomplete"

    def test_again_does_nothing(self, start: Start, mmiotap: Run, tmp_path: Path) -> None:
        code = "from pathlib import Path; import recordings; recordings.new_recording(Path('t')); print('made')"
        made = start(sys.executable, "-c", code, env={"PYTHONPATH": str(HERE)}).wait()
        assert made.stdout == "made\n"
        first = mmiotap("recover", "t")
        assert (first.status, first.stdout) == (0, "t: recovered, 0 events, lost: 0\n"), first.stderr
        assert not (tmp_path / "t" / "live").exists()
        again = mmiotap("recover", "t")
        assert (again.status, again.stdout) == (0, "t: nothing to do, the trace is complete\n")

    def test_killed_in_the_middle(self, start: Start, mmiotap: Run, tmp_path: Path) -> None:
        """As often as it takes: once a part has appeared, and at any moment."""
        folder = tmp_path / "t"
        segments = 2100
        arena = new_recording(folder, segments=segments)
        thread = Producer(arena, range(segments), pid=os.getpid(), tid=1)
        rows = 1000 * segments
        for first in range(0, rows, 1000):
            block = np.zeros(1000, FIELDS)
            block["kind"] = layout.READ
            block["time_ns"] = block["value"] = range(first, first + 1000)
            assert thread.write_rows(block.tobytes())
        del arena, thread  # recover refuses while we have it mapped
        abandon(folder)
        kills = 0
        while kills < 3:
            parts = len(store.TraceDir(folder).parts())
            recovering = start(*MMIOTAP, "recover", "t")
            while len(store.TraceDir(folder).parts()) == parts and recovering.process.poll() is None:
                time.sleep(0.001)
            time.sleep(random.uniform(0, 0.02))
            recovering.kill()
            if recovering.wait().status != -signal.SIGKILL:
                break
            kills += 1
            assert open_trace(folder).count == rows
        assert kills > 0
        assert mmiotap("recover", "t").status == 0
        trace = open_trace(folder)
        assert trace.state == "recovered"
        values = trace.events(["value"])["value"].to_numpy()
        assert (values == range(rows)).all()

    def test_not_twice_at_once(self, tmp_path: Path) -> None:
        new_recording(tmp_path / "t")
        abandon(tmp_path / "t")
        code = (
            "import fcntl, os, sys; fd = os.open('t', os.O_RDONLY); fcntl.flock(fd, fcntl.LOCK_EX); print(flush=True);"
            "sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as other:
            assert other.stdout
            other.stdout.readline()
            with pytest.raises(MmiotapError, match="being recovered by another process"):
                recover(tmp_path / "t")
            other.communicate(timeout=10)

    def test_a_damaged_arena_can_be_left_out(self, tmp_path: Path) -> None:
        arena = new_recording(tmp_path / "t")
        thread = Producer(arena, range(4), pid=os.getpid(), tid=1)
        thread.write(layout.READ, value=1)
        Sealer(tmp_path / "t", arena).seal()
        abandon(tmp_path / "t")
        arena.path.unlink()
        arena.path.write_bytes(b"no arena")
        with pytest.raises(MmiotapError, match=r"live/arena is damaged; remove .*/live"):
            recover(tmp_path / "t")
        with pytest.raises(MmiotapError, match=r"live/arena is damaged; remove .*/live"):
            open_trace(tmp_path / "t")
        arena.path.unlink()
        assert open_trace(tmp_path / "t").events(["value"])["value"].to_pylist() == [1]
        assert recover(tmp_path / "t") is not None
        assert open_trace(tmp_path / "t").events(["value"])["value"].to_pylist() == [1]
