"""`mmiotap guest` around a machine that has only its firmware: its begin and end, and what it says if it cannot."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from boot import LOG_LINE, Access, accesses

import mmiotap
from mmiotap.sources import guest
from mmiotap.sources.recording import Progress

pytestmark = [pytest.mark.guest, pytest.mark.timeout(120)]

QEMU = ["qemu-system-x86_64", "-display", "none", "-vga", "none", "-nodefaults", "-m", "64", "-machine", "pc"]
GUEST = [sys.executable, "-m", "mmiotap", "guest"]
LIMIT = 60


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts programs in tmp_path; all are killed at the end, and so are the machines that they have started."""
    begun: list[subprocess.Popen[str]] = []

    def start(*command: str | Path) -> subprocess.Popen[str]:
        begun.append(
            subprocess.Popen(
                command,
                cwd=tmp_path,
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        return begun[-1]

    yield start
    for one in begun:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(one.pid, signal.SIGKILL)
        one.wait()


def _until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


def _size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


def test_trace_equals_the_log_that_was_asked_for(tmp_path: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    log = tmp_path / "raw.log"
    recorder = start(*GUEST, "-o", "t.mmiotap", "--", *QEMU, "-device", "e1000", "-D", str(log))
    _until(lambda: _size(log) > 500_000)
    recorder.terminate()  # goes to QEMU
    _, said = recorder.communicate(timeout=LIMIT)
    assert recorder.returncode == 0, said
    trace = mmiotap.open(tmp_path / "t.mmiotap")
    assert trace.state == "finished"
    bases = {one.map_id: one.address for one in trace.mappings}
    rows = trace.events(["kind", "map_id", "offset", "value", "width", "time_ns"]).to_pylist()
    found = [(row["kind"], bases[row["map_id"]] + row["offset"], row["value"], row["width"]) for row in rows]
    lines = [LOG_LINE.search(line) for line in log.read_bytes().splitlines()]
    logged = [(one[1].decode(), int(one[2], 16), int(one[3], 16), int(one[4])) for one in lines if one]
    assert len(logged) > 1000
    assert found == [(kind, address, value & ((1 << 8 * width) - 1), width) for kind, address, value, width in logged]
    assert any(one.path == "ioports:rtc" for one in trace.mappings)
    assert all(trace.info["start_mono_ns"] < row["time_ns"] < time.monotonic_ns() for row in rows)


def test_exit_status_and_complaints_are_qemus(tmp_path: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    recorder = start(*GUEST, "-o", "t.mmiotap", "--", *QEMU, "-device", "no-such-device")
    _, said = recorder.communicate(timeout=LIMIT)
    assert recorder.returncode == 1
    assert "'no-such-device' is not a valid device model name" in said
    assert "Traceback" not in said
    assert mmiotap.open(tmp_path / "t.mmiotap").info["exit"] == {"status": 1, "signal": None}


def test_qemu_that_is_killed(tmp_path: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    recorder = start(*GUEST, "-o", "t.mmiotap", "--", *QEMU, "-D", "raw.log", "-pidfile", str(tmp_path / "pid"))
    _until(lambda: _size(tmp_path / "raw.log") > 0)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    recorder.communicate(timeout=LIMIT)
    assert recorder.returncode == -signal.SIGKILL
    trace = mmiotap.open(tmp_path / "t.mmiotap")
    assert (trace.state, trace.info["exit"]) == ("finished", {"status": None, "signal": signal.SIGKILL})
    assert trace.count > 0


def test_recorder_that_is_killed_leaves_the_machine_and_a_trace(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    recorder = start(*GUEST, "-o", "t.mmiotap", "--", *QEMU, "-pidfile", str(tmp_path / "pid"))
    parts = tmp_path / "t.mmiotap" / "events"
    _until(lambda: parts.exists() and any(parts.glob("part-*.parquet")))
    recorder.kill()
    recorder.wait()
    machine = int((tmp_path / "pid").read_text())
    try:
        time.sleep(0.5)
        assert Path(f"/proc/{machine}").exists()
    finally:
        os.kill(machine, signal.SIGKILL)
    subprocess.run([sys.executable, "-m", "mmiotap", "recover", tmp_path / "t.mmiotap"], check=True, timeout=LIMIT)
    trace = mmiotap.open(tmp_path / "t.mmiotap")
    assert trace.state == "recovered"
    assert trace.count > 0


def test_the_pipe_of_a_killed_recorder_goes_and_no_other(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "temporary"
    (folder / "mmiotap-without-a-pipe").mkdir(parents=True)
    (folder / "mmiotap-without-a-pipe" / "log").touch()
    (tmp_path / "elsewhere").mkdir()
    os.mkfifo(tmp_path / "elsewhere" / "log")
    (folder / "mmiotap-link").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setenv("TMPDIR", str(folder))
    start(*GUEST, "-o", "living.mmiotap", "--", *QEMU, "-S")
    _until((tmp_path / "living.mmiotap" / "live" / "control").exists)
    left = set(folder.rglob("*"))
    killed = start(*GUEST, "-o", "killed.mmiotap", "--", *QEMU, "-S")
    _until((tmp_path / "killed.mmiotap" / "live" / "control").exists)
    killed.kill()
    killed.wait()
    assert len(set(folder.rglob("*")) - left) == 2
    following = start(*GUEST, "-o", "following.mmiotap", "--", *QEMU, "-device", "no-such-device")
    following.communicate(timeout=LIMIT)
    assert set(folder.rglob("*")) == left
    assert list((tmp_path / "elsewhere").iterdir())


def test_trace_that_is_there_is_not_replaced(tmp_path: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    (tmp_path / "t.mmiotap").mkdir()
    recorder = start(*GUEST, "-o", "t.mmiotap", "--", *QEMU)
    _, said = recorder.communicate(timeout=LIMIT)
    assert (recorder.returncode, said.count("\n")) == (1, 1)
    assert "exists" in said


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ([], 2, "which machine?"),
        (["--qmp", "socket", "--", "qemu-system-x86_64"], 2, "which machine?"),
        (["--qmp", "nothing"], 1, "nothing: No such file or directory; give the socket of QEMU's -qmp"),
        (["--", "no-such-qemu"], 127, "no-such-qemu: no such program in PATH"),
        (["--", *QEMU, "-daemonize"], 1, "mmiotap guest --qmp"),
    ],
)
def test_one_clear_line(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]], arguments: list[str], status: int, words: str
) -> None:
    recorder = start(*GUEST, "-o", "t.mmiotap", *arguments)
    _, said = recorder.communicate(timeout=LIMIT)
    assert (recorder.returncode, said.count("\n")) == (status, 1), said
    assert words in said
    assert not (tmp_path / "t.mmiotap").exists()


def test_socket_that_another_client_has(tmp_path: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    start(*QEMU, "-S", "-qmp", "unix:qmp,server=on,wait=off")
    _until((tmp_path / "qmp").exists)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.connect(str(tmp_path / "qmp"))
        assert other.recv(1)
        recorder = start(*GUEST, "-o", "t.mmiotap", "--qmp", "qmp")
        _, said = recorder.communicate(timeout=LIMIT)
    assert recorder.returncode == 1
    assert "QEMU serves one at a time" in said


def test_running_machine_ends(tmp_path: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    machine = start(*QEMU, "-S", "-qmp", "unix:qmp,server=on,wait=off")
    _until((tmp_path / "qmp").exists)
    recorder = start(*GUEST, "-o", "t.mmiotap", "--qmp", "qmp")
    _until((tmp_path / "t.mmiotap" / "live" / "control").exists)
    machine.terminate()
    _, said = recorder.communicate(timeout=LIMIT)
    assert recorder.returncode == 0, said
    assert mmiotap.open(tmp_path / "t.mmiotap").state == "finished"


#: The card in slot 4 of the bus, and where the test puts its registers; TABLE holds what is written to it.
CONFIG = 0x8000_2000
BAR = 0xE000_0000
TABLE = 0x5200


class Bus:
    """Makes accesses in a machine whose processors stand still, by QEMU's own test protocol."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(LIMIT)
        self._socket.connect(str(path))
        self._replies = self._socket.makefile("r")
        for register, value in ((0x10, BAR), (0x04, 0x2)):
            self.do(f"outl 0xcf8 {CONFIG + register:#x}")
            self.do(f"outl 0xcfc {value:#x}")

    def do(self, line: str) -> str:
        self._socket.sendall(f"{line}\n".encode())
        while not (reply := self._replies.readline()).startswith("OK"):
            assert reply.startswith("IRQ"), reply
        return reply

    def touch(self, *numbers: int) -> None:
        """Write a register of the table, and read it back."""
        for number in numbers:
            self.do(f"writel {BAR + TABLE + 4 * number:#x} {number + 1:#x}")
            assert int(self.do(f"readl {BAR + TABLE + 4 * number:#x}").split()[1], 16) == number + 1


def _touched(*numbers: int) -> list[Access]:
    return [Access(kind, TABLE + 4 * number, 4, number + 1) for number in numbers for kind in ("write", "read")]


def test_what_is_read_only_at_the_end_has_its_device(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    options = ["-S", "-device", "e1000,id=card,addr=4,romfile=", "-qmp", "unix:qmp,server=on,wait=off"]
    start(*QEMU, *options, "-qtest", "unix:bus,server=on,wait=off")
    _until((tmp_path / "bus").exists)
    bus = Bus(tmp_path / "bus")
    until = threading.Event()

    def touch_and_end(_: Progress) -> None:
        # Called by the thread that reads the log, which sees afterwards that it is to end.
        if not until.is_set():
            bus.touch(3)
            until.set()

    folder = tmp_path / "t.mmiotap"
    guest.record(qmp=str(tmp_path / "qmp"), devices=["card"], path=folder, until=until, on_progress=touch_and_end)
    trace = mmiotap.open(folder)
    (mapping,) = trace.mappings
    assert mapping.device == "0000:00:04.0"
    assert trace.count == len(_touched(3))


def test_running_machine_is_recorded_and_left_as_it_was(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    options = ["-S", "-device", "e1000,id=card,addr=4,romfile=", "-trace", "memory_region_ops_*"]
    options += ["-D", "qemu.log", "-qmp", "unix:qmp,server=on,wait=off", "-qtest", "unix:bus,server=on,wait=off"]
    start(*QEMU, *options)
    _until((tmp_path / "bus").exists)
    bus = Bus(tmp_path / "bus")
    bus.touch(1, 2)
    folder = tmp_path / "t.mmiotap"
    recorder = start(*GUEST, "--qmp", "qmp", "-o", "t.mmiotap", "--device", "card")

    def tell(*words: str) -> None:
        subprocess.run([sys.executable, "-m", "mmiotap", *words], cwd=tmp_path, check=True, timeout=LIMIT)

    _until((folder / "live" / "control").exists)
    tell("mark", "t.mmiotap", "begin")
    bus.touch(3, 4)
    tell("disable", "t.mmiotap")
    bus.touch(5)
    tell("enable", "t.mmiotap")
    bus.touch(6)
    recorder.terminate()
    _, said = recorder.communicate(timeout=LIMIT)
    assert recorder.returncode == 0, said
    bus.touch(7, 8)
    trace = mmiotap.open(folder)
    assert trace.state == "finished"
    (mapping,) = trace.mappings
    assert (mapping.path, mapping.device, mapping.bar, mapping.physical) == ("e1000-mmio", "0000:00:04.0", 0, BAR)
    rows = trace.events(["kind", "offset", "width", "value", "text"]).to_pylist()
    found = [Access(row["kind"], row["offset"], row["width"], row["value"]) for row in rows if row["kind"] != "mark"]
    assert found == _touched(3, 4, 6)
    assert [row["text"] for row in rows if row["kind"] == "mark"] == ["begin"]
    # It logs as before, to where it did before; what was recorded went nowhere else.
    assert accesses(tmp_path, "e1000-mmio", 128 * 1024) == _touched(1, 2, 7, 8)
