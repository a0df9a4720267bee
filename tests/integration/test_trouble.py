"""Whatever happens to the trace, the program is not harmed and does not hang, and the loss is counted."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import MMIOTAP, Compile, Result, Run, Start, Started
from mmiotap.trace.reader import open_trace

#: Stores 1 … N to a register of a shared file, checks what it reads back, and leaves a file behind at a good end.
WORK = r"""
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    int fd = open(argv[1], O_RDWR);
    uint64_t count = strtoull(argv[2], 0, 0);
    volatile uint64_t *base = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    for (uint64_t index = 1; index <= count; index++) {
        base[0] = index;
        if (base[0] != index)
            return 1;
    }
    close(open("done", O_CREAT | O_WRONLY, 0600));
    return 7;
}
"""

STORES = 100_000


@pytest.fixture
def registers(tmp_path: Path) -> Path:
    path = tmp_path / "registers"
    path.write_bytes(bytes(4096))
    return path


def started(start: Start, program: Path, registers: Path, trace: Path, *options: str) -> Started:
    """WORK, recorded with a small buffer, and at work."""
    command = ["record", "-o", trace, "--buffer", "512K", *options, "--map", registers, "--"]
    result = start(*MMIOTAP, *command, program, registers, str(STORES))
    while not any(registers.read_bytes()[:8]):
        assert result.process.poll() is None
        time.sleep(0.001)
    return result


def lost(result: Result) -> int:
    found = re.search(r"lost: (\d+)", result.stderr)
    assert found
    return int(found[1])


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own; mounting it needs root, which CI is."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "none", folder], check=True, timeout=10)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True, timeout=10)


def fill(folder: Path) -> Path:
    """A file that takes all the room that is left."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return path


def test_the_disk_is_full(compile_c: Compile, start: Start, mmiotap: Run, registers: Path, tmp_path: Path) -> None:
    program = compile_c(WORK)
    with small_disk(tmp_path / "disk", "8M") as disk:
        recorder = started(start, program, registers, disk / "t")
        filler = fill(disk)
        result = recorder.wait()
        assert result.status == 7
        assert "Traceback" not in result.stderr
        assert "No space left on device" in result.stderr
        assert "mmiotap recover" in result.stderr
        assert lost(result) > 0
        filler.unlink()
        assert mmiotap("recover", disk / "t").status == 0
        trace = open_trace(disk / "t")
        accesses = sum(kind in ("read", "write") for kind in trace.events(["kind"])["kind"].to_pylist())
        assert accesses + trace.lost == 2 * STORES
        assert trace.lost == lost(result)


def test_no_room_for_the_buffer(compile_c: Compile, mmiotap: Run, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1M") as disk:
        result = mmiotap("record", "-o", disk / "t", "--buffer", "4M", "true")
        assert result.status == 1
        assert re.fullmatch(r"mmiotap: .*No space left on device.*--buffer.*\n", result.stderr)
        assert not (disk / "t").exists()


def test_the_trace_is_removed(compile_c: Compile, start: Start, registers: Path, tmp_path: Path) -> None:
    program = compile_c(WORK)
    recorder = started(start, program, registers, tmp_path / "t")
    shutil.rmtree(tmp_path / "t")
    result = recorder.wait()
    assert result.status == 7
    assert "Traceback" not in result.stderr
    assert "was removed" in result.stderr
    assert lost(result) >= 2 * STORES
    assert (tmp_path / "done").exists()
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("on_full", ["wait", "drop"])
def test_the_recorder_dies(compile_c: Compile, start: Start, registers: Path, tmp_path: Path, on_full: str) -> None:
    program = compile_c(WORK)
    recorder = started(start, program, registers, tmp_path / "t", "--on-full", on_full)
    os.kill(recorder.pid, signal.SIGKILL)
    recorder.wait()  # to the end of the program, which has our pipes
    assert (tmp_path / "done").exists()
    trace = open_trace(tmp_path / "t")
    accesses = sum(kind in ("read", "write") for kind in trace.events(["kind"])["kind"].to_pylist())
    assert trace.state == "incomplete"
    assert accesses + trace.lost == 2 * STORES


def test_events_are_dropped_and_counted(compile_c: Compile, mmiotap: Run, registers: Path, tmp_path: Path) -> None:
    """Every event is in the trace or in its count of losses, whatever the buffer held."""
    program = compile_c(WORK)
    command = ["record", "-o", "t", "--buffer", "256K", "--on-full", "drop", "--map", registers]
    result = mmiotap(*command, program, registers, str(STORES))
    assert result.status == 7
    trace = open_trace(tmp_path / "t")
    accesses = sum(kind in ("read", "write") for kind in trace.events(["kind"])["kind"].to_pylist())
    assert accesses + trace.lost == 2 * STORES
    assert trace.lost == lost(result)


def test_nothing_is_lost_while_the_program_waits(
    compile_c: Compile, mmiotap: Run, registers: Path, tmp_path: Path
) -> None:
    program = compile_c(WORK)
    result = mmiotap("record", "-o", "t", "--buffer", "256K", "--map", registers, program, registers, str(STORES))
    assert (result.status, lost(result)) == (7, 0)
    table = open_trace(tmp_path / "t").events(["kind", "value"])
    values = [value for kind, value in zip(*table.to_pydict().values(), strict=True) if kind in ("read", "write")]
    assert values == [index for index in range(1, STORES + 1) for _ in range(2)]
