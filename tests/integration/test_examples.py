"""The example drivers, recorded: the trace tells what they did."""

import math
import random
import re
import struct
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mmiotap as api

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
RECORD = [sys.executable, "-m", "mmiotap", "record"]

Row = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    subprocess.run(["make", "-s", "-C", EXAMPLES, "edu", "uring"], check=True, timeout=60)


def accesses(trace: api.Trace) -> list[Row]:
    rows: list[Row] = trace.events().to_pylist()
    return [row for row in rows if row["kind"] in ("read", "write")]


def answers(rows: list[Row], offset: int) -> list[tuple[int, int | None]]:
    """Each value written to a register, with the last value that was read from it before the next write."""
    found: list[tuple[int, int | None]] = []
    for row in rows:
        if row["offset"] != offset:
            continue
        if row["kind"] == "write":
            found.append((row["value"], None))
        else:
            found[-1] = (found[-1][0], row["value"])
    return found


def test_edu(run: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "edu.mmiotap"
    result = run(EXAMPLES / "edu" / "run", *RECORD, "-o", path, "--map", "**/resource0", "--")
    assert result.status == 0, result.stderr
    assert "12! = 479001600" in result.stdout

    trace = api.open(path)
    assert trace.lost == 0
    rows = accesses(trace)
    assert {row["width"] for row in rows} == {4}
    threads: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        threads[row["tid"]].append(row)
    identification, *workers = threads.values()
    assert [(row["kind"], row["offset"], row["value"]) for row in identification] == [("read", 0x00, 0x010000ED)]
    (factorials,) = (work for work in workers if any(row["offset"] == 0x08 for row in work))
    (liveness,) = (work for work in workers if work is not factorials)

    assert {row["offset"] for row in factorials} == {0x08, 0x20, 0x24, 0x64}
    assert answers(factorials, 0x08) == [(n, math.factorial(n)) for n in range(2, 13)]
    assert [row["value"] for row in factorials if row["offset"] == 0x64] == [1] * 11

    patterns = [i * 0x01020304 & 0x7FFFFFFF for i in range(1, 65)]
    assert {row["offset"] for row in liveness} == {0x00, 0x04}
    assert answers(liveness, 0x04) == [(pattern, pattern ^ 0xFFFFFFFF) for pattern in patterns]

    marks = [row["text"] for row in trace.events().to_pylist() if row["kind"] == "mark"]
    assert marks == ["edu: two threads start", "edu: done"]


def test_edu_without_a_recorder(run: Callable[..., Any]) -> None:
    assert run(EXAMPLES / "edu" / "run").status == 0


def test_uring(mmiotap: Callable[..., Any], tmp_path: Path) -> None:
    source, copy, path = tmp_path / "source", tmp_path / "copy", tmp_path / "uring.mmiotap"
    source.write_bytes(random.Random(1).randbytes(1_000_001))
    program = EXAMPLES / "uring" / "uring"
    result = mmiotap("record", "-o", path, "--map", "anon_inode:[io_uring]", "--", program, source, copy)
    assert result.status == 0, result.stderr
    assert copy.read_bytes() == source.read_bytes()
    report = re.search(r"1000001 bytes, (\d+) submissions, (\d+) completions", result.stdout)
    assert report
    submissions, completions = map(int, report.groups())

    trace = api.open(path)
    assert trace.lost == 0
    # File offsets of the three mappings: IORING_OFF_SQ_RING, IORING_OFF_CQ_RING, IORING_OFF_SQES (linux/io_uring.h).
    kind = {mapping.map_id: mapping.file_offset for mapping in trace.mappings}
    assert sorted(kind.values()) == [0, 0x8000000, 0x10000000]
    sq, cq, sqes = sorted(kind, key=lambda map_id: kind[map_id])
    writes = [row for row in accesses(trace) if row["kind"] == "write"]

    written: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row in writes:
        written[row["map_id"], row["offset"]].append(row["value"])
    # The tail of one ring and the head of the other go up by one each time, and nothing else is counted so high.
    (tail,) = (at for at, values in written.items() if at[0] == sq and values == list(range(1, submissions + 1)))
    (head,) = (at for at, values in written.items() if at[0] == cq and values == list(range(1, completions + 1)))
    assert tail[1] % 4 == head[1] % 4 == 0

    # At each move of the tail the entry is complete: rebuild it from the writes before.
    memory = bytearray(4096)
    blocks: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for row in writes:
        if row["map_id"] == sqes:
            data = row["data"] if row["data"] is not None else row["value"].to_bytes(row["width"], "little")
            memory[row["offset"] : row["offset"] + row["width"]] = data
        elif (row["map_id"], row["offset"]) == tail:
            opcode, _fd, offset, _address, length = struct.unpack_from("<BxxxiQQI", memory, (row["value"] - 1) % 8 * 64)
            blocks[opcode].append((offset, length))
    reads, copies = blocks.pop(22), blocks.pop(23)  # IORING_OP_READ, IORING_OP_WRITE
    assert not blocks
    assert sorted(reads) == sorted(copies)
    assert sum(length for _, length in reads) == 1_000_001
