"""mmiotrace text in and out: the real log byte for byte, every variant that is met, and logs that are none."""

import bz2
import gzip
import io
import lzma
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmiotap import formats
from mmiotap.formats.importing import Imported
from mmiotap.formats.mmiotrace import import_log
from mmiotap.trace import layout
from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.reader import open_trace

FIXTURE = Path(__file__).parents[1] / "data" / "mmiotrace-e1000.log.xz"
MAP = b"MAP 1.000000 1 0xfebc0000 0xffffc90000000000 0x20000 0x0 0\n"


def load(log: bytes, trace: Path) -> Imported:
    return import_log(io.BytesIO(log), "some.log", trace)


def rows(trace: Path) -> list[dict[str, Any]]:
    return open_trace(trace).events().to_pylist()


def exported(trace: Path) -> bytes:
    out = io.BytesIO()
    opened = open_trace(trace)
    formats.write("mmiotrace", opened.batches(), opened, out)
    return out.getvalue()


def test_a_real_log_comes_back_byte_for_byte(tmp_path: Path) -> None:
    found = load(FIXTURE.read_bytes(), tmp_path / "t")
    assert (found.events, found.lost, found.lines, found.cut) == (14076, 0, 14082, None)
    assert exported(tmp_path / "t") == lzma.decompress(FIXTURE.read_bytes())
    trace = open_trace(tmp_path / "t")
    assert trace.state == "imported"
    kinds = Counter(trace.events(["kind"])["kind"].to_pylist())
    assert kinds == {"read": 7382, "write": 6690, "mark": 2, "map": 1, "unmap": 1}
    [mapping] = trace.mappings
    assert (mapping.device, mapping.bar, mapping.physical, mapping.length) == ("00:02.0", 0, 0xFEBC0000, 0x20000)


def test_blocks_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmiotap.formats.importing.BLOCK", 999)
    load(FIXTURE.read_bytes(), tmp_path / "t")
    assert exported(tmp_path / "t") == lzma.decompress(FIXTURE.read_bytes())


def test_a_mark_that_a_block_ends_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = MAP + b"MARK 1.000001 first\nsecond\nRight, the third\nR 4 2.000000 1 0xfebc0008 0x1 0x0 0\n"
    for size in range(20, len(log)):
        monkeypatch.setattr("mmiotap.formats.importing.BLOCK", size)
        import_log(io.BytesIO(log), "some.log", tmp_path / "t", force=True)
        assert exported(tmp_path / "t") == log


def test_many_mappings(tmp_path: Path) -> None:
    """Each has one access, and all are in one block: where each begins is not looked for one after the other."""
    count = 60_000
    log = b"".join(MAP.replace(b" 1 ", b" %d " % number, 1) for number in range(1, count + 1))
    log += b"".join(b"R 4 2.000000 %d 0xfebc0008 0x1 0x0 0\n" % number for number in range(1, count + 1))
    load(log, tmp_path / "t")
    events = open_trace(tmp_path / "t").events(["kind", "offset"])
    assert events["offset"].to_pylist() == count * [0] + count * [8]


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, lambda log: pa.compress(log, "zstd")])
def test_compressed(compress: Any, tmp_path: Path) -> None:
    log = MAP + b"R 4 1.000001 1 0xfebc0008 0x1234 0x0 0\n"
    packed = compress(log)
    load(packed if isinstance(packed, bytes) else packed.to_pybytes(), tmp_path / "t")
    assert exported(tmp_path / "t") == log


def test_an_access_of_each_kind(tmp_path: Path) -> None:
    load(
        MAP
        + b"W 1 1.000001 1 0xfebc0010 0xffffffffffffff80 0xffffffffc0001234 7\n"
        + b"UNKNOWN 1.000002 1 0xfebc0014 f3,a4,90 0x0 0\n"
        + b"R 8 1.000003 2 0x1000 0xffffffffffffffff 0x0 0\n"
        + b"UNMAP 1.000004 1 0x0 0\n",
        tmp_path / "t",
    )
    _, write, unknown, read, unmap = rows(tmp_path / "t")
    assert (write["kind"], write["width"], write["offset"], write["value"]) == ("write", 1, 0x10, 0x80)
    assert (write["pc"], write["pid"], write["time_ns"]) == (0xFFFFFFFFC0001234, 7, 1_000_001_000)
    assert (unknown["kind"], unknown["offset"], unknown["data"]) == ("unknown", 0x14, b"\xf3\xa4\x90")
    reason = layout.REASON_NOT_IN_SOURCE << layout.REASON_SHIFT
    assert unknown["flags"] == layout.VALUE_UNKNOWN | reason
    # No MAP tells where mapping 2 begins: the offset is the address.
    assert (read["kind"], read["offset"], read["value"]) == ("read", 0x1000, 2**64 - 1)
    assert (unmap["kind"], unmap["value"]) == ("unmap", 0x20000)


def test_losses_stand_where_they_were_noticed(tmp_path: Path) -> None:
    log = (
        MAP
        + b"R 4 2.000000 1 0xfebc0000 0x1 0x0 0\nMARK 0.000000 Lost 12 events.\n"
        + b"CPU:1 [LOST 30 EVENTS]\nR 4 3.000000 1 0xfebc0000 0x2 0x0 0\n"
    )
    found = load(log, tmp_path / "t")
    assert found.lost == 42
    lost = [row for row in rows(tmp_path / "t") if row["kind"] == "lost"]
    assert [(row["value"], row["cpu"], row["time_ns"]) for row in lost] == [(12, -1, 2 * 10**9), (30, 1, 2 * 10**9)]
    assert exported(tmp_path / "t") == log


def test_what_else_is_met(tmp_path: Path) -> None:
    header = b"VERSION 20070824\nPCIDEV 0010 8086100e b febc0000 c041 0 0 0 0 0 20000 40 0 0 0 0 0 e1000\n"
    text = b"LSPCI 00:02.0 Ethernet controller\n"
    body = (
        MAP
        + b"MARK 1.500000 a text\nthat goes on here\n# and here\n"
        + b"W 4 2.000000 1 0xfebc0000 0x1 0x0 0\nrw what?\n"
    )
    load(b"# tracer: mmiotrace\n#\n" + (header + text + body + header).replace(b"\n", b"\r\n"), tmp_path / "t")
    trace = open_trace(tmp_path / "t")
    assert len(trace.info["pci_devices"]) == 1
    assert exported(tmp_path / "t") == header + text + body.replace(b"# and here\n", b"")


def test_a_mapping_id_that_is_used_again(tmp_path: Path) -> None:
    log = (
        MAP
        + b"R 4 1.100000 1 0xfebc0008 0x1 0x0 0\nUNMAP 1.200000 1 0x0 0\n"
        + b"MAP 1.300000 1 0xfe000000 0xffffc90000040000 0x1000 0x0 0\nR 4 1.400000 1 0xfe000010 0x2 0x0 0\n"
    )
    load(log, tmp_path / "t")
    assert [row["offset"] for row in rows(tmp_path / "t") if row["kind"] == "read"] == [8, 0x10]
    assert exported(tmp_path / "t") == log


def test_a_last_line_that_is_cut_short(tmp_path: Path) -> None:
    found = load(MAP + b"R 4 1.000001 1 0xfebc0008 0x1 0x0 0\nW 4 1.0000", tmp_path / "t")
    assert (found.cut, found.events, found.lines) == ("W 4 1.0000", 2, 3)


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (b"", "the file is empty"),
        (b"\x7fELF\x02\x01\x01", "line 1: no mmiotrace log: it begins with"),
        (b"hello\n", "no mmiotrace log: it begins with 'hello'"),
        (b"#\nVERSION 20200101\n", "line 2: version 20200101"),
        (MAP + b"R 4 1.0 1 0xfebc0008 0x1 0x0\n", "line 2: 'R 4 1.0 1 0xfebc0008 0x1 0x0' is not R WIDTH TIME"),
        (MAP + b"R 4 1.000001 1 0xfebc0008 0xfoo 0x0 0\n", "line 2"),
        (MAP + b"R 4x1.000001 1 0xfebc0008 0x1 0x0 0\n" + MAP, "line 2"),
        (MAP * 3 + b"what is this\n" + MAP, "line 4"),
        (gzip.compress(MAP * 1000)[:-20], "after byte 0 of the text: the gzip data end too early"),
        (lzma.compress(MAP * 1000)[:-20], "the xz data"),
        (bz2.compress(MAP)[:-4], "the bzip2 data"),
    ],
)
def test_logs_that_are_none_leave_no_trace(log: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(MmiotapError, match=message.replace("(", r"\(")) as error:
        load(log, tmp_path / "t")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_import_replaces_nothing(tmp_path: Path) -> None:
    load(MAP, tmp_path / "t")
    with pytest.raises(MmiotapError, match="line 2"):
        import_log(io.BytesIO(MAP + b"garbage\n"), "log", tmp_path / "t", force=True)
    assert exported(tmp_path / "t") == MAP
    with pytest.raises(MmiotapError, match="exists"):
        load(MAP, tmp_path / "t")


HEX = st.integers(0, 2**64 - 1).map("{:#x}".format)
IDS = st.integers(-(2**31), 2**31 - 1).map(str)
ACCESS = st.builds(
    lambda kind, width, map_id, physical, value, pc, pid: (
        f"{kind} {width} {{}} {map_id} {physical} {value & (1 << 8 * width) - 1:#x} {pc} {pid}"
    ),
    st.sampled_from("RW"),
    st.sampled_from([1, 2, 4, 8]),
    IDS,
    HEX,
    st.integers(0, 2**64 - 1),
    HEX,
    IDS,
)
UNKNOWN = st.builds(
    lambda map_id, physical, opcodes: f"UNKNOWN {{}} {map_id} {physical} {opcodes.hex(',')} 0x0 0",
    IDS,
    HEX,
    st.binary(min_size=3, max_size=3),
)


@settings(deadline=None, max_examples=50)
@given(st.lists(ACCESS | UNKNOWN, min_size=1, max_size=30), st.lists(st.integers(0, 2**40), min_size=30, max_size=30))
def test_any_log_in_order_comes_back(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], times: list[int]
) -> None:
    stamps = sorted(times)[: len(lines)]
    log = "".join(
        line.format(f"{time // 10**6}.{time % 10**6:06d}") + "\n" for line, time in zip(lines, stamps, strict=True)
    ).encode()
    trace = tmp_path_factory.mktemp("log") / "t"
    load(log, trace)
    assert exported(trace) == log
