"""What threads write to the arena comes out of the trace: once, in order, exact, whenever it is sealed."""

import json
import os
import shutil
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmiotap.trace import layout, store
from mmiotap.trace.arena import Arena
from mmiotap.trace.reader import Trace, open_trace
from mmiotap.trace.recover import recover
from mmiotap.trace.schema import KINDS
from mmiotap.trace.sealer import Sealer
from recordings import Producer, abandon, new_recording

#: Threads are of a process that runs: the segments of one that is gone are given back.
PID = os.getpid()
THREADS = 3
SEGMENTS_EACH = 3

ACCESS = st.fixed_dictionaries(
    {
        "kind": st.sampled_from([layout.READ, layout.WRITE, layout.UNKNOWN]),
        "value": st.integers(0, 2**64 - 1),
        "offset": st.integers(0, 2**64 - 1),
        "pc": st.integers(0, 2**64 - 1),
        "flags": st.integers(0, 2**32 - 1),
        "map_id": st.integers(-(2**31), 2**31 - 1),
        "duration_ns": st.integers(0, 2**32 - 1),
        "width": st.integers(0, 2**16 - 1),
        "cpu": st.integers(-1, 2**15 - 1),
        "extra": st.binary(max_size=200),
    }
)
MARK = st.fixed_dictionaries({"kind": st.just(layout.MARK), "extra": st.binary(max_size=200)})
LOST = st.fixed_dictionaries({"kind": st.just(layout.LOST), "value": st.integers(0, 2**32)})
#: A row of some thread, some nanoseconds after the last one; or many; or what the recorder does.
STEP = st.one_of(
    st.tuples(st.integers(0, THREADS - 1), st.integers(0, 2), st.one_of(ACCESS, MARK, LOST)),
    st.tuples(st.integers(0, THREADS - 1), st.just("fill"), st.integers(1, 400)),
    st.sampled_from(["seal", "look"]),
)


def event(row: dict[str, Any], time_ns: int, tid: int) -> dict[str, Any]:
    """What the trace should say of a row."""
    extra = row.get("extra", b"")
    duration = row.get("duration_ns", layout.NO_DURATION)
    is_mark = row["kind"] == layout.MARK
    return {
        "time_ns": time_ns,
        "duration_ns": None if duration == layout.NO_DURATION else duration,
        "kind": KINDS[row["kind"]],
        "data": extra if extra and not is_mark else None,
        "pid": PID,
        "tid": tid,
        "cpu": row.get("cpu", -1),
        "text": extra.decode("utf-8", "replace") if is_mark else None,
        **{name: row.get(name, 0) for name in ("width", "map_id", "offset", "value", "pc", "flags")},
    }


@dataclass
class Model:
    """A recording, and what should be in it."""

    folder: Path
    arena: Arena
    threads: list[Producer] = field(init=False)
    expected: list[dict[str, Any]] = field(default_factory=list)
    now_ns: int = 1000

    def __post_init__(self) -> None:
        shares = [range(first, THREADS * SEGMENTS_EACH, THREADS) for first in range(THREADS)]
        self.threads = [Producer(self.arena, share, pid=PID, tid=1000 + tid) for tid, share in enumerate(shares)]

    def write(self, index: int, later_ns: int, row: dict[str, Any]) -> None:
        """A row that has no room is not written."""
        thread = self.threads[index]
        self.now_ns += later_ns
        if thread.write(time_ns=self.now_ns, **row):
            self.expected.append(event(row, self.now_ns, thread.tid))

    def check(self, trace: Trace) -> None:
        """Threads stay in order, and all is in time order; who is first at the same time is nobody's business."""
        found = trace.events().to_pylist()
        assert [row["time_ns"] for row in found] == [row["time_ns"] for row in self.expected]
        for thread in self.threads:
            of_thread = [[row for row in rows if row["tid"] == thread.tid] for rows in (found, self.expected)]
            assert of_thread[0] == of_thread[1]
        assert trace.count == len(self.expected)
        assert trace.lost == sum(row["value"] for row in self.expected if row["kind"] == "lost")


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEP, max_size=40), st.sampled_from(["finish", "recover"]))
def test_rows_come_out_as_they_went_in(steps: list[Any], ending: str) -> None:
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "t"
        model = Model(folder, new_recording(folder, segments=THREADS * SEGMENTS_EACH))
        sealer = Sealer(folder, model.arena)
        for step in steps:
            if step == "seal":
                sealer.seal()
            elif step == "look":
                model.check(open_trace(folder))
                assert sealer.counts() == (open_trace(folder).count, open_trace(folder).lost)
            elif step[1] == "fill":
                for value in range(step[2]):
                    model.write(step[0], 1, {"kind": layout.READ, "value": value, "extra": b"x" * (value % 3 * 40)})
            else:
                model.write(*step)
        if ending == "finish":
            sealer.finish()
            shutil.rmtree(folder / "live")
            assert open_trace(folder).state == "finished"
        else:
            abandon(folder)
            model.check(open_trace(folder))
            assert open_trace(folder).state == "incomplete"
            assert recover(folder) is not None
            assert open_trace(folder).state == "recovered"
        model.check(open_trace(folder))


def test_segments_are_used_again_and_none_is_given_back_too_early(tmp_path: Path) -> None:
    model = Model(tmp_path / "t", new_recording(tmp_path / "t", segments=THREADS * SEGMENTS_EACH))
    sealer = Sealer(tmp_path / "t", model.arena)
    for _ in range(20):
        for thread in range(THREADS):
            for _ in range(700):
                model.write(thread, 1, {"kind": layout.WRITE, "value": len(model.expected)})
        sealer.seal()
    assert len(model.expected) == 20 * THREADS * 700  # there was always room
    assert model.arena.segment_count == THREADS * SEGMENTS_EACH
    model.check(open_trace(tmp_path / "t"))


def test_continuation_rows_that_look_like_rows(tmp_path: Path) -> None:
    """Their bytes are the program's and may be anything: here every one says that 255 more follow."""
    model = Model(tmp_path / "t", new_recording(tmp_path / "t", segments=THREADS * SEGMENTS_EACH))
    for length in [64, 1, 8, 640, 16, 64, 64, 3000]:
        model.write(0, 1, {"kind": layout.READ, "width": 64, "extra": b"\xff" * length})
        model.write(0, 0, {"kind": layout.WRITE, "width": 4})
    model.check(open_trace(tmp_path / "t"))


def test_a_part_holds_no_more_than_it_should(tmp_path: Path) -> None:
    arena = new_recording(tmp_path / "t", segments=1100)
    threads = [Producer(arena, range(first, 1100, 2), pid=PID, tid=tid) for first, tid in ((0, 7), (1, 8))]
    for index in range(540):
        for thread in threads:
            rows = b"".join(
                (1000 * index + row).to_bytes(8, "little").ljust(layout.R_KIND, b"\0") + b"\1" + bytes(15)
                for row in range(1000)
            )
            assert thread.write_rows(rows)
    Sealer(tmp_path / "t", arena).finish()
    trace = open_trace(tmp_path / "t")
    parts = [part.stat().st_size for part in store.TraceDir(tmp_path / "t").parts()]
    assert len(parts) == 3
    assert trace.count == 1_080_000
    last = -1
    for table in trace.batches(["time_ns"]):
        assert table.num_rows <= 3 * (1 << 16)
        times = table["time_ns"].to_numpy()
        assert last <= times[0]
        assert (times[1:] >= times[:-1]).all()
        last = times[-1]
    assert last == 539_999


class TestBeside:
    """Rows that are no events, and events that tell of mappings."""

    MAP = (
        (0x2000).to_bytes(8, "little")
        + (0x1000).to_bytes(8, "little")
        + (3).to_bytes(4, "little")
        + (1).to_bytes(4, "little")
    )
    MODULE = (0x400000).to_bytes(8, "little") + (0x500000).to_bytes(8, "little") + (4).to_bytes(4, "little")

    def write(self, thread: Producer) -> None:
        thread.write(layout.PROCESS, time_ns=1, value=77, extra=b"/opt/driver")
        thread.write(layout.MODULE, time_ns=2, value=0x3FF000, extra=self.MODULE + b"\xde\xad\xbe\xef" + b"/opt/driver")
        thread.write(layout.OTHER, time_ns=3, extra=b"/usr/lib/libc.so.6")
        thread.write(layout.MAP, time_ns=4, map_id=1, value=0x7F00_0000_0000, extra=self.MAP + b"/run/registers")
        thread.write(layout.UNMAP, time_ns=5, map_id=1, offset=0, value=0x2000)
        thread.write(layout.OTHER, time_ns=6, extra=b"/usr/lib/libc.so.6")
        site: dict[str, Any] = {"pc": 0x401000, "width": 4, "extra": b"\x89\x02"}
        thread.write(layout.SITE, time_ns=7, value=1, flags=layout.SITE_SEEN, **site)
        why = layout.WHY_ORDINARY << layout.WHY_SHIFT
        thread.write(layout.SITE, time_ns=9, value=4, flags=layout.SITE_BACK | why, **site)
        thread.write(layout.SITE, time_ns=8, value=4, flags=layout.SITE_PUNNED, **site)  # after, but not later
        thread.write(layout.SITE, time_ns=8, pc=0x402000, width=64, flags=0xFE | 0xFD << layout.WHY_SHIFT)

    def check(self, trace: Trace) -> None:
        mapping = {
            "map_id": 1,
            "pid": PID,
            "path": "/run/registers",
            "address": 0x7F00_0000_0000,
            "length": 0x2000,
            "file_offset": 0x1000,
            "prot": "rw",
            "time_ns": 4,
        }
        assert [one.to_json() for one in trace.mappings] == [mapping]
        assert [one.to_json() for one in trace.modules] == [
            {
                "pid": PID,
                "path": "/opt/driver",
                "start": 0x400000,
                "end": 0x500000,
                "bias": 0x3FF000,
                "build_id": "deadbeef",
            }
        ]
        assert [one.to_json() for one in trace.processes] == [{"pid": PID, "ppid": 77, "executable": "/opt/driver"}]
        assert trace.info["not_selected"] == ["/usr/lib/libc.so.6"]
        site = {"pid": PID, "pc": 0x401000, "width": 4, "bytes": "8902"}
        back = {**site, "state": "back", "reason": "ordinary", "traps": 4, "time_ns": 9}
        new = {"pid": PID, "pc": 0x402000, "width": 64, "bytes": "", "state": "254", "reason": "253", "traps": 0}
        assert [one.to_json() for one in trace.site_changes] == [
            {**site, "state": "seen", "traps": 1, "time_ns": 7},
            {**site, "state": "punned", "traps": 4, "time_ns": 8},
            {**new, "time_ns": 8},
            back,
        ]
        assert [one.to_json() for one in trace.sites] == [back, {**new, "time_ns": 8}]
        found = trace.events(["kind", "map_id", "value", "text"]).to_pylist()
        assert [(row["kind"], row["map_id"]) for row in found] == [("map", 1), ("unmap", 1)]
        assert [json.loads(row["text"]) for row in found] == [mapping, mapping]

    def test_they_are_there_before_and_after_sealing(self, tmp_path: Path) -> None:
        arena = new_recording(tmp_path / "t")
        self.write(Producer(arena, range(4), pid=PID, tid=100))
        self.check(open_trace(tmp_path / "t"))
        sealer = Sealer(tmp_path / "t", arena)
        sealer.seal()
        self.check(open_trace(tmp_path / "t"))
        sealer.finish()
        self.check(open_trace(tmp_path / "t"))

    def test_what_a_killed_recorder_has_listed_but_not_sealed_is_listed_once(self, tmp_path: Path) -> None:
        arena = new_recording(tmp_path / "t")
        self.write(Producer(arena, range(4), pid=PID, tid=100))
        Sealer(tmp_path / "t", arena).seal()
        for part in store.TraceDir(tmp_path / "t").parts():
            part.unlink()  # the segment is owned by a thread that lives, so it has not been given back
        abandon(tmp_path / "t")
        self.check(open_trace(tmp_path / "t"))
        assert recover(tmp_path / "t") is not None
        self.check(open_trace(tmp_path / "t"))

    def test_an_unmap_finds_a_mapping_that_was_sealed_long_ago(self, tmp_path: Path) -> None:
        arena = new_recording(tmp_path / "t")
        thread = Producer(arena, range(4), pid=PID, tid=100)
        thread.write(layout.MAP, time_ns=4, map_id=1, value=4096, extra=self.MAP + b"/run/registers")
        Sealer(tmp_path / "t", arena).seal()
        thread.write(layout.UNMAP, time_ns=5, map_id=1)
        thread.write(layout.UNMAP, time_ns=6, map_id=2)
        texts = open_trace(tmp_path / "t").events(["text"])["text"].to_pylist()
        assert texts[0] == texts[1]
        assert texts[2] is None
        Sealer(tmp_path / "t", arena).finish()
        assert open_trace(tmp_path / "t").events(["text"])["text"].to_pylist() == texts


def test_counts_can_be_asked_for_while_it_seals(tmp_path: Path) -> None:
    """They never go down, and never ahead of what was written."""
    model = Model(tmp_path / "t", new_recording(tmp_path / "t", segments=THREADS * SEGMENTS_EACH))
    sealer = Sealer(tmp_path / "t", model.arena)
    over = threading.Event()
    wrong: list[tuple[int, int, int]] = []
    asked = 0

    def ask() -> None:
        nonlocal asked
        before = 0
        while not over.is_set():
            published = len(model.expected)
            events, lost = sealer.counts()
            if lost or not before <= events or not published <= events <= len(model.expected) + 1:
                wrong.append((before, published, events))
            before = events
            asked += 1

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        while asked < 50 and asking.is_alive():
            for _ in range(500):
                model.write(0, 1, {"kind": layout.WRITE, "extra": b"x" * 70})
            sealer.seal()
    finally:
        over.set()
        asking.join()
    assert wrong == []
    assert asked >= 50
    model.check(open_trace(tmp_path / "t"))
