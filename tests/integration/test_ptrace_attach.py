"""A process that runs already: attached to, recorded, and left as it was."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from outside import programs

import mmiotap as api
from conftest import MMIOTAP, Compile, Run, Start, Started
from mmiotap.sources.ptrace.engine import Engine
from mmiotap.trace.errors import MmiotapError

pytestmark = pytest.mark.parametrize("patching", ["auto"], indirect=True, ids=[""])


@pytest.fixture
def registers(tmp_path: Path) -> Path:
    """A file that stands for a device."""
    path = tmp_path / "registers"
    path.write_bytes(bytes(8192))
    return path


@pytest.fixture
def worker(compile_c: Compile, start: Start, registers: Path) -> Iterator[Started]:
    """Four threads at work on the device, one of them handling a signal each 3 milliseconds."""
    started = start(compile_c(programs.WORKER, "worker", "-static"), registers)
    assert started.process.stdout
    assert started.process.stdout.readline() == "ready\n"
    yield started
    assert started.process.poll() is None, "it has not survived"


def maps(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


def states(pid: int) -> set[str]:
    """Of all threads, and who traces them."""
    lines = [(path / "status").read_text().splitlines() for path in Path(f"/proc/{pid}/task").iterdir()]
    wanted = ("State:\tt", "State:\tT", "TracerPid:")
    return {line for thread in lines for line in thread if line.startswith(wanted)}


@pytest.mark.parametrize("way", ["emulate", "step", "lock"])
def test_attached_and_left_again(worker: Started, mmiotap: Run, registers: Path, tmp_path: Path, way: str) -> None:
    before = maps(worker.pid)
    threads = {int(path.name) for path in Path(f"/proc/{worker.pid}/task").iterdir()}
    result = mmiotap("attach", "-o", "t", "--smp", way, "--map", registers, "--duration", "0.5", str(worker.pid))
    assert result.status == 0, result.stderr
    assert maps(worker.pid) == before
    assert states(worker.pid) == {"TracerPid:\t0"}
    trace = api.open(tmp_path / "t")
    assert (trace.info["source"], trace.info["exit"], trace.lost) == ("ptrace", None, 0)
    events = trace.events(["kind", "tid", "offset", "value"]).to_pylist()
    assert {row["kind"] for row in events} == {"map", "write", "read"}
    assert {row["tid"] for row in events} <= threads
    for tid in {row["tid"] for row in events}:
        rows = [row for row in events if row["tid"] == tid and row["kind"] != "map" and row["offset"] < 4000]
        if way != "step":  # which may miss some of them
            assert all(b["value"] == a["value"] for a, b in pairwise(rows) if a["kind"] == "write")
            values = [row["value"] for row in rows if row["kind"] == "write"]
            assert values == list(range(values[0], values[0] + len(values)))


def test_again_and_again(worker: Started, registers: Path) -> None:
    before = maps(worker.pid)
    for number in range(20):
        engine = Engine(way=("emulate", "step", "lock")[number % 3], rules=[str(registers)], report=pytest.fail)
        engine.attach(worker.pid)
        time.sleep(0.003 * number % 0.02)
        engine.detach()
        assert maps(worker.pid) == before
        assert states(worker.pid) == {"TracerPid:\t0"}


def test_ctrl_c_ends_it(worker: Started, start: Start, registers: Path, tmp_path: Path) -> None:
    before = maps(worker.pid)
    started = start(*MMIOTAP, "attach", "-o", "t", "--map", registers, str(worker.pid))
    while not (tmp_path / "t" / "trace.json").exists() or api.open(tmp_path / "t").count < 10:
        assert started.process.poll() is None, started.wait().stderr
    os.kill(started.pid, signal.SIGINT)
    result = started.wait()
    assert (result.status, "lost: 0" in result.stderr) == (0, True), result.stderr
    assert maps(worker.pid) == before
    assert api.open(tmp_path / "t").state == "finished"


def test_a_process_that_ends_meanwhile(compile_c: Compile, start: Start, registers: Path, tmp_path: Path) -> None:
    worker = start(compile_c(programs.WORKER), registers)
    assert worker.process.stdout
    assert worker.process.stdout.readline() == "ready\n"
    started = start(*MMIOTAP, "attach", "--engine", "ptrace", "-o", "t", "--map", registers, str(worker.pid))
    while not (tmp_path / "t" / "trace.json").exists() or api.open(tmp_path / "t").count < 10:
        assert started.process.poll() is None, started.wait().stderr
    os.kill(worker.pid, signal.SIGTERM)
    assert worker.wait().status == -signal.SIGTERM
    assert started.wait().status == 0
    assert api.open(tmp_path / "t").info["exit"] == {"status": None, "signal": signal.SIGTERM}


def test_a_busybox_that_runs_already(start: Start, mmiotap: Run, tmp_path: Path) -> None:
    """It maps nothing of its own that is shared, so what is recorded is a page of its data: private, hence locked."""
    busybox = subprocess.run(["which", "busybox"], capture_output=True, text=True, check=True).stdout.strip()
    started = start(busybox, "sh", "-c", "echo ready; while :; do echo x; busybox usleep 1000; done >/dev/null")
    path = str(Path(busybox).resolve())
    assert started.process.stdout
    assert started.process.stdout.readline() == "ready\n"
    before = maps(started.pid)
    result = mmiotap("attach", "-o", "t", "--map", path, "--duration", "0.5", str(started.pid))
    assert result.status == 0, result.stderr
    assert "made the way 'lock'" in result.stderr
    trace = api.open(tmp_path / "t")
    assert {mapping.path for mapping in trace.mappings} == {path}
    events = trace.events(["kind", "pid"]).to_pylist()
    assert {"read", "write"} & {row["kind"] for row in events if row["pid"] == started.pid}
    assert [line.split()[:2] for line in before.splitlines() if path in line] == [
        line.split()[:2] for line in maps(started.pid).splitlines() if path in line
    ]
    assert states(started.pid) == {"TracerPid:\t0"}


def refusal(mmiotap: Run, pid: int, tmp_path: Path) -> str:
    """What attach says, which is one line."""
    result = mmiotap("attach", "-o", "t", str(pid))
    assert (result.status, result.stderr.count("\n")) == (1, 1)
    assert not (tmp_path / "t").exists()
    return result.stderr.removeprefix("mmiotap: ").rstrip("\n")


def test_why_a_process_cannot_be_traced(mmiotap: Run, start: Start, tmp_path: Path) -> None:
    assert refusal(mmiotap, 4194303, tmp_path) == "there is no process 4194303"
    assert refusal(mmiotap, 2, tmp_path) == "process 2 (kthreadd) is a thread of the kernel"
    zombie = start("true")
    while "State:\tZ" not in Path(f"/proc/{zombie.pid}/status").read_text():
        time.sleep(0.001)
    with pytest.raises(MmiotapError, match="is mmiotap itself"):
        Engine(report=pytest.fail).attach(os.getpid())
    name = f"process {zombie.pid} (true)"
    assert (
        refusal(mmiotap, zombie.pid, tmp_path) == f"{name} has ended: it is a zombie that its parent has not waited for"
    )
    stopped = start("sleep", "60")
    os.kill(stopped.pid, signal.SIGSTOP)
    while "State:\tT" not in Path(f"/proc/{stopped.pid}/status").read_text():
        time.sleep(0.001)
    hint = f"kill -CONT {stopped.pid}"
    assert (
        refusal(mmiotap, stopped.pid, tmp_path) == f"process {stopped.pid} (sleep) is stopped: let it run first, {hint}"
    )


def test_another_tracer(mmiotap: Run, worker: Started, tmp_path: Path) -> None:
    engine = Engine(report=pytest.fail)
    engine.attach(worker.pid)
    said = refusal(mmiotap, worker.pid, tmp_path)
    assert said == f"process {worker.pid} (worker) is traced already, by process {os.getpid()}: detach that one first"
    engine.detach()


def test_somebody_elses_process(start: Start, tmp_path: Path) -> None:
    """Asked for by nobody (the user), as root would be allowed to."""
    sleeper = start("sleep", "60")
    code = (
        "import os, sys\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "from mmiotap.sources.ptrace.engine import Engine\n"
        "from mmiotap.trace.errors import MmiotapError\n"
        "try: Engine(report=print).attach(int(sys.argv[1]))\n"
        "except MmiotapError as error: print(error)\n"
    )
    folder = Path(api.__file__).parent.parent
    script = f"import sys; sys.path.insert(0, {str(folder)!r}); import mmiotap.sources.ptrace.engine\n{code}"
    result = start(sys.executable, "-c", script, str(sleeper.pid)).wait()
    assert result.stdout.startswith(f"process {sleeper.pid} belongs to user 0: no permission to trace it"), (
        result.stderr
    )
