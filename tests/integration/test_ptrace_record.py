"""Recorded from outside: programs that the agent cannot get into, and those that it can, with the same events."""

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from outside import programs
from test_hammer import EXAMPLES, SLOT, expected, recorded
from test_record import DEVICE, DEVICE_EVENTS, rows

import mmiotap as api
from conftest import MMIOTAP, Compile, Run, Start
from mmiotap.trace import layout

pytestmark = pytest.mark.parametrize("patching", ["off"], indirect=True, ids=[""])
HERE = Path(__file__).parent
PTRACE = ("record", "--engine", "ptrace", "-o", "t")


@pytest.fixture
def registers(tmp_path: Path) -> Path:
    """A file that stands for a device."""
    path = tmp_path / "registers"
    path.write_bytes(bytes(8192))
    return path


def accesses(trace: Path) -> list[tuple[str, int, int]]:
    """Kind, offset and value of reads and writes."""
    table = api.open(trace).events(["kind", "offset", "value"]).to_pylist()
    return [(row["kind"], row["offset"], row["value"]) for row in table if row["kind"] in ("read", "write")]


def test_a_static_program(compile_c: Compile, mmiotap: Run, registers: Path, tmp_path: Path) -> None:
    program = compile_c(DEVICE, "program", "-static")
    result = mmiotap("record", "-o", "t", "--map", registers, "--", program, registers)
    assert result.status == 7
    why, *_ = result.stderr.splitlines()
    assert why == (
        f"mmiotap: {program} is statically linked, so no agent can be loaded into it: recorded from outside "
        "(--engine ptrace)"
    )
    assert rows(tmp_path / "t") == DEVICE_EVENTS
    trace = api.open(tmp_path / "t")
    assert (trace.info["source"], trace.info["exit"]) == ("ptrace", {"status": 7, "signal": None})
    assert [process.executable for process in trace.processes] == [str(program)]
    assert [module.path for module in trace.modules if module.path == str(program)] == [str(program)]
    shown = mmiotap("show", "t").stdout
    assert "main" in shown


def test_a_go_program_with_its_own_fault_handling(mmiotap: Run, registers: Path, tmp_path: Path) -> None:
    go = tmp_path / "program"
    env = os.environ | {"GOCACHE": str(tmp_path / "cache"), "GOFLAGS": "-mod=mod", "GO111MODULE": "off"}
    subprocess.run(["go", "build", "-o", go, HERE / "outside" / "main.go"], check=True, timeout=110, env=env)
    result = mmiotap("record", "-q", "-o", "t", "--map", registers, "--", go, registers)
    assert (result.status, result.stdout) == (0, "recovered: true\n")
    expected = [
        (kind, 4 * worker, value) for worker in range(4) for value in range(1, 51) for kind in ("write", "read")
    ]
    # An atomic store is an exchange, so it reads, too: what was there.
    assert sorted(row for row in accesses(tmp_path / "t") if row[0] == "write") == sorted(
        row for row in expected if row[0] == "write"
    )
    assert len(accesses(tmp_path / "t")) == 4 * 50 * 3
    assert api.open(tmp_path / "t").lost == 0


@pytest.mark.parametrize("way", ["emulate", "step", "lock"])
def test_the_same_events_as_the_agents(
    compile_c: Compile, mmiotap: Run, registers: Path, tmp_path: Path, way: str
) -> None:
    program = compile_c(DEVICE)
    columns = ["kind", "width", "offset", "value", "data", "flags", "pc"]
    seen = {}
    for engine in ("agent", "ptrace"):
        registers.write_bytes(bytes(8192))
        options = ("--engine", engine, "--smp", way, "-o", engine)
        command = ("setarch", "-R", program, registers)  # the same addresses in both
        assert mmiotap("record", "-q", *options, "--map", registers, "--", *command).status == 7
        table = api.open(tmp_path / engine).events(columns).to_pylist()
        seen[engine] = [row for row in table if row["kind"] != "map"]
    assert seen["ptrace"] == seen["agent"]
    assert len(seen["agent"]) == len(DEVICE_EVENTS) - 1


@pytest.mark.parametrize("way", ["emulate", "lock"])
def test_threads_miss_nothing(mmiotap: Run, tmp_path: Path, way: str) -> None:
    """The hammer: four threads on the same pages, accesses of all widths. Each is there once, in order, exact."""
    subprocess.run(["make", "-s", "-C", EXAMPLES, "hammer"], check=True, timeout=60)
    threads, count, file = 4, 1000, tmp_path / "hammer.bin"
    command = (EXAMPLES / "hammer" / "hammer", file, str(threads), str(count))
    result = mmiotap(*PTRACE, "--smp", way, "--map", file, "--", *command)
    assert result.status == 0, result.stderr
    assert "0 wrong reads" in result.stdout
    widths = int(result.stdout.split(" widths")[0].split()[-1])
    trace = api.open(tmp_path / "t")
    events = trace.events(columns=["kind", "width", "offset", "value", "data", "tid"])
    events = events.set_column(0, "kind", events.column("kind").cast(pa.string()))
    events = events.filter(pc.is_in(events.column("kind"), pa.array(["read", "write"])))
    assert (events.num_rows, trace.lost) == (threads * count, 0)
    seen = set()
    tids: list[Any] = pc.unique(events.column("tid")).to_pylist()
    for tid in tids:
        got = recorded(events.filter(pc.equal(events.column("tid"), tid)))
        thread = int(got.offset[0]) // SLOT % threads
        seen.add(thread)
        want = expected(thread, threads, count, widths)
        for mine, right in zip(vars(got).values(), vars(want).values(), strict=True):
            assert np.array_equal(mine, right)
    assert seen == set(range(threads))


def test_the_programs_own_faults_are_its_own(compile_c: Compile, mmiotap: Run, registers: Path, tmp_path: Path) -> None:
    program = compile_c(programs.FAULTS)
    result = mmiotap(*PTRACE, "--map", registers, "--", program, registers)
    assert result.status == -signal.SIGSEGV, result.stderr
    found = [(kind, offset, value) for kind, offset, value in accesses(tmp_path / "t")]
    assert found == [("write", 4, 5), ("read", 4, 5), ("read", 4, 5), ("write", 4096, 6)]
    assert api.open(tmp_path / "t").info["exit"] == {"status": None, "signal": signal.SIGSEGV}


@pytest.mark.parametrize("way", ["emulate", "step", "lock"])
def test_mappings_are_followed(compile_c: Compile, mmiotap: Run, registers: Path, tmp_path: Path, way: str) -> None:
    program = compile_c(programs.MAPPINGS)
    result = mmiotap(*PTRACE, "--smp", way, "--map", registers, "--", program, registers)
    assert result.status == 0, result.stderr
    events = api.open(tmp_path / "t").events(["kind", "map_id", "offset", "value"]).to_pylist()
    found = [tuple(row.values()) for row in events if row["kind"] != "map"]
    assert found == [
        ("write", 1, 0, 1),
        ("write", 1, 4096, 2),
        ("unmap", 1, 0, 4096),
        ("write", 1, 4096, 3),
        ("unmap", 1, 4096, 4096),
        ("write", 2, 0, 4),
        ("read", 2, 0, 4),
        ("write", 2, 4, 5),
        ("unmap", 2, 0, 4096),
    ]
    mappings = api.open(tmp_path / "t").mappings
    assert [(mapping.length, mapping.file_offset) for mapping in mappings] == [(8192, 0), (8192, 4096)]


def test_children_and_other_programs(compile_c: Compile, mmiotap: Run, registers: Path, tmp_path: Path) -> None:
    program = compile_c(programs.FORKS)
    result = mmiotap(*PTRACE, "--map", registers, "--", program, registers)
    assert result.status == 0, result.stderr
    written = [row for row in accesses(tmp_path / "t") if row[0] == "write"]
    assert written == [("write", 0, 1), ("write", 4, 2), ("write", 16, 7), ("write", 12, 4), ("write", 8, 3)]
    trace = api.open(tmp_path / "t")
    assert len({process.pid for process in trace.processes}) == 3
    pids = trace.events(["pid", "kind"]).to_pylist()
    assert len({row["pid"] for row in pids if row["kind"] == "write"}) == 3


def test_more_threads_than_the_buffer_has_room_for(
    compile_c: Compile, mmiotap: Run, registers: Path, tmp_path: Path
) -> None:
    program = compile_c(programs.THREADS)
    result = mmiotap(*PTRACE, "--buffer", "256K", "--map", registers, "--", program, registers)
    assert (result.status, "lost: 0" in result.stderr) == (0, True), result.stderr
    writes = [value for kind, _, value in accesses(tmp_path / "t") if kind == "write"]
    assert writes == list(range(1, 101))


def test_where_there_is_no_alias_others_are_held(
    compile_c: Compile, mmiotap: Run, registers: Path, tmp_path: Path
) -> None:
    program = compile_c(programs.WITHOUT_ALIAS)
    result = mmiotap(*PTRACE, "--map", registers, "--", program, registers)
    assert result.status == 0
    assert result.stderr.count(f"mmiotap: {registers} of process ") == 1
    assert "cannot be mapped twice" in result.stderr
    events = api.open(tmp_path / "t").events(["kind", "width", "offset", "flags"]).to_pylist()
    flags = [row["flags"] & layout.STEPPED for row in events if row["kind"] in ("read", "write")]
    assert flags[:4] == [layout.STEPPED] * 4
    assert [(row["kind"], row["width"]) for row in events[2:]][:2] == [("write", 4), ("read", 4)]


def test_options_that_only_the_agent_has(mmiotap: Run, tmp_path: Path) -> None:
    result = mmiotap(*PTRACE, "--latency", "true")
    assert (result.status, result.stderr.count("\n")) == (1, 1)
    assert "only the agent can measure the latency" in result.stderr
    result = mmiotap(*PTRACE, "--smp", "private", "true")
    assert (result.status, result.stderr.count("\n")) == (1, 1)
    assert "the ptrace engine has no way 'private'" in result.stderr
    assert not (tmp_path / "t").exists()


def test_a_program_that_the_kernel_refuses(mmiotap: Run, tmp_path: Path) -> None:
    program = tmp_path / "script"
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(0o755)
    result = mmiotap(*PTRACE, program)
    assert (result.status, result.stderr.count("\n")) == (126, 1)
    assert not (tmp_path / "t").exists()


def test_disabled_and_enabled_while_it_runs(
    compile_c: Compile, start: Start, run: Run, registers: Path, tmp_path: Path
) -> None:
    program = compile_c(programs.WORKER)
    started = start(*MMIOTAP, *PTRACE, "--disabled", "--map", registers, "--", program, registers)
    assert started.process.stdout
    assert started.process.stdout.readline() == "ready\n"
    assert accesses(tmp_path / "t") == []
    assert run(*MMIOTAP, "enable", "t").status == 0
    while len(accesses(tmp_path / "t")) < 100:
        assert started.process.poll() is None
    assert run(*MMIOTAP, "disable", "t").status == 0
    count = len(accesses(tmp_path / "t"))
    assert run("sleep", "0.2").status == 0
    assert len(accesses(tmp_path / "t")) == count
    os.kill(started.pid, signal.SIGTERM)
    assert started.wait().status == -signal.SIGTERM
    assert api.open(tmp_path / "t").lost == 0


def test_a_setuid_program_as_root(compile_c: Compile, mmiotap: Run, registers: Path, tmp_path: Path) -> None:
    """Owned by somebody else, with the bit set: the loader would ignore LD_PRELOAD."""
    if os.getuid() != 0:
        pytest.fail("the tests of a setuid program need root, as CI is")
    program = compile_c(DEVICE)
    shutil.chown(program, "nobody")
    program.chmod(0o4755)
    registers.chmod(0o666)
    for folder in [tmp_path, *tmp_path.parents]:
        if folder.is_relative_to("/tmp") and folder != Path("/tmp"):
            folder.chmod(0o755)
    result = mmiotap("record", "-o", "t", "--map", registers, "--", program, registers)
    assert result.status == 7, result.stderr
    assert "is setuid, so the loader ignores LD_PRELOAD: recorded from outside" in result.stderr
    assert rows(tmp_path / "t") == DEVICE_EVENTS
