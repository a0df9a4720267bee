"""Locks of libc's in a recorded mapping: libc waits by futex, in the kernel, which cannot read a front."""

import os
import signal
import time
from pathlib import Path

import pytest

from conftest import MMIOTAP, Compile, Run, Start, Started, until
from mmiotap.trace import layout
from mmiotap.trace.reader import Trace, open_trace

DATA = Path(__file__).parents[1] / "data"
PAGE = 4096
WAITS = 7


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "device"
    path.write_bytes(bytes(2 * PAGE))
    return path


@pytest.fixture
def locks(compile_c: Compile) -> Path:
    """With every lock there is: contention of threads and of processes, time-outs, cancellation, signals."""
    return compile_c((DATA / "locks.c").read_text(), "locks", "-pthread")


def record(mmiotap: Run, tmp_path: Path, *command: str | Path, stdout: str) -> Trace:
    """Record the program, which must not notice."""
    traced = mmiotap("record", "--map", "**/device", "-o", "trace", "--", *command)
    assert (traced.status, traced.stdout) == (0, stdout), traced.stderr
    trace = open_trace(tmp_path / "trace")
    assert trace.lost == 0
    return trace


def test_they_are_what_they_were(run: Run, mmiotap: Run, locks: Path, device: Path, tmp_path: Path) -> None:
    plain = run(locks, device)
    assert plain.status == 0
    trace = record(mmiotap, tmp_path, locks, device, stdout=plain.stdout)
    events = [event for event in trace.events().to_pylist() if event["flags"] & layout.SYSCALL]
    # A wait reads the word, or the time until when; what else the kernel does with a lock is not known.
    assert {(event["kind"], event["width"]) for event in events} == {("read", 4), ("read", 16), ("unknown", 0)}
    assert len({event["pid"] for event in events}) == 2
    modules = {
        module.path for module in trace.modules if any(module.start <= event["pc"] < module.end for event in events)
    }
    assert [Path(path).name for path in modules] == ["libc.so.6"]


def test_where_no_jump_can_be_had(run: Run, mmiotap: Run, locks: Path, device: Path, tmp_path: Path) -> None:
    """There are breakpoints in libc then."""
    plain = run(locks, device, "1", "taken")
    record(mmiotap, tmp_path, locks, device, "1", "taken", stdout=plain.stdout)


def test_disabled_and_enabled_meanwhile(
    run: Run, start: Start, mmiotap: Run, locks: Path, device: Path, tmp_path: Path
) -> None:
    plain = run(locks, device, "5")
    recorder = start(*MMIOTAP, "record", "--map", "**/device", "-o", "trace", "--", locks, device, "5")
    until(lambda: any(tmp_path.glob("trace/live/arena")))
    verb = 0
    while recorder.process.poll() is None:
        mmiotap(("disable", "enable")[verb % 2], "trace")
        verb += 1
    assert (recorder.wait().stdout, recorder.process.returncode) == (plain.stdout, 0)


def attach(start: Start, pid: int) -> Started:
    recorder = start(
        *MMIOTAP, "attach", "--engine", "agent", "--map", "**/device", "-o", f"trace-{time.time_ns()}", str(pid)
    )
    until(lambda: "/live/arena" in maps(pid) or recorder.process.poll() is not None)
    return recorder


def detach(recorder: Started) -> None:
    os.kill(recorder.pid, signal.SIGINT)
    ended = recorder.wait()
    assert ended.status == 0, ended.stderr


def maps(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/maps").read_text()
    except FileNotFoundError:
        return ""


def test_attached_to_and_left_while_they_are_contended(run: Run, start: Start, locks: Path, device: Path) -> None:
    plain = run(locks, device, "20")
    program = start(locks, device, "20")
    while program.process.poll() is None:
        recorder = attach(start, program.pid)
        if program.process.poll() is not None:
            recorder.wait()
            break
        detach(recorder)
    ended = program.wait()
    assert (ended.status, ended.stdout) == (0, plain.stdout), ended.stderr


def all_wait(pid: int) -> bool:
    """Are all threads but the first in a futex?"""
    try:
        calls = [path.read_text().split()[0] for path in Path(f"/proc/{pid}/task").glob("*/syscall")]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return calls.count("202") + calls.count("219") == WAITS


@pytest.mark.parametrize("shared", ["0", "1"], ids=["private", "shared"])
def test_waits_that_go_on(shared: str, start: Start, compile_c: Compile, device: Path, tmp_path: Path) -> None:
    """Whether they began before the process was attached to, or before it was left, they end when they should."""
    program = start(compile_c((DATA / "waits.c").read_text(), "waits", "-pthread"), device, tmp_path / "wake", shared)

    def wait() -> None:
        until(lambda: all_wait(program.pid))

    def wake(number: int) -> None:
        file = tmp_path / f"wake{number}"
        file.touch()
        until(lambda: not file.exists())

    wait()
    recorder = attach(start, program.pid)
    wait()
    wake(0)
    wait()
    detach(recorder)
    wait()
    wake(1)
    wait()
    detach(attach(start, program.pid))
    recorder = attach(start, program.pid)
    wake(2)
    wait()
    detach(recorder)
    wake(3)
    ended = program.wait()
    assert (ended.status, ended.stdout) == (0, "0 0 1 0 0 0 0 \n" * 4), ended.stderr
