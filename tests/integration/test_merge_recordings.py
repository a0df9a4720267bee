"""Two programs that were recorded at the same time, by two engines: one trace, in the order in which it was."""

from pathlib import Path

import mmiotap as api
from conftest import MMIOTAP, Compile, Run, Start

DRIVER = """
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
/* Takes turns with the other one: writes its turn number to the device when the shared counter says so. */
int main(int argc, char **argv)
{
    int mine = atoi(argv[1]), file = open(argv[2], O_RDWR), common = open("turn", O_RDWR);
    volatile uint32_t *device = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    volatile uint32_t *turn = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, common, 0);
    for (;;) {
        uint32_t now = *turn;
        if (now >= 200)
            return 0;
        if (now % 2 != mine) {
            usleep(100);
            continue;
        }
        device[1] = now;
        *turn = now + 1;
    }
}
"""


def test_two_recordings_at_once(compile_c: Compile, start: Start, mmiotap: Run, tmp_path: Path) -> None:
    program = compile_c(DRIVER, "driver")
    for name in ("even", "odd", "turn"):
        (tmp_path / name).write_bytes(bytes(4096))
    running = [
        start(*MMIOTAP, "record", *way, "--map", f"**/{name}", "-o", f"{name}.mmiotap", "--", program, mine, name)
        for mine, name, way in (("0", "even", ()), ("1", "odd", ("--engine", "ptrace", "--patch", "off")))
    ]
    assert [one.wait().status for one in running] == [0, 0]
    result = mmiotap("merge", "even.mmiotap", "odd.mmiotap", "-o", "both.mmiotap")
    assert (result.status, result.stderr.count("the same clock")) == (0, 2)
    writes = [row for row in api.open(tmp_path / "both.mmiotap").events().to_pylist() if row["kind"] == "write"]
    assert [row["value"] for row in writes] == list(range(200))
    assert [row["source"] for row in writes] == ["even", "odd"] * 100
    assert len({row["pid"] for row in writes}) == len({row["map_id"] for row in writes}) == 2
