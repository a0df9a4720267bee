"""Stacks are seen through thunks: by gdb, by perf, by C++'s unwinding, by backtrace(3)."""

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


def start_program(start: Start, program: Path, device: Path, **env: str) -> str:
    """Its pid."""
    recorder = start(*MMIOTAP, "record", "-q", "-o", "t", "--map", device, "--", program, device, "run", env=env)
    assert recorder.process.stdout is not None
    return recorder.process.stdout.readline().strip()


@patched
def test_gdb_sees_the_stack_at_every_instruction_of_a_thunk(
    start: Start, program: Path, device: Path, tmp_path: Path
) -> None:
    pid = start_program(start, program, device)
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


@patched
def test_perf_sees_the_stack_behind_a_thunk(
    start: Start, run: Run, program: Path, device: Path, tmp_path: Path
) -> None:
    """By the file that the agent writes for it. The caches that perf keeps go into the test's folder."""
    (tmp_path / "dumps").mkdir()
    pid = start_program(start, program, device, MMIOTAP_JITDUMP=str(tmp_path / "dumps"))
    env = {"HOME": str(tmp_path)}
    how = ["-k", "mono", "-e", "cpu-clock:u", "-F", "2000", "--call-graph", "dwarf"]
    recorded = run("perf", "record", *how, "-o", "samples", "-p", pid, "--", "sleep", "2", env=env)
    if recorded.status != 0:
        pytest.skip(f"perf cannot record here: {recorded.stderr.strip()}")
    injected = run("perf", "inject", "--jit", "-i", "samples", "-o", "injected", env=env)
    assert injected.status == 0, injected
    script = run("perf", "script", "-i", "injected", "-F", "ip,sym", env=env).stdout
    stacks = [
        [line.split()[1] for line in stack.splitlines() if line] for stack in script.split("\n\n") if stack.strip()
    ]
    seen = set()
    for stack in stacks:
        thunks = [index for index, name in enumerate(stack) if name.startswith("mmiotap_thunk_of_0x")]
        if thunks and all(name.startswith("mmiotap_") for name in stack[: thunks[0]]):
            function, *callers = stack[thunks[0] + 1 :]
            assert callers[:2] == ["driver", "main"], stack
            seen.add(function)
    assert seen, script
    assert seen <= LENGTHS.keys()
