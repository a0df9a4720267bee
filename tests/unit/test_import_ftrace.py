"""trace.dat and copies of tracefs: the same rows as the pages themselves give, and damage that is named."""

import io
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
