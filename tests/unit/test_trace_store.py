"""The folder of a trace: how it is made, written and replaced, and what happens when it cannot be."""

import contextlib
import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmiotap.trace import layout, store
from mmiotap.trace.arena import Arena, ArenaWriter
from mmiotap.trace.errors import DiskError, MmiotapError
from mmiotap.trace.model import Mapping
from mmiotap.trace.reader import open_trace
from mmiotap.trace.schema import EVENTS
from mmiotap.trace.sealer import Sealer
from mmiotap.trace.writer import TraceWriter, read_footer, sealed_in
from recordings import Producer, new_recording
from synthetic import INFO, row, write_trace

PID = os.getpid()


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own; mounting it needs root, which CI is."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "none", folder], check=True, timeout=10)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True, timeout=10)


def fill(folder: Path) -> Path:
    """A file that takes all the room that is left."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return path


class TestCreate:
    def test_an_existing_trace_is_replaced_only_when_forced(self, tmp_path: Path) -> None:
        path = write_trace(tmp_path / "t", [row(0, "read")])
        with pytest.raises(MmiotapError, match=r"exists; .* with -f"):
            TraceWriter.create(path, INFO)
        assert open_trace(path).count == 1
        TraceWriter.create(path, INFO, force=True).finish()
        assert open_trace(path).count == 0

    @pytest.mark.parametrize("what", ["folder", "file", "dangling"])
    def test_what_is_no_trace_is_never_replaced(self, tmp_path: Path, what: str) -> None:
        path = tmp_path / "t"
        if what == "folder":
            path.mkdir()
            (path / "thesis.txt").write_text("years")
        elif what == "file":
            path.write_text("years")
        else:
            path.symlink_to(tmp_path / "nowhere")
        with pytest.raises(MmiotapError, match="is no mmiotap trace; choose another name"):
            TraceWriter.create(path, INFO, force=True)
        assert os.path.lexists(path)
        assert what != "folder" or (path / "thesis.txt").read_text() == "years"

    def test_a_running_recording_is_never_replaced(self, tmp_path: Path) -> None:
        new_recording(tmp_path / "t")
        with pytest.raises(MmiotapError, match=f"is being recorded now .by process {PID}"):
            TraceWriter.create(tmp_path / "t", INFO, force=True)

    def test_where_there_is_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DiskError, match=r"nowhere/t: No such file"):
            TraceWriter.create(tmp_path / "nowhere" / "t", INFO)


class TestWriter:
    def test_parts_are_sorted_stably_and_go_on_after_those_there_are(self, tmp_path: Path) -> None:
        path = write_trace(tmp_path / "t", [row(5, "read", value=1), row(3, "read"), row(5, "read", value=2)])
        writer = TraceWriter(path)
        assert (writer.events, writer.lost) == (3, 0)
        writer.append(pa.Table.from_pylist([row(4, "lost", value=9)], schema=EVENTS), {5: 17, 6: 1})
        writer.append(EVENTS.empty_table(), {5: 18})
        assert [part.name for part in store.TraceDir(path).parts()] == [f"part-{n:06}.parquet" for n in range(3)]
        assert sealed_in(read_footer(store.TraceDir(path).part(1))) == {5: 17, 6: 1}
        again = TraceWriter(path)
        assert (again.events, again.lost, again.sealed) == (4, 9, {5: 18, 6: 1})
        again.finish()
        values = open_trace(path).events(["value"])["value"].to_pylist()
        assert values == [0, 9, 1, 2]
        assert open_trace(path).lost == 9

    def test_any_schema_that_can_be_cast(self, tmp_path: Path) -> None:
        table = pa.Table.from_pylist([row(1, "write", 4)])
        writer = TraceWriter.create(tmp_path / "t", INFO)
        writer.append(table)
        writer.finish()
        assert open_trace(tmp_path / "t").events().to_pylist() == [row(1, "write", 4)]


class TestLines:
    @settings(deadline=None)
    @given(st.lists(st.integers(1, 40_000), max_size=4), st.integers(0, 40_000))
    def test_what_a_crash_left_of_a_line_is_removed(self, sizes: list[int], rest: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "x.jsonl"
            records = [{"text": "x" * size} for size in sizes]
            store.append_lines(path, records)
            with path.open("a") as file:
                file.write("y" * rest)
            assert store.read_lines(path) == records
            store.append_lines(path, [{"text": "last"}])
            assert store.read_lines(path) == [*records, {"text": "last"}]

    def test_fields_of_later_versions_are_ignored(self, tmp_path: Path) -> None:
        mapping = Mapping(1, 2, "/dev/uio0", 3, 4, 5, "r")
        assert Mapping.from_json(mapping.to_json() | {"colour": "red"}) == mapping

    def test_names_that_are_not_utf_8(self, tmp_path: Path) -> None:
        mapping = Mapping(1, 2, os.fsdecode(b"/dev/\xff"), 3, 4, 5, "r")
        writer = TraceWriter.create(tmp_path / "t", INFO)
        writer.add_mappings([mapping])
        assert open_trace(tmp_path / "t").mappings == [mapping]


class TestTheDiskIsFull:
    def test_for_the_arena(self, tmp_path: Path) -> None:
        """It is seen when the arena is made or grows: never later, by the program."""
        with small_disk(tmp_path / "disk", "1M") as disk:
            with pytest.raises(DiskError) as caught:
                new_recording(disk / "t", segments=100)
            assert caught.value.errno == errno.ENOSPC
            assert not any(path.name == "arena" for path in disk.rglob("*"))
            shutil.rmtree(disk / "t")
            arena = new_recording(disk / "t", segments=2)
            with pytest.raises(DiskError):
                arena.grow(100)
            assert arena.segment_count == 2
            filler = fill(disk)
            marks = ArenaWriter(arena, pid=PID, tid=PID)
            assert not marks.mark("no room")
            filler.unlink()
            assert marks.mark("room")
            assert open_trace(disk / "t").events(["text"])["text"].to_pylist() == ["room"]

    def test_for_a_part(self, tmp_path: Path) -> None:
        """Nothing is lost, nothing half is left, and once there is room it goes on."""
        with small_disk(tmp_path / "disk", "2M") as disk:
            arena = new_recording(disk / "t", segments=8)
            thread = Producer(arena, range(8), pid=PID, tid=1)
            thread.write(layout.MAP, value=0, map_id=1, extra=bytes(24) + b"/x" * 2000)
            for value in range(1, 5000):
                thread.write(layout.READ, value=value, pc=hash(value) % 2**60)
            sealer = Sealer(disk / "t", arena)
            filler = fill(disk)
            for _ in range(2):
                with pytest.raises(OSError, match="No space left") as caught:
                    sealer.seal()
                assert caught.value.errno == errno.ENOSPC
                assert list((disk / "t" / "events").iterdir()) == []
                assert sealer.counts() == (5000, 0)
                assert open_trace(disk / "t").count == 5000
            filler.unlink()
            sealer.seal()
            sealer.finish()
            trace = open_trace(disk / "t")
            assert trace.events(["value"])["value"].to_pylist() == list(range(5000))
            assert len(trace.mappings) == 1


def test_a_folder_that_was_removed_stays_away(tmp_path: Path) -> None:
    arena = new_recording(tmp_path / "t")
    thread = Producer(arena, range(4), pid=PID, tid=1)
    thread.write(layout.MAP, map_id=1, extra=bytes(24) + b"/x")
    sealer = Sealer(tmp_path / "t", arena)
    shutil.rmtree(tmp_path / "t")
    late = Sealer(tmp_path / "t", arena)
    for attempt in (sealer.seal, sealer.finish, late.seal, late.finish):
        with pytest.raises(OSError, match="No such file"):
            attempt()
    assert sealer.counts() == late.counts() == (1, 0)
    assert not (tmp_path / "t").exists()


class TestArena:
    def test_the_header_is_what_it_was_made_with(self, tmp_path: Path) -> None:
        made = Arena.create(
            tmp_path / "arena",
            segments=5,
            rules=["/dev/uio*", "anon_inode:[io_uring]", os.fsdecode(b"/\xff")],
            on_full="drop",
            latency=True,
            enabled=False,
            recorder_pid=123,
            recorder_start=2**40,
            patch=2**32 - 1,
            protocol="stop-machine",
        )
        for arena in (made, Arena.open(tmp_path / "arena")):
            assert (arena.segment_count, arena.on_full, arena.latency, arena.enabled) == (5, "drop", True, False)
            assert arena.rules == ["/dev/uio*", "anon_inode:[io_uring]", os.fsdecode(b"/\xff")]
            assert (arena.recorder_pid, arena.recorder_start, arena.closed) == (123, 2**40, False)
            assert (arena.patch, arena.protocol) == (2**32 - 1, "stop-machine")
        reader = Arena.open(tmp_path / "arena")
        made.enabled, made.on_full, made.closed, made.heartbeat = True, "wait", True, 7
        assert (reader.enabled, reader.on_full, reader.closed, reader.heartbeat) == (True, "wait", True, 7)

    def test_its_room_is_taken_at_once(self, tmp_path: Path) -> None:
        arena = new_recording(tmp_path / "t", segments=10)
        size = layout.SEGMENTS_OFFSET + 10 * layout.SEGMENT_SIZE
        assert arena.path.stat().st_size == size
        assert arena.path.stat().st_blocks * 512 >= size

    def test_rules_that_are_too_long(self, tmp_path: Path) -> None:
        with pytest.raises(MmiotapError, match="room for 3071 bytes"):
            Arena.create(
                tmp_path / "arena",
                segments=1,
                rules=["x" * 3072],
                on_full="wait",
                latency=False,
                enabled=True,
                recorder_pid=1,
                recorder_start=1,
            )

    def test_marks_are_cut_between_characters(self, tmp_path: Path) -> None:
        arena = new_recording(tmp_path / "t")
        marks = ArenaWriter(arena, pid=PID, tid=PID)
        assert arena.owners() == set()
        assert marks.mark("é" * 10_000)
        assert arena.owners() == {(PID, PID)}
        assert open_trace(tmp_path / "t").events(["text"])["text"].to_pylist() == ["é" * 8160]
