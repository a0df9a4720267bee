"""What is written of a trace: every column comes back from CSV, JSON lines and Parquet; mmiotrace says what it can."""

import io
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import MMIOTAP, Compile, Run
from mmiotap import formats
from mmiotap.formats.mmiotrace import import_log
from mmiotap.trace import layout
from mmiotap.trace.reader import open_trace
from mmiotap.trace.schema import EVENTS, KINDS
from recordings import Producer, abandon, new_recording
from synthetic import UIO, row, write_trace

#: Becomes $0 of a shell.
PYTHON = MMIOTAP[0]


def written(format: str, trace: Path) -> bytes:
    out = io.BytesIO()
    opened = open_trace(trace)
    formats.write(format, opened.batches(), opened, out)
    return out.getvalue()


def lines(trace: Path) -> list[str]:
    return written("mmiotrace", trace).decode().removesuffix("\n").split("\n")


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_trace(tmp_path_factory.mktemp("empty") / "t")


INTEGERS = {
    name: st.integers(0 if str(EVENTS.field(name).type).startswith("u") else -(2 ** (bits - 1)), 2 ** (bits - sign) - 1)
    for name in EVENTS.names
    if pa.types.is_integer(EVENTS.field(name).type)
    for bits, sign in [(EVENTS.field(name).type.bit_width, 0 if str(EVENTS.field(name).type).startswith("u") else 1)]
}
ROWS = st.fixed_dictionaries(
    INTEGERS
    | {
        "duration_ns": st.none() | INTEGERS["duration_ns"],
        "kind": st.sampled_from(list(KINDS.values())),
        "data": st.none() | st.binary(max_size=70),
        "text": st.none() | st.text(),
    }
)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(ROWS, max_size=5), max_size=3))
def test_every_column_comes_back(empty: Path, parts: list[list[dict[str, Any]]]) -> None:
    rows = [one for part in parts for one in part]
    outs = {}
    for format in ("csv", "jsonl", "parquet"):
        outs[format] = io.BytesIO()
        tables = (pa.Table.from_pylist(part, schema=EVENTS) for part in parts)
        formats.write(format, tables, open_trace(empty), outs[format])
    readable = [{name: one[name] for name in EVENTS.names} | {"data": _hex(one["data"])} for one in rows]
    assert [json.loads(line) for line in outs["jsonl"].getvalue().split(b"\n")[:-1]] == readable
    assert _read_csv(outs["csv"].getvalue()) == readable
    table = pq.read_table(io.BytesIO(outs["parquet"].getvalue()))
    assert table.to_pylist() == [{name: one[name] for name in EVENTS.names} for one in rows]


def _hex(data: bytes | None) -> str | None:
    return None if data is None else data.hex()


def _read_csv(content: bytes) -> list[dict[str, Any]]:
    words = {"kind": pa.string(), "data": pa.string(), "text": pa.string()}
    read = pyarrow.csv.read_csv(
        io.BytesIO(content),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={field.name: words.get(field.name, field.type) for field in EVENTS},
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    rows: list[dict[str, Any]] = read.to_pylist()
    return rows


def test_mmiotrace_of_what_the_format_cannot_say(tmp_path: Path) -> None:
    unknown = layout.VALUE_UNKNOWN | 1 << layout.REASON_SHIFT
    trace = write_trace(
        tmp_path / "t",
        [
            row(0, "map", value=UIO.address, text=json.dumps(UIO.to_json())),
            row(1000, "write", 4, 0x10, 0xCAFE, pc=0x401000, tid=7),
            row(2999, "read", 16, 0x20, 0x0706050403020100, data=bytes(range(16)), tid=7),
            row(3000, "write", 4, 0x14, flags=unknown, tid=7),
            row(4000, "unknown", 0, 0x18, data=b"\x0f\x01\xf8\x90", tid=7),
            row(5000, "unknown", 0, 0x18, data=b"\xa4", tid=7),
            row(6000, "lost", value=3, map_id=0),
            row(7000, "mark", text="reset done", map_id=0),
            row(8000, "write", 1, 0x8, 1, map_id=2, tid=8),
            row(9000, "unmap", value=0x20000),
        ],
    )
    assert lines(trace) == [
        "VERSION 20070824",
        "MAP 5.000000 1 0xfebc0000 0x7f0000000000 0x20000 0x0 100",
        "W 4 5.000001 1 0xfebc0010 0xcafe 0x401000 7",
        "R 8 5.000002 1 0xfebc0020 0x706050403020100 0x0 7",
        "R 8 5.000002 1 0xfebc0028 0xf0e0d0c0b0a0908 0x0 7",
        "UNKNOWN 5.000003 1 0xfebc0014 00,00,00 0x0 7",
        "UNKNOWN 5.000004 1 0xfebc0018 0f,01,f8 0x0 7",
        "UNKNOWN 5.000005 1 0xfebc0018 a4,00,00 0x0 7",
        "MARK 0.000000 Lost 3 events.",
        "MARK 5.000007 reset done",
        "W 1 5.000008 2 0x7f0000100008 0x1 0x0 8",
        "UNMAP 5.000009 1 0x0 100",
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_mark_cannot_pass_for_an_access(end: str, tmp_path: Path) -> None:
    forged = f"done{end}R 4 5.000000 1 0xfebc0000 0x1 0x0 0{end}"
    trace = write_trace(tmp_path / "t", [row(1000, "mark", text=forged, map_id=0)])
    import_log(io.BytesIO(written("mmiotrace", trace)), "log", tmp_path / "again")
    assert open_trace(tmp_path / "again").events(["kind"])["kind"].to_pylist() == ["mark"]


def test_a_trace_without_events_is_a_header(empty: Path) -> None:
    assert lines(empty) == ["VERSION 20070824"]
    assert written("csv", empty) == (",".join(EVENTS.names) + "\n").encode()
    assert written("jsonl", empty) == b""
    assert pq.read_table(io.BytesIO(written("parquet", empty))).num_rows == 0


def test_pci_devices_that_are_known(tmp_path: Path) -> None:
    log = b"VERSION 20070824\nPCIDEV 0010 8086100e b febc0000 c041 0 0 0 0 0 20000 40 0 0 0 0 0 e1000\n"
    import_log(io.BytesIO(log), "log", tmp_path / "t")
    assert written("mmiotrace", tmp_path / "t") == log


@pytest.mark.parametrize("crashed", [False, True])
def test_a_recording_that_has_not_ended(crashed: bool, mmiotap: Run, tmp_path: Path) -> None:
    arena = new_recording(tmp_path / "t", source="agent")
    producer = Producer(arena, range(0, 4), pid=os.getpid(), tid=os.getpid())
    assert producer.mark("so far")
    if crashed:
        abandon(tmp_path / "t")
    result = mmiotap("export", tmp_path / "t", "--format", "jsonl")
    assert [json.loads(line)["text"] for line in result.stdout.splitlines()] == ["so far"]
    assert (result.status, result.stderr) == (0, "")


@pytest.mark.parametrize("format", formats.FORMATS)
def test_no_room_is_one_line_and_no_reader_is_none(format: str, run: Run, tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "t", [row(number, "write", 4, 0, number) for number in range(20_000)])
    export = f'exec 2>&1; "$0" -m mmiotap export {trace} --format {format}'
    full = run("sh", "-c", f"{export} -o /dev/full", PYTHON)
    assert full.status == 1
    assert full.stdout.startswith("mmiotap: /dev/full: No space left on device")
    assert full.stdout.count("\n") == 1
    # The pipe's reader ends at once; what mmiotap says and its status go to files.
    quiet = run(
        "sh", "-c", f'{{ "$0" -m mmiotap export {trace} --format {format} 2>err; echo $? >status; }} | :', PYTHON
    )
    assert (quiet.status, (tmp_path / "err").read_text(), (tmp_path / "status").read_text()) == (0, "", "0\n")


def test_a_pipe_is_written_to(run: Run, tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "t", [row(number, "write", 4, 0, number) for number in range(20_000)])
    os.mkfifo(tmp_path / "pipe")
    script = f'head -n 1 pipe & "$0" -m mmiotap export {trace} --format csv -o pipe; status=$?; wait; exit $status'
    result = run("sh", "-c", script, PYTHON)
    assert (result.status, result.stdout, result.stderr) == (0, ",".join(EVENTS.names) + "\n", "")
    assert (tmp_path / "pipe").is_fifo()


def test_a_failed_export_leaves_nothing_and_keeps_what_was(run: Run, tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "t", [row(number, "write", 4, 0, number) for number in range(20_000)])
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "log").write_text("mine")
    # A limit on the size of files stands for a disk that is full: both fail within write(2).
    limited = f"ulimit -f 16; trap '' XFSZ; exec \"$0\" -m mmiotap export {trace} --format csv -f -o {folder}/log"
    result = run("sh", "-c", limited, PYTHON)
    assert result.status == 1
    assert result.stderr.startswith(f"mmiotap: {folder}/log: File too large")
    assert result.stderr.count("\n") == 1
    assert [(file.name, file.read_text()) for file in folder.iterdir()] == [("log", "mine")]


def test_a_link_that_lies_in_wait_is_not_followed(mmiotap: Run, empty: Path, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / ".log.new").symlink_to("victim")
    assert mmiotap("export", empty, "--format", "csv", "-o", tmp_path / "log").status == 0
    assert (tmp_path / "victim").read_text() == "mine"
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


PROGRAM = r"""
#include <emmintrin.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include "mmiotap.h"

int main(int argc, char **argv)
{
    volatile uint8_t *base = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, open(argv[1], O_RDWR), 0);
    *(volatile uint32_t *)(base + 8) = 0x1234;
    mmiotap_mark("started");
    _mm_store_si128((__m128i *)(base + 16), _mm_set_epi64x(0x1111, 0x2222));
    __atomic_fetch_add((uint32_t *)(base + 8), 1, __ATOMIC_SEQ_CST);
    return munmap((void *)base, 4096);
}
"""


def test_a_real_recording_as_mmiotrace(mmiotap: Run, compile_c: Compile, tmp_path: Path) -> None:
    (tmp_path / "device").write_bytes(bytes(4096))
    program = compile_c(PROGRAM)
    recorded = mmiotap("record", "-o", "t", "--map", tmp_path / "device", "--", program, tmp_path / "device")
    assert recorded.status == 0, recorded.stderr
    base = open_trace(tmp_path / "t").mappings[0].address
    log = [line.split() for line in lines(tmp_path / "t")]
    accesses = [(line[0], line[1], int(line[4], 16) - base, line[5]) for line in log if line[0] in ("R", "W")]
    assert [line[0] for line in log] == ["VERSION", "MAP", "W", "MARK", "W", "W", "R", "W", "UNMAP"]
    assert accesses == [
        ("W", "4", 8, "0x1234"),
        ("W", "8", 16, "0x2222"),
        ("W", "8", 24, "0x1111"),
        ("R", "4", 8, "0x1234"),
        ("W", "4", 8, "0x1235"),
    ]
    assert mmiotap("export", "t", "--format", "mmiotrace", "-o", "log").status == 0
    assert mmiotap("import", "log", "-o", "u").status == 0
    assert lines(tmp_path / "u") == lines(tmp_path / "t")
