"""The tracer of probes has a process of its own: what becomes of the program when the one with the handlers is gone."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import mmiotap as api
from conftest import MMIOTAP, TIME_LIMIT, Compile, Started, until
from mmiotap.sources.ptrace import maps

#: Reads a register for each line that comes in, and writes the value out; its exit status is how many there were.
READER = r"""
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    int fd = open(argv[1], O_RDWR), reads = 0;
    volatile uint32_t *base = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    int in = open(argv[2], O_RDONLY), out = open(argv[3], O_WRONLY);
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    dprintf(out, "%d\n", getpid());
    for (char byte; read(in, &byte, 1) == 1; reads++)
        dprintf(out, "%u\n", base[2]);
    return reads;
}
"""
DEVICE = 1000
ANSWERS = "def pre(access):\n    access.answer(7)\n"


class Reader:
    """A program that reads its register when it is told to; and who probes it."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.registers = folder / "registers"
        self.registers.write_bytes(bytes(8) + DEVICE.to_bytes(4, "little") + bytes(4084))
        self._pipes = folder / "in", folder / "out"
        for pipe in self._pipes:
            os.mkfifo(pipe)
        self.command = [program, self.registers, *self._pipes]
        self._folder = folder

    def open(self) -> None:
        self._to, self._back = self._pipes[0].open("wb", buffering=0), self._pipes[1].open("rb")
        self.pid = int(self._back.readline())

    def read(self) -> int | None:
        """None: it has died of it."""
        self._to.write(b"\n")
        line = self._back.readline()
        return int(line) if line else None

    def end(self) -> None:
        self._to.close()
        self._back.close()

    def probe(self, script: str, *options: str) -> list[str | Path]:
        path = self._folder / "script.py"
        path.write_text(script)
        place = f"{self.registers}:8+4"
        ample = ["--limit", "30"]
        return [*MMIOTAP, "probe", "--engine", "ptrace", "--at", place, "--script", path, *ample, *options]

    @property
    def armed(self) -> bool:
        return re.search(r" ---s .*/registers$", Path(f"/proc/{self.pid}/maps").read_text(), re.MULTILINE) is not None

    @property
    def tracer(self) -> int:
        return int(maps.status(self.pid)["TracerPid"])


@pytest.fixture
def reader(compile_c: Compile, tmp_path: Path) -> Reader:
    return Reader(compile_c(READER, "reader"), tmp_path)


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists() or maps.status(pid)["State"].startswith("Z")


@pytest.fixture
def attached(reader: Reader, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The program; it runs before it is probed."""
    with subprocess.Popen(reader.command) as program:
        reader.open()
        yield program
        program.kill()


def test_the_prober_is_killed_while_the_program_waits(
    reader: Reader, attached: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    before = Path(f"/proc/{reader.pid}/maps").read_text()
    prober = Started([*reader.probe(ANSWERS), str(reader.pid)], cwd=tmp_path)
    until(lambda: reader.armed)
    assert reader.read() == 7
    tracer = reader.tracer
    prober.process.kill()
    until(lambda: reader.tracer == 0)
    assert Path(f"/proc/{reader.pid}/maps").read_text() == before
    assert [reader.read() for _ in range(3)] == [DEVICE] * 3
    reader.end()
    assert attached.wait(TIME_LIMIT) == 4
    until(lambda: gone(tracer))
    prober.wait()


def test_a_program_that_was_started_outlives_its_prober(reader: Reader, tmp_path: Path) -> None:
    """Its own shell gets the exit status that it would have without us."""
    status = tmp_path / "status"
    shell = f"{' '.join(map(str, reader.command))}; echo $? >{status}.new; mv {status}.new {status}"
    prober = Started([*reader.probe(ANSWERS), "--", "sh", "-c", shell], cwd=tmp_path)
    reader.open()
    assert reader.read() == 7
    assert not any(str(fd.readlink()).startswith("socket") for fd in Path(f"/proc/{reader.pid}/fd").iterdir())
    prober.process.kill()
    until(lambda: reader.tracer == 0)
    assert not reader.armed
    assert reader.read() == DEVICE
    reader.end()
    prober.wait()  # whose output is read to its end, which is the shell's
    assert status.read_text() == "2\n"


def test_the_prober_is_killed_and_the_program_stops_where_that_is_asked_for(
    reader: Reader, attached: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    prober = Started([*reader.probe(ANSWERS, "--on-hook-failure", "stop"), str(reader.pid)], cwd=tmp_path)
    until(lambda: reader.armed)
    assert reader.read() == 7
    tracer = reader.tracer
    prober.process.kill()
    prober.process.wait(TIME_LIMIT)
    assert attached.poll() is None  # a wrong answer would be worse than none, but it has asked for none yet
    assert reader.read() is None
    assert attached.wait(TIME_LIMIT) == -signal.SIGKILL
    until(lambda: gone(tracer))
    prober.wait()


def test_the_terminal_s_signals_do_not_end_the_tracer(reader: Reader, tmp_path: Path) -> None:
    """They go to the whole group: the prober hands SIGHUP on, and the program ignores it."""
    prober = Started([*reader.probe(ANSWERS), "--", *map(str, reader.command)], cwd=tmp_path)
    reader.open()
    for number in (signal.SIGINT, signal.SIGHUP):
        os.killpg(prober.pid, number)
        assert reader.read() == 7
    reader.end()
    assert prober.wait().status == 2


def test_the_tracer_is_killed(reader: Reader, tmp_path: Path) -> None:
    """What nobody can mend is said."""
    prober = Started([*reader.probe(ANSWERS), "--", *map(str, reader.command)], cwd=tmp_path)
    reader.open()
    assert reader.read() == 7
    os.kill(int(maps.status(reader.tracer)["Tgid"]), signal.SIGKILL)
    assert reader.read() is None
    reader.end()
    result = prober.wait()
    assert result.status == 1
    assert re.fullmatch(r"mmiotap: the process that traced \d+ was killed: .*\n", result.stderr)


SLOW_ONCE = """\
import os, time
def pre(access):
    while not os.path.exists("go on"):
        time.sleep(0.01)
    access.answer(7)
"""


def test_after_a_slow_answer_the_next_one_counts(reader: Reader, tmp_path: Path) -> None:
    prober = Started([*reader.probe(SLOW_ONCE, "--limit", "2"), "--", *map(str, reader.command)], cwd=tmp_path)
    reader.open()
    assert reader.read() == DEVICE
    (tmp_path / "go on").touch()
    assert reader.read() == 7
    reader.end()
    result = prober.wait()
    assert result.status == 2
    assert result.stderr == "mmiotap: 1 accesses went on without an answer: none came in time\n"


def test_a_python_that_just_ends_leaves_the_program(
    reader: Reader, attached: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    code = (
        f"import mmiotap\ntarget = mmiotap.attach({reader.pid})\n"
        f"target.probe({f'{reader.registers}:8+4'!r}, pre=lambda access: access.answer(7))\ninput()\n"
    )
    with subprocess.Popen([*MMIOTAP[:1], "-c", code], stdin=subprocess.PIPE) as prober:
        until(lambda: reader.armed)
        assert reader.read() == 7
        prober.communicate(b"\n", TIME_LIMIT)
    until(lambda: reader.tracer == 0)
    assert reader.read() == DEVICE
    reader.end()
    assert attached.wait(TIME_LIMIT) == 2


def test_a_slow_handler_of_the_api(reader: Reader, attached: subprocess.Popen[bytes]) -> None:
    with api.attach(reader.pid, limit=0.05) as target:
        target.probe(f"{reader.registers}:8+4", pre=lambda access: time.sleep(0.5))
        assert reader.read() == DEVICE
    assert not reader.armed
    assert reader.read() == DEVICE
    reader.end()
    assert attached.wait(TIME_LIMIT) == 2


def test_one_s_own_process_cannot_be_probed() -> None:
    with pytest.raises(api.MmiotapError, match="is mmiotap itself"):
        api.attach(os.getpid())
