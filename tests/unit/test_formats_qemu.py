"""QEMU's log: every shape of its lines, what is no such line, and the log of a real device."""

import contextlib
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmiotap.formats import mmiotrace, qemu, qemu_block, qemu_lines
from mmiotap.formats.qemu_lines import Record, Region
from mmiotap.trace import layout
from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.reader import Trace, open_trace

DATA = Path(__file__).parent.parent / "data"
READ = b"memory_region_ops_read cpu 0 mr 0x55d0 addr 0xfebc0008 value 0x80080783 size 4 name 'e1000-mmio'"
E1000 = Region(qemu_lines.OPS, b"0x55d0", b"e1000-mmio")
TIME = 1_795_275_381_123_456_000

SHAPES = {
    READ: Record(None, layout.READ, 4, E1000, 0xFEBC0008, 0x80080783, 0, 0),
    # QEMU 4 and 5: time and process in front, no name.
    b"4711@1795275381.123456:memory_region_ops_write cpu 1 mr 0x55d0 addr 0x3f8 value 0x41 size 1": Record(
        TIME, layout.WRITE, 1, Region(qemu_lines.OPS, b"0x55d0", b""), 0x3F8, 0x41, 4711, 1
    ),
    # QEMU 10.2 and later with -msg timestamp=on, guest-name=on; the names hold spaces.
    b"2026-11-21T15:36:21.123456Z [my guest] qemu-system-x86_64: (4711:CPU 1/TCG): " + READ: Record(
        TIME, layout.READ, 4, E1000, 0xFEBC0008, 0x80080783, 4711, 0
    ),
    b"2026-11-21T15:36:21Z " + READ: Record(TIME // 10**9 * 10**9, layout.READ, 4, E1000, 0xFEBC0008, 0x80080783, 0, 0),
    b"qemu-system-x86_64: (4711:main): " + READ: Record(None, layout.READ, 4, E1000, 0xFEBC0008, 0x80080783, 4711, 0),
    b"memory_region_ops_read cpu -1 mr 0x55d0 addr 0xffffffffffffffff value 0xffffffffffffffff size 2 name "
    b"'it's a \xff name'": Record(
        None, layout.READ, 2, Region(qemu_lines.OPS, b"0x55d0", b"it's a \xff name"), 2**64 - 1, 0xFFFF, 0, -1
    ),
    b"memory_region_ops_read cpu 0 mr 0x55d0 addr 0x10000 value 0x0 size 8 name ''": Record(
        None, layout.READ, 8, Region(qemu_lines.OPS, b"0x55d0", b""), 0x10000, 0, 0, 0
    ),
    b"memory_region_subpage_write cpu 0 mr 0x55d0 offset 0x10 value 0x1 size 4": Record(
        None, layout.WRITE, 4, Region(qemu_lines.SUBPAGE, b"0x55d0", b""), 0x10, 1, 0, 0
    ),
    b"memory_region_ram_device_read cpu 0 mr 0x55d0 addr 0x10 value 0x1 size 4": Record(
        None, layout.READ, 4, Region(qemu_lines.RAM_DEVICE, b"0x55d0", b""), 0x10, 1, 0, 0
    ),
    b"vfio_region_read  (0000:01:00.0:region0+0x1008, 4) = 0x10": Record(
        None, layout.READ, 4, Region(qemu_lines.VFIO, b"0", b"0000:01:00.0"), 0x1008, 0x10, 0, -1
    ),
    b"4711@1795275381.123456:vfio_region_write  (0000:01:00.0:region2+0x4, 0xff, 1)": Record(
        TIME, layout.WRITE, 1, Region(qemu_lines.VFIO, b"2", b"0000:01:00.0"), 4, 0xFF, 4711, -1
    ),
}


@pytest.mark.parametrize("line", SHAPES)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_shape_of_a_line(line: bytes, end: bytes) -> None:
    assert qemu_lines.parse(line) == SHAPES[line]
    assert _records(line + end) == [SHAPES[line]]


def test_all_shapes_in_one_log() -> None:
    assert _records(b"\n".join(SHAPES) + b"\n") == list(SHAPES.values())


def test_what_is_no_access_is_told_from_what_cannot_be_read() -> None:
    lines = [b"", b"Trace: nothing", READ, b"memory_region_ops_read cpu 0 mr", READ[:-1], READ, b"vfio_region_read  (x"]
    block = qemu_block.Reader().parse(b"\n".join(lines) + b"\n")
    assert block.accesses.line.tolist() == [2, 5]
    assert block.unread == [3, 4, 6]
    assert block.others.tolist() == [0, 1]


_NAMES = st.binary(max_size=30).filter(lambda name: b"\n" not in name and b"\r" not in name)


@st.composite
def _lines(draw: st.DrawFn) -> bytes:
    """A line of a log, and often one with something wrong in it."""
    prefix = draw(
        st.sampled_from([b"", b"1@2.000003:", b"12345@1795275381.123456:", b"x", b"2026-11-21T15:36:21.123456Z "])
        | st.just(b"2026-02-30T15:36:21.123456Z (1:main): ")
        | st.builds(b"2026-11-21T15:36:%02d.123456Z q: (%d:CPU 0/TCG): ".__mod__, st.tuples(*[st.integers(0, 99)] * 2))
        | _NAMES
    )
    event = draw(st.sampled_from([b"ops", b"ops", b"subpage", b"ram_device"]))
    word = b"addr" if event != b"subpage" else b"offset"
    numbers = [draw(st.integers(0, 2**64 - 1)) for _ in range(3)]
    numbers[0] %= 4
    line = b"%smemory_region_%s_%s cpu %d mr 0x%x %s 0x%x value 0x%x size %d" % (
        prefix,
        event,
        draw(st.sampled_from([b"read", b"write"])),
        draw(st.integers(-1, 40000)),
        numbers[0] + 0x55D0,
        word,
        numbers[1],
        numbers[2],
        draw(st.sampled_from([1, 2, 4, 8, 16, 255, 256])),
    )
    if draw(st.booleans()):
        line += b" name '%s'" % draw(_NAMES)
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(line)))
        line = line[:at] + draw(st.binary(max_size=3)) + line[at + draw(st.integers(0, 3)) :]
    return line


@settings(max_examples=300, deadline=None)
@given(st.lists(_lines() | st.binary(max_size=60), max_size=8))
def test_a_block_says_what_its_lines_say(lines: list[bytes]) -> None:
    text = b"\n".join(lines) + b"\n"
    expected = [
        qemu_lines.parse(line.removesuffix(b"\r") if len(line) > 1 else line) for line in text.split(b"\n")[:-1]
    ]
    assert _records(text) == [record for record in expected if record]


@settings(max_examples=50, deadline=None)
@given(text=st.binary(max_size=400), after=st.booleans())
def test_any_bytes_become_a_trace_or_one_clear_line(
    text: bytes, after: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("log") / "a.mmiotap"
    data = (READ + b"\n" + text) if after else text
    with contextlib.suppress(MmiotapError):
        found = qemu.import_log(io.BytesIO(data), "log", folder)
        assert open_trace(folder).count == found.events > 0
        return
    assert not folder.exists()


def test_log_of_a_real_device_equals_what_the_kernel_saw(tmp_path: Path) -> None:
    with (DATA / "qemu-e1000.log.xz").open("rb") as log:
        found = qemu.import_log(log, "qemu-e1000.log.xz", tmp_path / "qemu.mmiotap")
    with (DATA / "mmiotrace-e1000.log.xz").open("rb") as log:
        mmiotrace.import_log(log, "mmiotrace-e1000.log.xz", tmp_path / "kernel.mmiotap")
    assert (found.events, found.lines, found.unread, found.doubled) == (14072, 14072, 0, 0)
    trace = open_trace(tmp_path / "qemu.mmiotap")
    assert _accesses(trace) == _accesses(open_trace(tmp_path / "kernel.mmiotap"))
    (mapping,) = trace.mappings
    assert (mapping.path, mapping.physical) == ("e1000-mmio", 0xFEBC0000)
    assert trace.info["clock"] == "lines"


def test_regions_become_mappings(tmp_path: Path) -> None:
    lines = [
        b"memory_region_ops_write cpu 0 mr 0x1 addr 0x3fd value 0x1 size 1 name 'serial'",
        b"memory_region_ops_write cpu 0 mr 0x1 addr 0x3f8 value 0x1 size 1 name 'serial'",
        b"memory_region_ops_write cpu 0 mr 0x2 addr 0xfebd1010 value 0x1 size 4 name 'msix table'",
        b"memory_region_ops_write cpu 0 mr 0x2 addr 0xfebd0000 value 0x1 size 4 name 'msix table'",
        b"memory_region_ops_write cpu 0 mr 0x3 addr 0xfed00000 value 0x1 size 4",
    ]
    trace = _imported(tmp_path, lines)
    assert [(one.path, one.physical, one.length) for one in trace.mappings] == [
        ("ioports:serial", 0x3F8, 8),
        ("msix table", 0xFEBD0000, 0x2000),
        ("0xfed00000", 0xFED00000, 0x1000),
    ]
    assert trace.events(["map_id", "offset"]).to_pydict() == {
        "map_id": [1, 1, 2, 2, 3],
        "offset": [5, 0, 0x1010, 0, 0],
    }


def test_passed_through_devices_have_bars(tmp_path: Path) -> None:
    lines = [line for line in SHAPES if b"vfio" in line]
    trace = _imported(tmp_path, lines)
    assert [(one.path, one.device, one.bar) for one in trace.mappings] == [
        ("0000:01:00.0/BAR0", "0000:01:00.0", 0),
        ("0000:01:00.0/BAR2", "0000:01:00.0", 2),
    ]
    assert trace.events(["offset"])["offset"].to_pylist() == [0x1008, 4]


def test_an_access_that_two_events_tell_of_is_one(tmp_path: Path) -> None:
    with io.BytesIO(b"\n".join(SHAPES)) as log:
        found = qemu.import_log(log, "log", tmp_path / "a.mmiotap")
    assert (found.events, found.doubled) == (7, 4)
    assert [one.path for one in open_trace(tmp_path / "a.mmiotap").mappings] == [
        "e1000-mmio",
        "0x0",
        "it's a \\xff name",
    ]


def test_order_of_the_log_is_kept_where_times_are_not_in_order(tmp_path: Path) -> None:
    lines = [b"1@10.0000%02d:" % micros + READ[:-1] + b"%d'" % micros for micros in (20, 10, 30)]
    trace = _imported(tmp_path, lines)
    assert trace.info["clock"] == "unix"
    events = trace.events(["time_ns", "map_id"])
    assert events["map_id"].to_pylist() == [1, 2, 3]
    assert events["time_ns"].to_pylist() == [10_000_020_000, 10_000_020_000, 10_000_030_000]


def test_says_where_a_line_cannot_be_read(tmp_path: Path) -> None:
    log = io.BytesIO(b"\n".join([b"hello", READ, READ[:40], READ[:50]]))
    found = qemu.import_log(log, "log", tmp_path / "a.mmiotap")
    assert (found.events, found.lines, found.unread, found.first_unread) == (1, 4, 2, 3)


def test_log_without_an_access(tmp_path: Path) -> None:
    with pytest.raises(MmiotapError, match="no QEMU log with accesses"):
        qemu.import_log(io.BytesIO(b"hello\n"), "log", tmp_path / "a.mmiotap")


def test_line_without_end_does_not_fill_the_memory(tmp_path: Path) -> None:
    log = io.BytesIO(READ + b"\n" + b"x" * (9 << 20) + b"\n" + READ)
    found = qemu.import_log(log, "log", tmp_path / "a.mmiotap")
    assert (found.events, found.lines) == (2, 3)


def _imported(tmp_path: Path, lines: list[bytes]) -> Trace:
    with io.BytesIO(b"\n".join(lines)) as log:
        qemu.import_log(log, "log", tmp_path / "a.mmiotap")
    return open_trace(tmp_path / "a.mmiotap")


def _records(text: bytes) -> list[Record]:
    block = qemu_block.Reader().parse(text)
    columns = vars(block.accesses)
    rows = zip(*(columns[name].tolist() for name in columns if name != "line"), strict=True)
    names = [name for name in columns if name != "line"]
    records = (dict(zip(names, row, strict=True)) for row in rows)
    return [
        Record(**record | {"region": block.regions[record["region"]], "time_ns": _time(record["time_ns"])})
        for record in records
    ]


def _time(time_ns: int) -> int | None:
    return None if time_ns < 0 else time_ns


def _accesses(trace: Trace) -> list[tuple[object, ...]]:
    columns = ["kind", "offset", "width", "value"]
    table = trace.events(columns).to_pydict()
    return [row for row in zip(*table.values(), strict=True) if row[0] in ("read", "write")]
