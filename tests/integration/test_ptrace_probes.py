"""Probes of the engine from outside: they see, and answer, what a program does."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from outside import programs

from conftest import Compile
from mmiotap.kmmio.access import Access
from mmiotap.kmmio.place import AtAddress, InMapping
from mmiotap.kmmio.probe import ProbeExists
from mmiotap.sources.ptrace.engine import Engine, Finished
from mmiotap.sources.ptrace.remote import Failure, Remote
from mmiotap.trace.errors import MmiotapError

WAYS = ("emulate", "step", "lock")
#: Seconds that no handler takes, however busy the machine is.
AMPLE = 30.0


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "device"
    path.write_bytes(bytes(8192))
    return path


@pytest.fixture(params=[*WAYS, "apart"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine | Remote]:
    """One that has not begun, here or in a process of its own; what it reports fails the test."""
    said: list[str] = []
    engine: Engine | Remote
    if request.param == "apart":
        engine = Remote(Failure(AMPLE, "stop"), report=said.append)
    else:
        engine = Engine(way=request.param, report=said.append)
    yield engine
    engine.detach()
    assert said == []


class Child:
    """A Python program under our control: each line that it reads is run."""

    def __init__(self, device: Path) -> None:
        code = (
            "import ctypes, mmap, os, sys\n"
            f"file = os.open({str(device)!r}, os.O_RDWR)\n"
            "memory = mmap.mmap(file, 8192)\n"
            "print(ctypes.addressof(ctypes.c_char.from_buffer(memory)), flush=True)\n"
            "words = memoryview(memory).cast('I')\n"
            "for line in sys.stdin: print(eval(line), flush=True)\n"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout
        self.address = int(self.process.stdout.readline())

    def run(self, expression: str) -> str:
        assert self.process.stdin
        assert self.process.stdout
        print(expression, file=self.process.stdin, flush=True)
        return self.process.stdout.readline().strip()

    def read(self, word: int) -> int:
        return int(self.run(f"words[{word}]"))

    def write(self, word: int, value: int) -> None:
        assert self.run(f"words.__setitem__({word}, {value})") == "None"


@pytest.fixture
def child(device: Path) -> Iterator[Child]:
    child = Child(device)
    yield child
    assert child.process.poll() is None, "it has not survived"
    child.process.kill()
    child.process.communicate()


def test_a_hooked_device(compile_c: Compile, device: Path, tmp_path: Path, engine: Engine | Remote) -> None:
    """Every answer there is, from the first instruction of a program on."""
    program = compile_c(programs.HOOKED)
    seen: list[tuple[str, str, int, int | None]] = []

    def pre(access: Access) -> None:
        seen.append(("pre", access.kind, access.offset, access.value))
        if access.offset == 4 and access.kind == "write":
            access.value = 0x22
        elif access.offset == 8:
            access.swallow()
        elif access.offset in (12, 20) and access.kind == "read":
            access.answer(0xA0 + access.offset)

    def post(access: Access) -> None:
        seen.append(("post", access.kind, access.offset, access.value))
        assert access.registers["rip"] == access.pc
        if access.offset == 24:
            access.value = 0x66

    engine.probe(InMapping(str(device), 0, 32), pre=pre, post=post)
    output = tmp_path / "output"
    engine.launch("/bin/sh", ["sh", "-c", f"exec {program} {device} > {output}"])
    assert engine.wait(60_000)
    assert engine.exit_code == 0
    assert output.read_text() == "b4 66 0\n"
    words = [int.from_bytes(device.read_bytes()[at : at + 4], "little") for at in range(0, 32, 4)]
    assert words == [1, 0x22, 0, 0xBC, 5, 0, 0, 0]
    assert seen == [
        ("pre", "write", 0, 1),
        ("post", "write", 0, 1),
        ("pre", "write", 4, 2),
        ("post", "write", 4, 0x22),
        ("pre", "write", 8, 3),
        ("post", "write", 8, 3),
        ("pre", "read", 12, None),
        ("post", "read", 12, 0xAC),
        ("pre", "write", 12, 0xBC),
        ("post", "write", 12, 0xBC),
        ("pre", "read", 16, None),
        ("post", "read", 16, 0),
        ("pre", "write", 16, 5),
        ("post", "write", 16, 5),
        ("pre", "read", 20, None),
        ("post", "read", 20, 0xB4),
        ("pre", "read", 24, None),
        ("post", "read", 24, 0),
        ("pre", "read", 28, None),
        ("post", "read", 28, 0),
    ]


def test_probes_come_and_go_while_it_runs(child: Child, device: Path, engine: Engine | Remote) -> None:
    before = Path(f"/proc/{child.process.pid}/maps").read_text()
    engine.attach(child.process.pid)
    seen: list[tuple[str, int, int | None]] = []

    def note(access: Access) -> None:
        seen.append((access.kind, access.offset, access.value))

    child.write(0, 1)
    first = engine.probe(InMapping(str(device), 0, 4), post=note)
    child.write(0, 2)
    assert child.read(1) == 0  # a neighbour on the same page
    second = engine.probe(AtAddress(child.address + 4, 4), post=note, hook=False)
    with pytest.raises(ProbeExists):
        engine.probe(AtAddress(child.address + 2, 4), post=note)
    child.write(1, 3)
    engine.unprobe(first)
    child.write(0, 4)
    assert child.read(1) == 3
    engine.unprobe(second)
    assert child.read(1) == 3
    assert seen == [("write", 0, 2), ("write", 4, 3), ("read", 4, 3)]
    engine.detach()
    assert Path(f"/proc/{child.process.pid}/maps").read_text() == before
    child.write(0, 5)
    assert child.read(0) == 5
    with pytest.raises(Finished):
        engine.probe(AtAddress(child.address, 4), post=note)


def test_a_handler_that_raises(child: Child, device: Path) -> None:
    said: list[str] = []
    engine = Engine(report=said.append)
    engine.attach(child.process.pid)

    def pre(access: Access) -> None:
        access.answer(1 // 0)

    engine.probe(AtAddress(child.address, 4), pre=pre)
    child.write(1, 7)
    assert child.read(0) == 0  # the device's own answer
    engine.detach()
    assert len(said) == 1
    assert "ZeroDivisionError" in said[0]
    assert Path(__file__).name in said[0]


def test_a_handler_that_takes_its_own_probe_away(child: Child, device: Path, engine: Engine | Remote) -> None:
    engine.attach(child.process.pid)
    seen: list[int] = []

    def once(access: Access) -> None:
        seen.append(access.offset)
        engine.unprobe(placed)

    placed = engine.probe(AtAddress(child.address, 4096), pre=once)
    assert child.read(3) == child.read(4) == 0
    assert seen == [12]


def test_nothing_there(child: Child, engine: Engine | Remote) -> None:
    engine.attach(child.process.pid)
    with pytest.raises(MmiotapError, match=r"nothing is mapped at 0x1000 that could be probed"):
        engine.probe(AtAddress(4096, 4), pre=print)


def test_private_memory(child: Child, engine: Engine | Remote) -> None:
    """A probe on the heap, say: no alias, so the others are held."""
    said: list[str] = []
    engine.report = said.append
    child.run("globals().update(own=bytearray(64))")
    child.run("globals().update(view=memoryview(own).cast('I'))")
    address = int(child.run("ctypes.addressof(ctypes.c_char.from_buffer(own))"))
    engine.attach(child.process.pid)
    seen: list[int | None] = []
    note: Callable[[Access], None] = lambda access: seen.append(access.value)  # noqa: E731
    engine.probe(AtAddress(address, 64), post=note)
    assert child.run("view.__setitem__(2, 9)") == "None"
    assert child.run("view[2]") == "9"
    assert seen == [9, 9]
    engine.detach()
    assert child.run("view[2]") == "9"
