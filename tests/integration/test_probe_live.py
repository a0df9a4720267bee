"""Probes on live processes, by both engines, against the specification of the registry: random orders, same results."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mmiotap as api
from conftest import TIME_LIMIT
from kmmio_spec import PAGE, Spec
from mmiotap.kmmio.access import Access
from mmiotap.kmmio.probe import Probe, ProbeExists
from mmiotap.target import Placed, Target

#: Reads where it is told, and says so; `f`: a child does what follows, until `x`.
READER = r"""
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile char *base;
static int in, out;

static void serve(void)
{
    struct { char what, width; uint16_t offset; } todo;
    while (read(in, &todo, sizeof todo) == sizeof todo && todo.what != 'x') {
        volatile char *at = base + todo.offset;
        if (todo.what == 'f') {
            if (fork() == 0) {
                write(out, "\n", 1);
                serve();
                _exit(0);
            }
            wait(0);
        } else if (todo.width == 8)
            *(volatile uint64_t *)at;
        else if (todo.width == 4)
            *(volatile uint32_t *)at;
        else if (todo.width == 2)
            *(volatile uint16_t *)at;
        else
            *at;
        write(out, "\n", 1);
    }
}

int main(int argc, char **argv)
{
    base = mmap(0, 4 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, open(argv[1], O_RDWR), 0);
    in = open(argv[2], O_RDONLY);
    out = open(argv[3], O_WRONLY);
    serve();
    return 0;
}
"""
PAGES = 4

offsets = st.one_of(
    st.integers(0, PAGES * PAGE - 9),
    st.builds(lambda page, near: page * PAGE + near, st.integers(1, PAGES - 1), st.integers(-9, 9)),
)
steps = st.one_of(
    st.tuples(st.just("register"), offsets, st.one_of(st.integers(1, 16), st.integers(1, 2 * PAGE))),
    st.tuples(st.just("unregister"), st.integers(0, 100), st.just(0)),
    st.tuples(st.just("read"), offsets, st.sampled_from([1, 2, 4, 8])),
    st.tuples(st.just("fork"), st.just(0), st.just(0)),
)


class Live:
    """A program under probes, and what to tell it."""

    def __init__(self, target: Target, registers: Path, to: IO[bytes], back: IO[bytes]) -> None:
        self.target = target
        self._registers = registers
        self._to, self._back = to, back
        self.hits: list[Probe] = []

    def register(self, probe: Probe) -> Placed:
        def handler(access: Access) -> None:
            self.hits.append(probe)

        return self.target.probe(f"{self._registers}:{probe.start}+{probe.length}", pre=handler)

    def read(self, offset: int, width: int) -> list[Probe]:
        """The probes whose handlers it calls."""
        self.hits.clear()
        self.tell(b"r", offset, width)
        return sorted(self.hits, key=lambda probe: probe.start)

    def tell(self, what: bytes, offset: int = 0, width: int = 0) -> None:
        self._to.write(what + bytes([width]) + offset.to_bytes(2, "little"))
        self._to.flush()
        assert self._back.readline() == b"\n"


@pytest.fixture(scope="module", params=["agent", "ptrace"])
def live(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("live")
    source, program, registers = folder / "reader.c", folder / "reader", folder / "registers"
    source.write_text(READER)
    registers.write_bytes(bytes(PAGES * PAGE))
    subprocess.run(["gcc", "-O2", "-o", program, source], check=True, timeout=TIME_LIMIT)
    pipes = [folder / "to", folder / "back"]
    for pipe in pipes:
        subprocess.run(["mkfifo", pipe], check=True)
    with api.launch([program, registers, *pipes], maps=[str(registers)], engine=request.param) as target:
        target.start()
        with pipes[0].open("wb") as to, pipes[1].open("rb") as back:
            yield Live(target, registers, to, back)
        assert target.wait(TIME_LIMIT) == 0


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, min_size=5, max_size=40))
def test_random_orders(live: Live, order: list[tuple[str, int, int]]) -> None:
    spec = Spec(open_while_hit=False)
    placed: dict[Probe, Placed] = {}
    forks = 0
    try:
        for what, number, length in order:
            if what == "register":
                probe = Probe(number, min(length, PAGES * PAGE - number))
                if spec.register(probe):
                    placed[probe] = live.register(probe)
                else:
                    with pytest.raises(ProbeExists):
                        live.register(probe)
            elif what == "unregister" and placed:
                probe = list(placed)[number % len(placed)]
                spec.unregister(probe)
                placed.pop(probe).remove()
            elif what == "read":
                assert live.read(number, length) == spec.touching(number, number + length)
            elif what == "fork" and forks < 2:
                live.tell(b"f")
                forks += 1
    finally:
        for one in placed.values():
            one.remove()
        for _ in range(forks):
            live.tell(b"x")
