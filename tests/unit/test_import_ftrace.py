"""trace.dat and copies of tracefs: the same rows as the pages themselves give, and damage that is named."""

import io
import lzma
import re
import struct
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

import tracedat
from mmiotap.formats.detect import import_folder, import_log
from mmiotap.formats.ftrace.events import Decoder
from mmiotap.formats.importing import Imported
from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.reader import open_trace
from test_ftrace import DATA, formats, recorded

HEADER, *EVENTS = (DATA / "ftrace-formats.txt").read_bytes().split(b"name: ")
EVENTS = [b"name: " + text for text in EVENTS]


def zstd(data: bytes) -> bytes:
    return pa.compress(data, "zstd", asbytes=True)


FILES: dict[str, Callable[[list[bytes]], bytes]] = {
    "6": lambda cpus: tracedat.version_6(HEADER, EVENTS, cpus),
    "7": lambda cpus: tracedat.version_7(HEADER, EVENTS, cpus),
    "7-zlib": lambda cpus: tracedat.version_7(HEADER, EVENTS, cpus, name="zlib"),
    "7-zstd": lambda cpus: tracedat.version_7(HEADER, EVENTS, cpus, name="zstd", pack=zstd),
}


def load(data: bytes, trace: Path) -> tuple[str, Imported]:
    return import_log(io.BytesIO(data), "some.dat", trace)


@pytest.fixture(scope="module")
def expected() -> pa.Table:
    return Decoder(formats()).table([(0, recorded())], "pages")


@pytest.mark.parametrize("version", FILES)
def test_trace_dat_is_its_pages(version: str, expected: pa.Table, tmp_path: Path) -> None:
    kind, found = load(FILES[version]([recorded(), b""]), tmp_path / "t")
    trace = open_trace(tmp_path / "t")
    assert (kind, found.cut, trace.info["clock"]) == ("trace.dat", None, "mono")
    assert trace.events().equals(expected)
    (mapping,) = trace.mappings
    assert (mapping.map_id, mapping.physical, mapping.length) == (1, 0xFEBA0000, 0x20000)


@pytest.mark.parametrize("name", ["trace-cmd-6.dat.xz", "trace-cmd-7.dat"])
def test_trace_dat_that_trace_cmd_wrote(name: str, expected: pa.Table, tmp_path: Path) -> None:
    """The same pages by Debian's trace-cmd 3.1.6, `trace-cmd convert`: version 7 compressed with zstd."""
    load((DATA / name).read_bytes(), tmp_path / "t")
    assert open_trace(tmp_path / "t").events().equals(expected)


def reported(name: str) -> list[dict[str, str]]:
    """Events as `trace-cmd report` prints them."""
    line = re.compile(r" *(?P<task>.*)-(?P<tid>\d+) +\[(?P<cpu>\d+)\] +(?P<time>[\d.]+): (?P<event>\w+): +(?P<rest>.*)")
    lines = lzma.decompress((DATA / f"trace-cmd-{name}.txt.xz").read_bytes()).decode().splitlines()
    assert lines[0] == "cpus=2"
    found = [line.fullmatch(text) for text in lines[1:]]
    return [one.groupdict() for one in found if one]


def test_mmiotrace_that_trace_cmd_recorded(tmp_path: Path) -> None:
    """Each access is what `trace-cmd report` says of it."""
    load((DATA / "trace-cmd-mmiotrace.dat").read_bytes(), tmp_path / "t")
    rows = open_trace(tmp_path / "t").events().to_pylist()
    assert [row["kind"] for row in rows if row["width"] == 0] == ["map", "unmap"]
    assert len(rows) == len(reported("mmiotrace")) == 11_953
    for row, event in zip(rows, reported("mmiotrace"), strict=True):
        assert (row["tid"], row["cpu"]) == (int(event["tid"]), int(event["cpu"]))
        assert abs(row["time_ns"] / 1e9 - float(event["time"])) < 1e-6
        if event["event"] == "mmiotrace_rw":
            physical, value, pc, map_id, opcode, width = (int(field, 16) for field in event["rest"].split())
            kind = {1: "read", 2: "write"}[opcode]
            assert (row["kind"], row["offset"], row["width"]) == (kind, physical - 0xFEBA0000, width)
            assert (row["value"], row["pc"], row["map_id"]) == (value, pc, map_id)


def test_kvm_mmio_that_trace_cmd_recorded(tmp_path: Path) -> None:
    """The same rows as of the text that trace-cmd makes of it, which has microseconds."""
    load((DATA / "trace-cmd-kvm.dat.xz").read_bytes(), tmp_path / "binary")
    load((DATA / "trace-cmd-kvm.txt.xz").read_bytes(), tmp_path / "text")
    binary, text = (open_trace(tmp_path / name) for name in ("binary", "text"))
    assert (binary.info["source"], text.info["source"]) == ("trace.dat", "ftrace-text")
    assert binary.count == text.count == 20_931
    columns = ["kind", "width", "offset", "value", "tid", "cpu", "flags", "map_id"]
    assert binary.events(columns).equals(text.events(columns))
    times = [trace.events(["time_ns"])["time_ns"].to_numpy() for trace in (binary, text)]
    assert abs(times[0] - times[1]).max() < 1000
    waited = [trace.events(["duration_ns"])["duration_ns"] for trace in (binary, text)]
    assert waited[0].null_count == waited[1].null_count == 20_931 - 256
    assert [mapping.path for mapping in binary.mappings] == ["kvm:guest-physical"]


def test_rwmmio_that_trace_cmd_recorded(tmp_path: Path) -> None:
    """Two events are one access: the first has the time and the caller, the second of a read the value."""
    load((DATA / "trace-cmd-rwmmio.dat").read_bytes(), tmp_path / "t")
    rows = open_trace(tmp_path / "t").events().to_pylist()
    assert [row["text"] for row in rows if row["kind"] == "mark"] == ["a mark of the test"]
    told = [one for one in reported("rwmmio") if one["event"] != "print"]
    events = [one | dict(field.split("=") for field in one["rest"].split()) for one in told]
    accesses = [row for row in rows if row["kind"] != "mark"]
    assert 2 * len(accesses) == 240
    for row, first, second in zip(accesses, events[::2], events[1::2], strict=True):
        assert (f"rwmmio_{row['kind']}", f"rwmmio_post_{row['kind']}") == (first["event"], second["event"])
        assert (row["offset"], row["pc"]) == (int(first["addr"], 16), int(first["caller"], 16))
        assert (row["value"], 8 * row["width"]) == (int(second["val"]), int(first["width"]))
        assert (row["tid"], row["cpu"]) == (int(first["tid"]), int(first["cpu"]))
        assert abs(row["time_ns"] / 1e9 - float(first["time"])) < 1e-6
    durations = [row["duration_ns"] for row in accesses if row["kind"] == "read"]
    assert len(durations) == 80
    assert all(durations)


KVM_FORMAT = (DATA / "kvm_mmio.format").read_bytes()
KVM_ID = 1415


def page(time_ns: int, *records: tuple[int, int, int]) -> bytes:
    """kvm_mmio events of thread 7 to one address: nanoseconds since the one before, type and value."""
    data = b""
    for delta, kind, value in records:
        payload = struct.pack("<HBBiIIQQ", KVM_ID, 0, 0, 7, kind, 4, 0xFEE00030, value)
        data += struct.pack("<I", delta << 5 | len(payload) // 4) + payload
    return (struct.pack("<QQ", time_ns, len(data)) + data).ljust(4096, b"\0")


def test_an_answer_on_another_cpu(tmp_path: Path) -> None:
    """Asked on CPU 1, answered on CPU 0. The kernel has no mmiotrace."""
    cpus = [page(5000, (0, 1, 0x42), (100, 2, 1)), page(4000, (10, 0, 0), (50, 2, 9))]
    load(tracedat.version_6(HEADER, EVENTS[2:], cpus, system="kvm", others=[KVM_FORMAT]), tmp_path / "t")
    rows = open_trace(tmp_path / "t").events().to_pylist()
    assert [(row["time_ns"], row["cpu"], row["kind"], row["value"], row["duration_ns"]) for row in rows] == [
        (4010, 1, "read", 0x42, 990),
        (4060, 1, "write", 9, None),
        (5100, 0, "write", 1, None),
    ]


def test_kvm_mmio_in_a_copy_of_tracefs(tmp_path: Path) -> None:
    files = {"events/header_page": HEADER, "events/kvm/kvm_mmio/format": KVM_FORMAT}
    for name, data in (files | {"per_cpu/cpu3/trace_pipe_raw": page(4000, (10, 2, 9))}).items():
        (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / name).write_bytes(data)
    import_folder(tmp_path / "copy", tmp_path / "t")
    (row,) = open_trace(tmp_path / "t").events().to_pylist()
    assert (row["time_ns"], row["cpu"], row["kind"], row["value"]) == (4010, 3, "write", 9)


def test_a_kvm_mmio_that_is_none(tmp_path: Path) -> None:
    data = tracedat.version_6(HEADER, EVENTS, [page(1, (0, 1, 1), (0, 3, 1))], system="kvm", others=[KVM_FORMAT])
    with pytest.raises(MmiotapError, match=r"CPU 0 from byte 0, byte 56: a kvm_mmio of a type or a width"):
        load(data, tmp_path / "t")


def test_a_mapping_of_another_cpu(expected: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page with the mapping comes last: what is in the others is at the same offsets for all that."""
    monkeypatch.setattr("mmiotap.formats.ftrace.importing._PAGES", 2)
    data = recorded()
    load(FILES["6"]([data[4096:], data[:4096]]), tmp_path / "t")
    rows = open_trace(tmp_path / "t").events()
    assert set(rows["cpu"].to_pylist()) == {0, 1}
    columns = [name for name in rows.schema.names if name != "cpu"]
    assert rows.select(columns).equals(expected.select(columns))


def test_a_copy_of_tracefs(expected: pa.Table, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    (copy / "events" / "ftrace").mkdir(parents=True)
    (copy / "events" / "header_page").write_bytes(HEADER)
    for text in EVENTS:
        name = text.split()[1].decode()
        (copy / "events" / "ftrace" / name).mkdir()
        (copy / "events" / "ftrace" / name / "format").write_bytes(text)
    for cpu, data in enumerate((recorded(), b"", recorded()[:100])):
        (copy / "per_cpu" / f"cpu{cpu}").mkdir(parents=True)
        (copy / "per_cpu" / f"cpu{cpu}" / "trace_pipe_raw").write_bytes(data)
    found = import_folder(copy, tmp_path / "t")
    assert found.cut == "100 bytes of CPU 2, from byte 0"
    assert open_trace(tmp_path / "t").events().equals(expected)
    assert open_trace(tmp_path / "t").info["source"] == "ftrace-raw"


def test_a_folder_that_is_no_copy(tmp_path: Path) -> None:
    with pytest.raises(MmiotapError, match="is no copy of tracefs: it has to have events/header_page"):
        import_folder(tmp_path, tmp_path / "t")


def damaged(version: str, place: bytes, instead: bytes) -> bytes:
    data = FILES[version]([recorded()])
    assert data.count(place) >= 1
    return data.replace(place, instead, 1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tracedat.BEGIN + b"6\0", "byte 12: .*the file ends at 12"),
        (damaged("6", b"tracing6", b"tracing9"), "version '9'; 6 and 7 can be read"),
        (damaged("6", b"6\0\0\x08", b"6\0\x01\x08"), "big-endian"),
        (damaged("6", b"header_page\0", b"header_pane\0"), "byte 18: .*'header_page' is not where it has to be"),
        (damaged("6", b"flyrecord", b"latency  "), "it holds text, not records; import what `trace-cmd report` prints"),
        (FILES["6"]([recorded()])[:-9000], "CPU 0 has .* bytes there, and the file ends at"),
        (damaged("7", b"none\0", b"lzma\0"), "compressed with 'lzma'; none, zlib and zstd can be read"),
        (damaged("7-zlib", b"\x78\x9c", b"\x78\x00"), "compressed data that cannot be decompressed"),
        (damaged("7", b"field: u64 timestamp;", b"field: u64 timestomp;"), "byte [0-9]+: .*no description of a page"),
        (damaged("6", b"name: mmiotrace_rw\n", b"name: mmiotrace_xx\n"), "byte 18: .*no events mmiotrace_rw"),
    ],
)
def test_what_is_damaged_is_named(data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(MmiotapError, match=message) as error:
        load(data, tmp_path / "t")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_page_has_its_place(tmp_path: Path) -> None:
    pages = bytearray(recorded())
    struct.pack_into("<Q", pages, 4096 + 8, 5000)
    with pytest.raises(MmiotapError, match=r"some\.dat, CPU 0 from byte 0, byte 4104: a page that says it holds more"):
        load(FILES["6"]([bytes(pages)]), tmp_path / "t")
