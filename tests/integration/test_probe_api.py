"""mmiotap.launch and mmiotap.attach: probes from Python, that come and go while the program runs."""

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pyarrow as pa
import pytest

import mmiotap as api
from conftest import TIME_LIMIT, Compile
from mmiotap.kmmio.access import Access, AnswerError
from mmiotap.kmmio.probe import ProbeExists
from mmiotap.target import Target as Program

Target = tuple[Program, "Asked"]

#: Reads a register for each byte that comes in, and writes the value out; ends at the end of input.
READER = r"""
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    int fd = open(argv[1], O_RDWR);
    volatile uint32_t *base = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    int in = argc > 2 ? open(argv[2], O_RDONLY) : 0, out = argc > 2 ? open(argv[3], O_WRONLY) : 1;
    for (char byte; read(in, &byte, 1) == 1;)
        dprintf(out, "%u\n", base[2]);
    return 3;
}
"""
DEVICE = 1000


class Asked:
    """A driver that reads its register when it is told to."""

    def __init__(self, to: IO[bytes], back: IO[bytes]) -> None:
        self._to, self._back = to, back

    def read(self) -> int:
        self._to.write(b"\n")
        self._to.flush()
        return int(self._back.readline())

    def end(self) -> None:
        self._to.close()


@pytest.fixture
def registers(tmp_path: Path) -> Path:
    path = tmp_path / "registers"
    path.write_bytes(bytes(8) + DEVICE.to_bytes(4, "little") + bytes(4084))
    return path


@pytest.fixture
def place(registers: Path) -> str:
    return f"{registers}:8+4"


@pytest.fixture
def reader(compile_c: Compile) -> Path:
    return compile_c(READER, "reader")


@pytest.fixture(params=["agent", "ptrace", "attach"])
def target(request: pytest.FixtureRequest, reader: Path, registers: Path, tmp_path: Path) -> Iterator[Target]:
    """A driver that runs under probes, whichever way, and what to tell it."""
    if request.param == "attach":
        with subprocess.Popen([reader, registers], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
            assert program.stdin is not None
            assert program.stdout is not None
            asked = Asked(program.stdin, program.stdout)
            assert asked.read() == DEVICE
            try:
                with api.attach(program.pid) as attached:
                    yield attached, asked
            finally:
                program.kill()
        return
    pipes = [tmp_path / "to", tmp_path / "back"]
    for pipe in pipes:
        subprocess.run(["mkfifo", pipe], check=True)
    with api.launch([reader, registers, *pipes], maps=[str(registers)], engine=request.param) as launched:
        launched.start()
        with pipes[0].open("wb") as to, pipes[1].open("rb") as back:
            yield launched, Asked(to, back)
        launched.kill()


def test_probes_come_and_go(target: Target, place: str) -> None:
    program, asked = target
    values = iter(range(5))
    probe = program.probe(place, pre=lambda access: access.answer(next(values)))
    assert [asked.read() for _ in range(2)] == [0, 1]
    with pytest.raises(ProbeExists):
        program.probe(place, pre=print)
    probe.remove()
    assert asked.read() == DEVICE
    program.probe(place, post=lambda access: setattr(access, "value", (access.value or 0) + 1))
    assert asked.read() == DEVICE + 1
    asked.end()
    assert program.wait(TIME_LIMIT) == 3


def test_a_handler_that_removes_its_own_probe(target: Target, place: str) -> None:
    program, asked = target
    calls: list[Access] = []

    def once(access: Access) -> None:
        calls.append(access)
        probe.remove()
        access.answer(1)

    probe = program.probe(place, pre=once)
    assert [asked.read() for _ in range(3)] == [1, DEVICE, DEVICE]
    assert len(calls) == 1
    with pytest.raises(AnswerError, match="over"):
        calls[0].answer(2)


def test_observers_are_told_of_every_access(target: Target, place: str) -> None:
    program, asked = target
    seen: list[tuple[str, int | None, int, str]] = []

    def look(access: Access) -> None:
        assert access.symbol is not None
        seen.append((access.kind, access.value, access.offset, access.symbol.partition("+")[0]))

    program.probe(place, post=look, hook=False)
    assert [asked.read() for _ in range(9)] == [DEVICE] * 9
    asked.end()
    assert program.wait(TIME_LIMIT) == 3
    assert seen == [("read", DEVICE, 8, "main")] * 9


def test_an_observer_cannot_go_before(target: Target, place: str) -> None:
    with pytest.raises(api.MmiotapError, match="has a post, and no pre"):
        target[0].probe(place, pre=print, hook=False)


def test_wait_gives_up(target: Target) -> None:
    assert target[0].wait(0.01) is None


def test_the_end_of_with_leaves_a_process_as_it_was(reader: Path, registers: Path, place: str) -> None:
    with subprocess.Popen([reader, registers], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        asked = Asked(program.stdin, program.stdout)
        asked.read()
        with api.attach(program.pid) as target:
            target.probe(place, pre=lambda access: access.answer(1))
            assert asked.read() == 1
        assert asked.read() == DEVICE
        asked.end()
        assert program.wait(TIME_LIMIT) == 3


def test_batches(reader: Path, registers: Path, place: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(bytes(5000))
    tables: list[pa.Table] = []
    with api.launch([reader, registers, tmp_path / "in", "/dev/null"]) as target:
        target.watch(place, tables.append)
        target.watch(f"{registers}:0+4", lambda table: pytest.fail("nobody reads here"))
        assert target.wait() == 3
    table = pa.concat_tables(tables)
    assert table["kind"].to_pylist() == ["read"] * 5000
    assert set(table["value"].to_pylist()) == {DEVICE}


def test_an_exception_ends_a_program_that_was_launched(reader: Path, registers: Path, tmp_path: Path) -> None:
    subprocess.run(["mkfifo", tmp_path / "to"], check=True)
    with pytest.raises(KeyError), api.launch([reader, registers, tmp_path / "to", "/dev/null"]) as target:  # noqa: PT012
        target.start()
        raise KeyError
    assert target.wait(0) == -9


def test_a_handler_that_raises_is_reported(reader: Path, registers: Path, place: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(bytes(2))
    reports: list[str] = []
    with api.launch([reader, registers, tmp_path / "in", "/dev/null"], report=reports.append) as target:
        target.probe(place, pre=lambda access: access.swallow())
        assert target.wait() == 3
    assert len(reports) == 2
    assert f"read 4 at {registers}:0x8" in reports[0]
    assert "AnswerError: this read" in reports[0]


def test_there_are_no_batches_from_outside(reader: Path, registers: Path, place: str) -> None:
    target = api.launch([reader, registers], engine="ptrace")
    with pytest.raises(api.MmiotapError, match="only with the agent"):
        target.watch(place, print)


@pytest.mark.parametrize("command", [["no-such-program"], []])
def test_what_cannot_be_launched(command: list[str]) -> None:
    with pytest.raises(api.MmiotapError):
        api.launch(command)


def test_who_cannot_be_attached_to() -> None:
    with pytest.raises(api.MmiotapError, match="there is no process 999999999"):
        api.attach(999999999)


def test_two_threads_of_ours_may_probe_at_once(reader: Path, registers: Path, tmp_path: Path) -> None:
    """Hooks come and go in several threads while the program reads as fast as it can."""
    subprocess.run(["mkfifo", tmp_path / "to"], check=True)
    with api.launch([reader, registers, tmp_path / "to", "/dev/null"], maps=[str(registers)]) as target:
        target.start()
        with (tmp_path / "to").open("wb") as to:

            def churn(offset: int) -> None:
                for _ in range(20):
                    target.probe(f"{registers}:{offset}+2", post=lambda access: None).remove()

            threads = [threading.Thread(target=churn, args=(offset,)) for offset in (8, 10)]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                to.write(bytes(100))
                to.flush()
        assert target.wait(TIME_LIMIT) == 3
