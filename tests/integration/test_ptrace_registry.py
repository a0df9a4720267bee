"""The registry on live processes against its specification: probes come and go, processes touch and fork, from outside.

The specification is that of tests/unit/test_kmmio_registry.py, which does the same on a simulated page table.
"""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kmmio_spec import PAGE, Spec
from mmiotap.kmmio.access import Access
from mmiotap.kmmio.place import AtAddress
from mmiotap.kmmio.probe import Probe, ProbeExists
from mmiotap.sources.ptrace import maps
from mmiotap.sources.ptrace.engine import Engine, Placed

PAGES = 4
#: A process that does what it is told, a line a time; a forked one is told through pipes of its own.
PROGRAM = """
import ctypes, mmap, os, sys

def touch(kind, offset, width):
    view = memory[offset:offset + width].cast({1: "B", 2: "H", 4: "I", 8: "Q"}[width])
    if kind == "write":
        view[0] = 1
    return view[0] if kind == "read" else 0

def fork(number):
    pid = os.fork()
    if not pid:
        serve(open(f"in{number}"), open(f"out{number}", "w"))
        os._exit(0)
    return pid

def serve(lines, answers):
    for line in lines:
        print(eval(line), file=answers, flush=True)

file = os.open("device", os.O_RDWR)
mapping = mmap.mmap(file, os.fstat(file).st_size)
address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
memory = memoryview(mapping)
serve(sys.stdin, sys.stdout)
"""

addresses = st.one_of(
    st.integers(0, PAGES * PAGE - 8),
    st.builds(lambda page, near: max(page * PAGE + near, 0), st.integers(0, PAGES - 1), st.integers(-9, 9)),
)
lengths = st.one_of(st.integers(1, 16), st.integers(1, 2 * PAGE + 2))


@dataclass
class Process:
    pid: int
    told: IO[str]
    answers: IO[str]

    def do(self, expression: str) -> int:
        print(expression, file=self.told, flush=True)
        return int(self.answers.readline())


class OnLiveProcesses(RuleBasedStateMachine):
    """One set of probes for a process and its children."""

    @initialize(way=st.sampled_from(["emulate", "step", "lock"]))
    def start(self, way: str) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="mmiotap-test-")
        self.path = Path(self.folder.name)
        (self.path / "device").write_bytes(bytes(PAGES * PAGE))
        self.first = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            cwd=self.path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.first.stdin
        assert self.first.stdout
        self.processes = [Process(self.first.pid, self.first.stdin, self.first.stdout)]
        self.base = self.processes[0].do("address")
        self.spec = Spec(open_while_hit=False)
        self.placed: dict[int, Placed] = {}  # by where it starts
        self.seen: list[tuple[int, str, int, int]] = []
        self.engine = Engine(way=way, report=pytest.fail)
        self.engine.attach(self.first.pid)

    @rule(start=addresses, length=lengths, hook=st.booleans())
    def register(self, start: int, length: int, hook: bool) -> None:
        length = min(length, PAGES * PAGE - start)

        def post(access: Access) -> None:
            self.seen.append((start, access.kind, access.address - self.base, access.width))

        place = AtAddress(self.base + start, length)
        if self.spec.register(Probe(start, length)):
            self.placed[start] = self.engine.probe(place, post=post, hook=hook)
        else:
            with pytest.raises(ProbeExists):
                self.engine.probe(place, post=post, hook=hook)

    @precondition(lambda self: self.placed)
    @rule(choice=st.integers(0, 100))
    def unregister(self, choice: int) -> None:
        probe = self.spec.probes[choice % len(self.spec.probes)]
        self.spec.unregister(probe)
        self.engine.unprobe(self.placed.pop(probe.start))

    @rule(number=st.integers(0, 2), kind=st.sampled_from(["read", "write"]), address=addresses, log=st.integers(0, 3))
    def touch(self, number: int, kind: str, address: int, log: int) -> None:
        process, width = self.processes[number % len(self.processes)], 1 << log
        self.seen.clear()
        process.do(f"touch({kind!r}, {address}, {width})")
        probes = self.spec.touching(address, address + width)
        assert self.seen == [(probe.start, kind, address, width) for probe in probes]  # type: ignore[attr-defined]

    @precondition(lambda self: len(self.processes) < 3)
    @rule(number=st.integers(0, 2))
    def fork(self, number: int) -> None:
        names = [self.path / f"{name}{len(self.processes)}" for name in ("in", "out")]
        for name in names:
            os.mkfifo(name)
        pid = self.processes[number % len(self.processes)].do(f"fork({len(self.processes)})")
        self.processes.append(Process(pid, names[0].open("w"), names[1].open()))

    @invariant()
    def what_should_be_is_armed(self) -> None:
        armed = {page for page in range(0, PAGES * PAGE, PAGE) if self.spec.armed(page)}
        for process in self.processes:
            assert {page for page in range(0, PAGES * PAGE, PAGE) if self.is_armed(process.pid, page)} == armed

    def is_armed(self, pid: int, page: int) -> bool:
        line = maps.at(pid, self.base + page)
        assert line
        return line.prot == 0

    def teardown(self) -> None:
        if not hasattr(self, "first"):
            return
        self.engine.detach()
        assert not any(self.is_armed(process.pid, page * PAGE) for process in self.processes for page in range(PAGES))
        for process in reversed(self.processes):
            assert process.do("touch('read', 0, 8)") >= 0
        os.killpg(self.first.pid, 9)
        for process in self.processes:
            process.told.close()
            process.answers.close()
        self.first.wait()
        self.folder.cleanup()


OnLiveProcesses.TestCase.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestOnLiveProcesses = OnLiveProcesses.TestCase
