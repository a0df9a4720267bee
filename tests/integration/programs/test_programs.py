"""Programs that are hard on a tracer, each in a file of its own beside this one: they run as they do untraced."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from conftest import MMIOTAP, TIME_LIMIT, Run

from .comparing import SOURCES, blank, compare


def build(tmp_path: Path, source: str, *flags: str) -> Path:
    program = tmp_path / Path(source).stem
    compiler = "g++" if source.endswith(".cpp") else "gcc"
    command: list[str | Path] = [compiler, "-O1", "-g", "-pthread", "-Wall", *flags, "-o", program, SOURCES / source]
    subprocess.run(command, check=True, timeout=TIME_LIMIT)
    return program


def test_exceptions_out_of_a_handler_and_after_a_jump_out_of_it(run: Run, tmp_path: Path) -> None:
    program = build(tmp_path, "thrower.cpp", "-fnon-call-exceptions")
    recorded = compare(run, tmp_path, [program, "device"], device="device", prepare=blank(4096))
    # Each handler writes the address of its fault; each turn reads twice, and each thread once at the end.
    assert sorted(recorded.values("write", 4092)) == [0] * 500 + [64] * 500 + [128] * 500
    assert recorded.kinds()["read"] == 3 * (2 * 500 + 1)


def test_workers_that_block_all_signals(run: Run, tmp_path: Path) -> None:
    program = build(tmp_path, "blocked.c")
    recorded = compare(run, tmp_path, [program, "device"], device="device", prepare=blank(4096), results=["device"])
    for worker in range(6):
        sums = [turn * (turn + 1) // 2 for turn in range(3000)]
        assert recorded.values("write", 64 * worker) == sums


def test_threads_and_children_inherit_what_is_blocked(run: Run, tmp_path: Path) -> None:
    program = build(tmp_path, "inherited.c")
    recorded = compare(run, tmp_path, [program, "device"], device="device", prepare=blank(4096), results=["device"])
    # The last round's number is that of all five signals.
    assert recorded.values("write", 4 * 31)[-1] >= 500


def test_masks_that_come_by_contexts_jumps_frames_waits_and_timers(run: Run, tmp_path: Path) -> None:
    program = build(tmp_path, "masked.c")
    recorded = compare(run, tmp_path, [program, "device"], device="device", prepare=blank(4096), results=["device"])
    assert recorded.values("write", 0) == list(range(1, recorded.stdout.count("|") + 1))


def test_forked_workers_that_share_the_region(run: Run, tmp_path: Path) -> None:
    program = build(tmp_path, "workers.c")
    recorded = compare(run, tmp_path, [program, "device"], device="device", prepare=blank(4096), results=["device"])
    rows = recorded.rows
    assert len({row["pid"] for row in rows}) == 6
    for worker in (0, 1, 2, 3, 4, 9):
        writes = [row for row in rows if row["kind"] == "write" and row["offset"] == 64 * worker]
        assert [row["value"] for row in writes] == [worker * turn for turn in range(1, 1001)]
        assert len({row["pid"] for row in writes}) == 1
    # An atomic addition is a read and a write: together they have gone through all numbers.
    assert sorted(recorded.values("write", 2048)) == list(range(1, 6001))


def test_a_program_that_is_started_with_all_signals_blocked(run: Run, tmp_path: Path) -> None:
    program = build(tmp_path, "workers.c")
    blank(4096)(tmp_path)
    block_and_exec = (
        "import os, signal, sys\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    command: list[str | Path] = [*MMIOTAP, "record", "-o", "trace", "--map", "**/device", "--", program, "device"]
    result = run(sys.executable, "-c", block_and_exec, *command)
    assert result.status == 0, result.stderr
    assert "lost: 0" in result.stderr
    assert result.stdout.endswith("0, 9000, 6000\n")


@pytest.mark.parametrize("wrong", ["nothing", "freed", "null"])
def test_address_sanitizer_finds_what_it_would_find(run: Run, tmp_path: Path, wrong: str) -> None:
    program = build(tmp_path, "sanitised.c", "-fsanitize=address")

    def cleaned(text: str) -> str:
        """Without pids, addresses, frames of libc, and the registers and shadow memory that follow them."""
        kept = (
            line for line in text.splitlines() if re.match(r"\d+, |==\d+==ERROR|SUMMARY|(READ|WRITE)|.* in main", line)
        )
        return "\n".join(re.sub(r"==\d+==|0x[0-9a-f]+|\(.*\)", "", line) for line in kept)

    command: list[str | Path] = [program, "device", wrong]
    recorded = compare(
        run, tmp_path, command, device="device", prepare=blank(4096), results=["device"], cleaned=cleaned
    )
    for thread in range(3):
        assert recorded.values("write", 64 * thread) == [turn * (turn + 1) // 2 for turn in range(500)]
        assert len(recorded.values("read", 64 * thread)) >= 1000  # each turn reads it once, and copies it


def test_python_maps_a_file_in_several_threads(run: Run, tmp_path: Path) -> None:
    command: list[str | Path] = [sys.executable, SOURCES / "threads.py", "device"]
    recorded = compare(run, tmp_path, command, device="device", prepare=blank(8192), results=["device"])
    assert len(recorded.trace.mappings) >= 4 * 60
    kinds = recorded.kinds()
    assert kinds["map"] == kinds["unmap"]
    for thread in range(4):
        assert [value & 255 for value in recorded.values("write", 1024 * thread + 8)] == list(range(60))


def test_java_with_a_mapped_file_among_null_pointers(run: Run, tmp_path: Path) -> None:
    subprocess.run(["javac", "-d", tmp_path, SOURCES / "Mapped.java"], check=True, timeout=TIME_LIMIT)
    # Without files in the temporary folder, that another virtual machine would find there.
    command: list[str | Path] = ["java", "-XX:-UsePerfData", "-Xshare:auto", "-cp", tmp_path, "Mapped", "device"]
    recorded = compare(run, tmp_path, command, device="device", prepare=lambda _: None, results=["device"])
    writes = [row for row in recorded.rows if row["kind"] == "write"]
    assert len(writes) == int(recorded.stdout.split()[-1])  # what the device holds in the end: each write added one
    counts: Counter[int] = Counter()
    for row in writes:
        counts[row["offset"]] += 1
        assert row["value"] == counts[row["offset"]]


def test_node_with_a_device_under_javascript_among_webassembly(run: Run, tmp_path: Path) -> None:
    addon = build(tmp_path, "addon.c", "-shared", "-fPIC")
    addon.rename(tmp_path / "addon.node")
    (tmp_path / "driver.js").write_bytes((SOURCES / "driver.js").read_bytes())
    command: list[str | Path] = ["node", tmp_path / "driver.js"]
    recorded = compare(run, tmp_path, command, device="device", prepare=blank(8192), results=["device"])
    for thread in range(3):
        assert recorded.values("write", 1024 * thread + 32) == list(range(1, 1251))
        writes = recorded.values("write", 1024 * thread + 4)
        assert len(writes) == 625
        assert writes[-1] == 1560625
