"""The engine from outside, by itself: hard cases of kmmio's algorithm on real processes."""

from pathlib import Path

import pytest
from outside.programs import HEAD

from conftest import Compile, Start
from mmiotap.kmmio.access import Access
from mmiotap.kmmio.place import InMapping
from mmiotap.sources.ptrace.engine import Engine

pytestmark = pytest.mark.parametrize("patching", ["off"], indirect=True, ids=[""])
LIMIT_MS = 60_000

#: One instruction reads one page and writes the next.
COPIES = (
    HEAD
    + r"""
int main(int argc, char **argv)
{
    uint8_t *base = (uint8_t *)map(argv[1], MAP_SHARED, PROT_READ | PROT_WRITE);
    uint8_t *from = base, *to = base + 4096;
    *from = 42;
    __asm__ volatile("movsb" : "+S"(from), "+D"(to) : : "memory");
    return base[4096];
}
"""
)

#: Forks while another thread has the page opened again and again.
FORKS = (
    HEAD
    + r"""
static volatile uint32_t *base;
static volatile int over;

static void *hammer(void *argument)
{
    while (!over)
        base[1] = 1;
    return argument;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    base = map(argv[1], MAP_SHARED, PROT_READ | PROT_WRITE);
    pthread_create(&thread, 0, hammer, 0);
    for (uint32_t i = 0; i < 50; i++) {
        int status;
        if (!fork()) {
            base[2] = i;
            _exit(0);
        }
        if (wait(&status) < 0 || status)
            return 1;
    }
    over = 1;
    pthread_join(thread, 0);
    return 0;
}
"""
)


def probed(program: Path, device: Path, place: InMapping, way: str) -> tuple[int | None, list[tuple[str, int, int]]]:
    """The program's exit status, and kind, offset and value of what is seen at the place before it is done."""
    seen: list[tuple[str, int, int]] = []

    def note(access: Access) -> None:
        seen.append((access.kind, access.offset, access.value or 0))

    engine = Engine(report=print, way=way)
    engine.probe(place, pre=note)
    engine.launch(str(program), [str(program), str(device)])
    try:
        assert engine.wait(LIMIT_MS)
    finally:
        engine.detach()
    return engine.exit_code, seen


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "device"
    path.write_bytes(bytes(8192))
    return path


@pytest.mark.parametrize("way", ["emulate", "lock", "step"])
def test_only_the_second_of_two_operands_is_probed(compile_c: Compile, start: Start, device: Path, way: str) -> None:
    status, seen = probed(compile_c(COPIES), device, InMapping(str(device), 4096, 16), way)
    assert (status, seen) == (42, [("write", 4096, 42), ("read", 4096, 0)])


@pytest.mark.parametrize("way", ["emulate", "lock"])
def test_children_are_armed_whatever_other_threads_do_at_the_fork(
    compile_c: Compile, start: Start, device: Path, way: str
) -> None:
    status, seen = probed(compile_c(FORKS, "program", "-pthread"), device, InMapping(str(device), 0, 16), way)
    assert status == 0
    assert sorted(value for _, offset, value in seen if offset == 8) == list(range(50))
