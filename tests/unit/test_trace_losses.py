"""Lost events are counted, once, at the place where they were lost."""

import os
import struct
from pathlib import Path
from typing import Any

import pytest

from mmiotap.trace import layout, store
from mmiotap.trace.arena import Arena
from mmiotap.trace.reader import Trace, open_trace
from mmiotap.trace.recover import recover
from mmiotap.trace.sealer import Sealer
from recordings import Producer, abandon, new_recording

PID = os.getpid()


def lost_after(segment: int) -> int:
    return layout.SEGMENTS_OFFSET + segment * layout.SEGMENT_SIZE + layout.S_LOST_AFTER


def store_count(arena: Arena, offset: int, events: int) -> None:
    with arena.path.open("r+b") as file:
        file.seek(offset)
        file.write(struct.pack("<Q", events))


def lose(thread: Producer, events: int) -> None:
    """As the agent does where there is no free segment: count it in the segment that the thread has."""
    assert thread.segment is not None
    store_count(thread.arena, lost_after(thread.segment), events)


def go_on(thread: Producer, events: int) -> int:
    """The next segment begins with a row that tells of the loss, and then it is not counted any more.

    Returns the segment before.
    """
    full, segment = thread.segment, thread.take_segment()
    assert full is not None
    assert segment is not None
    thread.arena.begin(segment, thread.stream_id, thread.next_seq, thread.pid, thread.tid)
    thread.segment, thread.used = segment, 0
    thread.write(layout.LOST, time_ns=50, value=events)
    store_count(thread.arena, lost_after(full), 0)
    thread.arena.set_state(full, layout.FULL)
    return full


@pytest.fixture
def arena(tmp_path: Path) -> Arena:
    return new_recording(tmp_path / "t", segments=8)


@pytest.fixture
def threads(arena: Arena) -> tuple[Producer, Producer]:
    return Producer(arena, range(0, 8, 2), pid=PID, tid=1), Producer(arena, range(1, 8, 2), pid=PID, tid=2)


def rows(trace: Trace) -> list[Any]:
    table = trace.events(["time_ns", "tid", "kind", "value"])
    return list(zip(*table.to_pydict().values(), strict=True))


def test_at_the_end_of_a_thread(arena: Arena, threads: tuple[Producer, Producer], tmp_path: Path) -> None:
    """A thread that has not gone on has lost what it lost; the same before and after sealing, and after a crash."""
    threads[0].write(layout.READ, time_ns=10, value=100)
    threads[1].write(layout.READ, time_ns=20, value=200)
    lose(threads[0], 5)
    expected = [(10, 1, "read", 100), (10, 1, "lost", 5), (20, 2, "read", 200)]
    sealer = Sealer(tmp_path / "t", arena)
    for _ in range(2):
        assert rows(open_trace(tmp_path / "t")) == expected
        assert open_trace(tmp_path / "t").lost == 5
        assert sealer.counts() == (3, 5)
        sealer.seal()
    abandon(tmp_path / "t")
    for state in ("incomplete", "recovered"):
        trace = open_trace(tmp_path / "t")
        assert trace.state == state
        assert rows(trace) == expected
        assert (trace.count, trace.lost) == (3, 5)
        recover(tmp_path / "t")


def test_a_thread_that_goes_on_tells_itself(arena: Arena, threads: tuple[Producer, Producer], tmp_path: Path) -> None:
    thread = threads[0]
    thread.write(layout.READ, time_ns=10, value=100)
    lose(thread, 3)
    sealer = Sealer(tmp_path / "t", arena)
    sealer.seal()
    go_on(thread, 3)
    thread.write(layout.WRITE, time_ns=60, value=101)
    expected = [(10, 1, "read", 100), (50, 1, "lost", 3), (60, 1, "write", 101)]
    assert rows(open_trace(tmp_path / "t")) == expected
    sealer.finish()
    assert rows(open_trace(tmp_path / "t")) == expected
    assert open_trace(tmp_path / "t").lost == 3
    assert sealer.counts() == (3, 3)


def test_killed_between_the_row_and_the_count(arena: Arena, threads: tuple[Producer, Producer], tmp_path: Path) -> None:
    """The next segment tells of the loss already, and the count of the one before is not zero yet."""
    thread = threads[0]
    thread.write(layout.READ, time_ns=10, value=100)
    full = go_on(thread, 3)
    store_count(arena, lost_after(full), 3)
    arena.set_state(full, layout.OWNED)
    abandon(tmp_path / "t")
    assert open_trace(tmp_path / "t").lost == 3
    recover(tmp_path / "t")
    assert rows(open_trace(tmp_path / "t")) == [(10, 1, "read", 100), (50, 1, "lost", 3)]


def test_without_a_place(arena: Arena, threads: tuple[Producer, Producer], tmp_path: Path) -> None:
    threads[0].write(layout.READ, time_ns=10, value=100)
    store_count(arena, layout.H_LOST_UNPLACED, 7)
    assert rows(open_trace(tmp_path / "t")) == [(10, 1, "read", 100), (10, 0, "lost", 7)]
    sealer = Sealer(tmp_path / "t", arena)
    sealer.seal()
    assert sealer.counts() == (2, 7)
    sealer.finish()
    sealer.finish()  # a second time adds nothing
    assert rows(open_trace(tmp_path / "t")) == [(10, 1, "read", 100), (10, 0, "lost", 7)]
    assert open_trace(tmp_path / "t").lost == store.read_info(tmp_path / "t")["lost"] == 7


def test_of_a_dead_process_while_others_run(arena: Arena, threads: tuple[Producer, Producer], tmp_path: Path) -> None:
    """Its segment is given back, so its loss must be in a part first."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    dead = Producer(arena, range(0, 8, 2), pid=pid, tid=pid)
    dead.write(layout.READ, time_ns=10, value=100)
    lose(dead, 4)
    threads[1].write(layout.READ, time_ns=20, value=200)
    sealer = Sealer(tmp_path / "t", arena)
    sealer.seal()
    assert arena.owners() == {(PID, 2)}
    assert rows(open_trace(tmp_path / "t")) == [(10, pid, "read", 100), (10, pid, "lost", 4), (20, 2, "read", 200)]
    assert sealer.counts() == (3, 4)
    sealer.finish()
    assert open_trace(tmp_path / "t").lost == 4
