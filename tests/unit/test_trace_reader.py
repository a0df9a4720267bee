"""Opening traces in any state, selecting from them, and what other programs make of the files."""

import contextlib
import gc
import os
import shutil
import tempfile
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmiotap.trace import layout, store
from mmiotap.trace.arena import Arena
from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.reader import open_trace
from mmiotap.trace.schema import EVENTS, KINDS
from mmiotap.trace.sealer import Sealer
from mmiotap.trace.writer import TraceWriter
from recordings import Producer, abandon, new_recording
from synthetic import INFO, START, row, write_trace

PID = os.getpid()
FIRST = [row(time, "write" if time % 2 else "read", 4, time % 8, time) for time in range(0, 100)]
#: Overlaps with the first part.
SECOND = [row(time, "read", 8, 16, time, tid=7) for time in range(90, 150)]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return write_trace(tmp_path / "t", FIRST, SECOND)


class TestSelecting:
    def test_all(self, trace: Path) -> None:
        table = open_trace(trace).events()
        assert table.schema == EVENTS
        assert table.num_rows == open_trace(trace).count == 160
        assert table["time_ns"].to_pylist() == sorted(line["time_ns"] for line in FIRST + SECOND)
        assert table.to_pylist()[:90] == FIRST[:90]

    def test_columns_come_as_they_are_asked_for(self, trace: Path) -> None:
        table = open_trace(trace).events(["value", "kind"])
        assert table.column_names == ["value", "kind"]
        assert table.schema.field("kind") == EVENTS.field("kind")
        assert open_trace(trace).events([]).num_columns == 0

    def test_a_column_that_is_none(self, trace: Path) -> None:
        with pytest.raises(MmiotapError, match=r"no column 'colour'; there are time_ns, "):
            open_trace(trace).events(["colour"])

    @pytest.mark.parametrize(
        ("where", "count"),
        [
            (pc.field("kind") == "write", 50),
            (pc.field("kind").isin(["write", "mark"]), 50),
            (pc.field("tid") == 7, 60),
            (pc.field("time_ns") < START + 95, 100),
            ((pc.field("width") == 4) & (pc.field("offset") >= 4), 48),
            (pc.field("text").is_valid(), 0),
        ],
    )
    def test_rows(self, trace: Path, where: pc.Expression, count: int) -> None:
        """The condition may use columns that are not asked for, and is the same for sealed and for live rows."""
        assert open_trace(trace).events(["value"], where).num_rows == count
        assert open_trace(trace).events(where=where).to_pylist() == open_trace(trace).events().filter(where).to_pylist()

    def test_rows_of_a_running_trace(self, tmp_path: Path) -> None:
        arena = new_recording(tmp_path / "t")
        thread = Producer(arena, range(4), pid=PID, tid=1)
        for value in range(10):
            thread.write(layout.WRITE if value % 2 else layout.READ, value=value)
            if value == 4:
                Sealer(tmp_path / "t", arena).seal()
        found = open_trace(tmp_path / "t").events(["value"], pc.field("kind") == "write")
        assert found.to_pydict() == {"value": [1, 3, 5, 7, 9]}

    def test_batches_are_lazy(self, trace: Path) -> None:
        batches = open_trace(trace).batches()
        store.TraceDir(trace).part(1).unlink()
        with pytest.raises(MmiotapError, match=r"part-000001\.parquet"):
            list(batches)


class TestStates:
    def test_without_parts(self, tmp_path: Path) -> None:
        trace = open_trace(write_trace(tmp_path / "t"))
        assert (trace.state, trace.count, trace.lost) == ("finished", 0, 0)
        assert trace.events().schema == EVENTS
        assert list(trace.batches()) == []

    def test_imported(self, tmp_path: Path) -> None:
        writer = TraceWriter.create(tmp_path / "t", INFO | {"state": "imported"})
        assert open_trace(tmp_path / "t").state == "incomplete"
        writer.finish()
        assert open_trace(tmp_path / "t").state == "imported"

    def test_of_a_recorder_whose_pid_another_process_has_now(self, tmp_path: Path) -> None:
        new_recording(tmp_path / "t")
        assert open_trace(tmp_path / "t").state == "recording"
        abandon(tmp_path / "t")
        assert open_trace(tmp_path / "t").state == "incomplete"

    def test_without_a_word_of_its_recorder(self, tmp_path: Path) -> None:
        new_recording(tmp_path / "t")
        info = store.read_info(tmp_path / "t")
        del info["recorder_start"]
        store.write_info(tmp_path / "t", info | {"recorder_pid": 2**22 + 1})  # there is no such process (PID_MAX_LIMIT)
        assert open_trace(tmp_path / "t").state == "incomplete"

    def test_a_trace_is_what_it_was_when_it_was_opened(self, tmp_path: Path) -> None:
        arena = new_recording(tmp_path / "t")
        thread = Producer(arena, range(4), pid=PID, tid=1)
        thread.write(layout.READ, value=1)
        trace = open_trace(tmp_path / "t")
        thread.write(layout.READ, value=2)
        Sealer(tmp_path / "t", arena).finish()
        shutil.rmtree(tmp_path / "t" / "live")
        assert trace.count == 1
        assert trace.events(["value"]).to_pydict() == {"value": [1]}
        assert open_trace(tmp_path / "t").count == 2

    def test_killed_after_trace_json_and_before_the_arena_was_removed(self, tmp_path: Path) -> None:
        arena = new_recording(tmp_path / "t")
        Producer(arena, range(4), pid=PID, tid=1).write(layout.READ, value=1)
        Sealer(tmp_path / "t", arena).finish()
        assert arena.path.exists()
        assert open_trace(tmp_path / "t").count == 1


class TestOtherPrograms:
    """The folder is the interface: every reader of Parquet sees words and nulls."""

    @pytest.fixture
    def sealed(self, tmp_path: Path) -> Path:
        arena = new_recording(tmp_path / "t")
        thread = Producer(arena, range(4), pid=PID, tid=1)
        for kind in KINDS:
            thread.write(kind, value=2**64 - kind, width=4)
        thread.write(layout.READ, width=16, value=1, extra=bytes(range(16)))
        thread.mark("héllo")
        sealer = Sealer(tmp_path / "t", arena)
        sealer.seal()
        thread.write(layout.READ, value=5, duration_ns=80)
        sealer.finish()
        return tmp_path / "t"

    WORDS = (*KINDS.values(), "read", "mark", "read")

    def test_duckdb(self, sealed: Path) -> None:
        query = f"select kind, value, data, text, duration_ns from '{sealed}/events/*.parquet' order by time_ns"
        found = duckdb.connect().execute(query).fetchall()
        assert tuple(line[0] for line in found) == self.WORDS
        assert found[1][1] == 2**64 - 2
        assert found[7][2] == bytes(range(16))
        assert found[8][3] == "héllo"
        assert [line[4] for line in found] == [None] * 9 + [80]

    def test_polars(self, sealed: Path) -> None:
        found = pl.read_parquet(sealed / "events" / "*.parquet").sort("time_ns", maintain_order=True)
        assert tuple(found["kind"].cast(pl.String)) == self.WORDS
        assert found["value"][1] == 2**64 - 2
        assert found["value"].dtype == pl.UInt64
        assert found["data"][7] == bytes(range(16))

    def test_pandas_and_polars_from_a_table(self, sealed: Path) -> None:
        table = open_trace(sealed).events()
        assert tuple(table.to_pandas()["kind"]) == self.WORDS
        assert tuple(pl.DataFrame(pl.from_arrow(table))["kind"].cast(pl.String)) == self.WORDS


class TestTrouble:
    """One line that names the file, and what to do."""

    def refuses(self, folder: Path, *words: str) -> None:
        with pytest.raises(MmiotapError) as caught:
            open_trace(folder).events()
        text = str(caught.value)
        assert "\n" not in text
        for word in words:
            assert word in text

    def test_nothing_there(self, tmp_path: Path) -> None:
        self.refuses(tmp_path / "t", f"{tmp_path / 't'}: there is no such trace")

    def test_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "t").write_text("hello")
        self.refuses(tmp_path / "t", "is no mmiotap trace")

    @pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": "new", "state": "finished"}', '"\\ud800'])
    def test_trace_json_is_damaged(self, trace: Path, text: str) -> None:
        (trace / "trace.json").write_text(text)
        self.refuses(trace, str(trace), "is no mmiotap trace")

    def test_of_a_later_version(self, trace: Path) -> None:
        store.write_info(trace, store.read_info(trace) | {"format": 2})
        self.refuses(trace, "update mmiotap")

    @pytest.mark.parametrize("keep", [0, 3, 100, -1, -9])
    def test_a_part_is_cut_off(self, trace: Path, keep: int) -> None:
        part = store.TraceDir(trace).part(0)
        part.write_bytes(part.read_bytes()[:keep])
        self.refuses(trace, f"{part} is damaged", "without this file")
        part.unlink()
        assert open_trace(trace).events().num_rows == len(SECOND)

    def test_a_part_is_damaged_inside(self, trace: Path) -> None:
        part = store.TraceDir(trace).part(0)
        data = bytearray(part.read_bytes())
        data[4:200] = bytes(196)
        part.write_bytes(data)
        self.refuses(trace, f"{part} is damaged", "without this file")

    def test_a_foreign_part(self, trace: Path) -> None:
        part = store.TraceDir(trace).part(0)
        pq.write_table(pa.table({"a": [1]}), part)
        self.refuses(trace, f"{part} is no part of a trace", "move it elsewhere")

    def test_a_foreign_part_with_our_columns(self, trace: Path) -> None:
        part = store.TraceDir(trace).part(0)
        pq.write_table(pa.table({name: ["x"] for name in EVENTS.names}), part)
        self.refuses(trace, f"{part} is no part of a trace", "move it elsewhere")

    def test_a_strange_name(self, trace: Path) -> None:
        (trace / "events" / "part-x.parquet").touch()
        self.refuses(trace, "part-x.parquet", "move it elsewhere")

    @pytest.mark.parametrize("line", ["{", "[1]", "{}", '{"map_id": 1}', '{"map_id": "x"}'])
    def test_a_line_is_damaged(self, trace: Path, line: str) -> None:
        with (trace / "mappings.jsonl").open("a") as file:
            file.write(f"{line}\n")
        self.refuses(trace, "mappings.jsonl is damaged")

    def test_half_a_line_is_what_a_crash_leaves(self, trace: Path) -> None:
        before = open_trace(trace).mappings
        with (trace / "mappings.jsonl").open("a") as file:
            file.write('{"map_id"')
        assert open_trace(trace).mappings == before

    @pytest.mark.parametrize("damage", ["cut", "foreign", "version"])
    def test_the_arena_is_damaged(self, tmp_path: Path, damage: str) -> None:
        path = new_recording(tmp_path / "t").path
        abandon(tmp_path / "t")
        data = bytearray(path.read_bytes())
        path.unlink()
        if damage == "version":
            data[layout.H_VERSION] = 9
        if damage == "cut":
            del data[5000:]
        if damage == "foreign":
            data[:] = bytes(len(data))
        path.write_bytes(data)
        self.refuses(tmp_path / "t", str(path), "another version" if damage == "version" else "is damaged; remove")

    def test_an_arena_that_is_refused_is_closed_once(self, tmp_path: Path) -> None:
        """The second time its number would be another file's."""
        path = tmp_path / "arena"
        path.write_bytes(b"nothing")
        with pytest.raises(MmiotapError) as refused:
            Arena.open(path)
        other = os.open(os.devnull, os.O_RDONLY)
        del refused
        gc.collect()
        os.fstat(other)
        os.close(other)

    def test_segments_are_cut_off(self, tmp_path: Path) -> None:
        """What is there is read."""
        arena = new_recording(tmp_path / "t")
        thread = Producer(arena, range(4), pid=PID, tid=1)
        for value in range(1500):
            thread.write(layout.READ, value=value)
        abandon(tmp_path / "t")
        data = arena.path.read_bytes()
        arena.path.unlink()
        arena.path.write_bytes(data[: layout.SEGMENTS_OFFSET + 3 * layout.SEGMENT_SIZE // 2])
        assert open_trace(tmp_path / "t").count == layout.ROWS_PER_SEGMENT

    @settings(deadline=None, max_examples=200)
    @given(st.lists(st.tuples(st.integers(0, 100 * layout.ROW_SIZE), st.binary(min_size=1, max_size=64)), max_size=20))
    def test_segments_are_damaged(self, damage: list[tuple[int, bytes]]) -> None:
        """Nobody can tell what was there; but that is no reason for more than an error of ours."""
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent) / "t"
            arena = new_recording(folder)
            thread = Producer(arena, range(4), pid=PID, tid=1)
            for kind in (*range(1, 8), layout.MODULE, layout.OTHER, layout.PROCESS, layout.SITE):
                thread.write(kind, map_id=1, extra=bytes(range(200)))
                thread.write(kind, map_id=1)
            abandon(folder)
            with arena.path.open("r+b") as file:
                for offset, data in damage:
                    file.seek(layout.SEGMENTS_OFFSET + offset)
                    file.write(data)
            with contextlib.suppress(MmiotapError):
                before = open_trace(folder)
                assert before.events().num_rows == before.count
                assert before.modules is not None
                assert before.sites is not None
                del arena, thread
                Sealer(folder, Arena.open(store.TraceDir(folder).arena, writable=True), "recovered").finish()
                assert open_trace(folder).events().num_rows == before.count

    def test_no_permission(self, trace: Path) -> None:
        """Root may read everything, so this asks as somebody else."""
        pid = os.fork()
        if pid == 0:
            os.setgid(65534)
            os.setuid(65534)
            try:
                open_trace(trace)
            except MmiotapError as error:
                os._exit(0 if "Permission denied" in str(error) else 2)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_only_the_owner_may_look(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        arena: Arena = new_recording(tmp_path / "t")
        thread = Producer(arena, range(4), pid=PID, tid=1)
        thread.write(layout.MAP, map_id=1, extra=bytes(24) + b"/x")
        Sealer(tmp_path / "t", arena).seal()
    finally:
        os.umask(umask)
    paths = [tmp_path / "t", *(tmp_path / "t").rglob("*")]
    assert {path.name for path in paths} >= {"trace.json", "events", "live", "arena", "mappings.jsonl"}
    for path in paths:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
