"""Stacks are seen through thunks: by gdb, by C++'s unwinding, by backtrace(3)."""

import json
import subprocess
from itertools import groupby
from pathlib import Path

import pytest

from conftest import MMIOTAP, Run, Start

HERE = Path(__file__).parent / "patching"

patched = pytest.mark.parametrize("patching", ["1"], ids=["patched"], indirect=True)
#: Length of the functions' accesses, in bytes.
LENGTHS = {"read_register": 2, "write_register": 6, "add_to_register": 6}
PUNNED = ["read_register"]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("looked-at") / "looked_at"
    command = ["g++", "-O2", "-g", "-pthread", "-Wall", "-o", str(path), str(HERE / "looked_at.cpp")]
    subprocess.run(command, check=True, timeout=60)
    return path


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "device"
    path.write_bytes(bytes(4096))
    return path


def test_a_thread_that_is_cancelled_in_a_thunk_is_unwound(mmiotap: Run, program: Path, device: Path) -> None:
    result = mmiotap("record", "-q", "-o", "t", "--map", device, "--", program, device, "cancel")
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout == "unwound\n" * 30


def test_backtrace_sees_the_stack_behind_a_thunk(mmiotap: Run, program: Path, device: Path) -> None:
    result = mmiotap("record", "-q", "-o", "t", "--map", device, "--", program, device, "profile")
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout == "complete 400\nincomplete 0\n"


@patched
def test_gdb_sees_the_stack_at_every_instruction_of_a_thunk(
    start: Start, program: Path, device: Path, tmp_path: Path
) -> None:
    recorder = start(*MMIOTAP, "record", "-q", "-o", "t", "--map", device, "--", program, device, "run")
    assert recorder.process.stdout is not None
    pid = recorder.process.stdout.readline().strip()
    gdb = start("gdb", "-batch", "-nx", "-p", pid, "-x", HERE / "look.py", env={"STACKS": str(tmp_path / "stacks")})
    result = gdb.wait()
    lines = [json.loads(line) for line in (tmp_path / "stacks").read_text().splitlines()]
    walks = {key: list(walk) for key, walk in groupby(lines, lambda line: (line["function"], line["way"]))}
    assert len(walks) == 6, result
    for (function, _), walk in walks.items():
        outside, inside = walk[0], walk[1:]
        own = [f"(anonymous namespace)::{name}" for name in (function, "driver")] + ["main"]
        site = f"{outside['rip']:#x}"
        assert outside["names"] == own
        thunk = [line["names"] for line in inside if line["names"][0] == f"mmiotap_thunk_of_{site}"]
        shared = [line["names"] for line in inside if line["names"][1] == f"mmiotap_thunk_of_{site}"]
        landing = [line["names"] for line in inside if line["names"][0] == f"mmiotap_jump_of_{site}"]
        assert len(thunk) + len(shared) + len(landing) == len(inside)
        assert (len(thunk) > 10, len(shared) > 10, len(landing)) == (True, True, function in PUNNED), walk
        for line in inside:
            assert line["names"][-3:] == own, line
            assert line["rip"] == outside["rip"] + LENGTHS[function], line
            assert (line["rsp"], line["rdi"]) == (outside["rsp"], outside["rdi"]), line
