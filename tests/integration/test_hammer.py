"""Four million accesses of every width by four threads on the same pages: each is in the trace once, in order, exact.

The expected values are computed here from the formula in examples/hammer/hammer.c.
"""

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from numpy.typing import NDArray

import mmiotap as api

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
SLOTS, SLOT = 256, 64

U64 = NDArray[np.uint64]


@dataclass(frozen=True)
class Accesses:
    """What one thread does. ``words`` has a row of four an access: its value, low word first, zero above the width."""

    write: NDArray[np.bool_]
    offset: U64
    width: U64
    words: U64


def mix(x: U64) -> U64:
    """The finaliser of splitmix64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def expected(thread: int, threads: int, count: int, widths: int) -> Accesses:
    index = np.arange(count, dtype=np.uint64) << np.uint64(3)
    word = [mix(np.uint64(thread << 48) | index | np.uint64(j)) for j in range(8)]
    choice = word[7]
    log = choice % np.uint64(widths)
    width = np.uint64(1) << log
    slot = np.uint64(thread) + np.uint64(threads) * ((choice >> np.uint64(8)) % np.uint64(SLOTS // threads))
    offset = slot * np.uint64(SLOT) + width
    write = (choice >> np.uint64(32) & np.uint64(1)).astype(np.bool_)

    words = np.stack(word[:4], axis=1)
    narrow = width < 8
    words[narrow, 0] &= (np.uint64(1) << (width[narrow] * np.uint64(8))) - np.uint64(1)
    for j in range(1, 4):
        words[width <= 8 * j, j] = 0

    # A read gives the last write to its place. A place is its offset; in the order of (place, index) that is the
    # nearest write further up, if it is of the same place.
    order = np.argsort(offset, kind="stable")
    position = np.arange(count)
    last_write = np.maximum.accumulate(np.where(write[order], position, -1))
    begins = np.concatenate(([True], offset[order][1:] != offset[order][:-1])) if count else np.zeros(0, np.bool_)
    group = np.maximum.accumulate(np.where(begins, position, 0))
    value = np.where((last_write >= group)[:, None], words[order][last_write], np.uint64(0))
    result = np.empty_like(words)
    result[order] = value
    return Accesses(write, offset, width, result)


def column(table: pa.Table, name: str) -> NDArray[Any]:
    return np.asarray(table.column(name).to_numpy())


def recorded(table: pa.Table) -> Accesses:
    """The rows of one thread."""
    width = column(table, "width").astype(np.uint64)
    words = np.zeros((table.num_rows, 4), np.uint64)
    words[:, 0] = column(table, "value")
    data = table.column("data")
    for wide in (16, 32):
        rows = np.flatnonzero(width == wide)
        raw = b"".join(data.take(rows).to_pylist())  # type: ignore[arg-type]  # None would raise
        assert len(raw) == wide * len(rows)
        whole = np.frombuffer(raw, np.uint64).reshape(-1, wide // 8)
        assert np.array_equal(words[rows, 0], whole[:, 0])  # `value` is the low 8 bytes
        words[rows, : wide // 8] = whole
    return Accesses(column(table, "kind") == "write", column(table, "offset"), width, words)


@pytest.fixture(scope="module")
def hammer() -> Path:
    subprocess.run(["make", "-s", "-C", EXAMPLES, "hammer"], check=True, timeout=60)
    return EXAMPLES / "hammer" / "hammer"


@pytest.mark.timeout(400)
def test_every_access_once_in_order_exact(hammer: Path, mmiotap: Callable[..., Any], tmp_path: Path) -> None:
    threads, count = 4, 1_000_000
    trace_path, file = tmp_path / "hammer.mmiotap", tmp_path / "hammer.bin"
    result = mmiotap(
        "record", "-o", trace_path, "--map", "**/hammer.bin", "--", hammer, file, str(threads), str(count), limit=300
    )
    assert result.status == 0, result.stderr
    report = re.fullmatch(r"hammer: 4 threads, 1000000 accesses each, (\d) widths, 0 wrong reads\n", result.stdout)
    assert report, result.stdout

    trace = api.open(trace_path)
    assert trace.lost == 0
    events = trace.events(columns=["kind", "width", "offset", "value", "data", "tid"])
    events = events.set_column(0, "kind", events.column("kind").cast(pa.string()))
    assert set(pc.unique(events.column("kind")).to_pylist()) <= {"read", "write", "map", "unmap"}
    events = events.filter(pc.is_in(events.column("kind"), pa.array(["read", "write"])))
    assert events.num_rows == threads * count
    seen = set()
    tids: list[Any] = pc.unique(events.column("tid")).to_pylist()
    for tid in tids:
        got = recorded(events.filter(pc.equal(events.column("tid"), tid)))
        thread = int(got.offset[0]) // SLOT % threads
        seen.add(thread)
        want = expected(thread, threads, count, int(report[1]))
        assert np.array_equal(got.write, want.write)
        assert np.array_equal(got.offset, want.offset)
        assert np.array_equal(got.width, want.width)
        assert np.array_equal(got.words, want.words)
    assert seen == set(range(threads))


def test_the_file_ends_as_the_formula_says(hammer: Path, tmp_path: Path) -> None:
    """The formula is the same here and in C: without mmiotap, the file holds the last write to each place."""
    threads, count = 4, 20_000
    file, progress = tmp_path / "hammer.bin", tmp_path / "progress"
    result = subprocess.run([hammer, file, "4", str(count), progress], capture_output=True, text=True, timeout=60)
    report = re.search(r"(\d) widths", result.stdout)
    assert result.returncode == 0
    assert report
    memory = bytearray(SLOTS * SLOT)
    for thread in range(threads):
        want = expected(thread, threads, count, int(report[1]))
        for offset, width, words in zip(want.offset.tolist(), want.width.tolist(), want.words, strict=True):
            memory[offset : offset + width] = words.tobytes()[:width]
    assert file.read_bytes() == memory
    assert np.fromfile(progress, np.uint64)[: threads + 1].tolist() == [count] * threads + [0]
