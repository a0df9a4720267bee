"""``mmiotap import`` and ``mmiotap export`` on the command line."""

import csv
import io
import json
import lzma
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from conftest import Run
from mmiotap.trace.reader import open_trace
from test_formats_mmiotrace import FIXTURE, MAP

ACCESSES = MAP + b"".join(b"W 4 1.%06d 1 0xfebc0008 0x%x 0x0 0\n" % (i, i) for i in range(1, 1000))


@pytest.fixture
def trace(mmiotap: Run, tmp_path: Path) -> Path:
    (tmp_path / "some.log").write_bytes(ACCESSES)
    assert mmiotap("import", tmp_path / "some.log", "-o", tmp_path / "t").status == 0
    return tmp_path / "t"


def test_the_real_log_there_and_back(mmiotap: Run, tmp_path: Path) -> None:
    result = mmiotap("import", FIXTURE, "-o", tmp_path / "t")
    assert (result.status, result.stdout) == (0, "")
    told, following = result.stderr.splitlines()
    assert told == "mmiotap: the text log of the kernel's mmiotrace: 14076 events, lost: 0"
    assert following == f"mmiotap: next: mmiotap show {tmp_path}/t"
    assert mmiotap("export", tmp_path / "t", "--format", "mmiotrace", "-o", tmp_path / "log").status == 0
    assert (tmp_path / "log").read_bytes() == lzma.decompress(FIXTURE.read_bytes())


def test_every_format_holds_every_event(mmiotap: Run, trace: Path, tmp_path: Path) -> None:
    events = open_trace(trace).events().to_pylist()
    read = csv.DictReader(io.StringIO(mmiotap("export", trace, "--format", "csv").stdout))
    assert [(row["kind"], int(row["value"])) for row in read] == [(row["kind"], row["value"]) for row in events]
    objects = [json.loads(line) for line in mmiotap("export", trace, "--format", "jsonl").stdout.splitlines()]
    assert objects == events
    assert mmiotap("export", trace, "--format", "parquet", "-o", tmp_path / "one.parquet").status == 0
    assert pq.read_table(tmp_path / "one.parquet").to_pylist() == events


def test_a_file_is_replaced_only_when_asked(mmiotap: Run, trace: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    refused = mmiotap("export", trace, "--format", "csv", "-o", tmp_path / "out")
    assert (refused.status, refused.stderr) == (
        1,
        f"mmiotap: {tmp_path}/out exists; choose another name, or replace it with -f\n",
    )
    assert (tmp_path / "out").read_text() == "mine"
    assert mmiotap("export", trace, "--format", "csv", "-f", "-o", tmp_path / "out").status == 0
    assert (tmp_path / "out").read_text().startswith("time_ns,")


def test_a_full_disk_is_one_line(mmiotap: Run, trace: Path) -> None:
    result = mmiotap("export", trace, "--format", "jsonl", "-o", "/dev/full")
    assert result.status == 1
    assert "No space left on device" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"#!/bin/sh\nexit\n", "no kind of log that is known"),
        (b"\x7fELF", "no kind of log that is known"),
        (None, "No such file"),
    ],
)
def test_what_is_no_log_is_one_line(mmiotap: Run, tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "log").write_bytes(content)
    result = mmiotap("import", tmp_path / "log", "-o", tmp_path / "t")
    assert result.status == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "t").exists()


def test_a_log_that_is_cut_short_keeps_what_is_whole(mmiotap: Run, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(ACCESSES[:-9])
    result = mmiotap("import", tmp_path / "log", "-o", tmp_path / "t")
    assert result.status == 1
    assert "line 1000: the last line is cut short" in result.stderr
    assert open_trace(tmp_path / "t").count == 999


def test_usage(mmiotap: Run, trace: Path) -> None:
    assert mmiotap("export", trace).status == 2
    assert mmiotap("export", trace, "--format", "xml").status == 2
    assert mmiotap("import", "-").status == 2
