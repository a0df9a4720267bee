"""Two recordings of a real program: equal however they were made, different where the program was."""

from conftest import Compile, Run

DRIVER = """
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
int main(int argc, char **argv)
{
    int file = open("device", O_RDWR | O_CREAT, 0600);
    if (ftruncate(file, 4096))
        return 1;
    volatile uint32_t *device = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    for (int i = 0; i < 1000; i++) {
        device[2] = i;
        if (i == atoi(argv[1]))
            device[3] = 0xbad;
        (void)device[2];
    }
    return 0;
}
"""


def test_recordings_of_a_program(compile_c: Compile, mmiotap: Run) -> None:
    program = compile_c(DRIVER, "driver")
    for name, engine, patch, odd in (
        ("trapped", "agent", "off", -1),
        ("patched", "agent", "1", -1),
        ("outside", "ptrace", None, -1),
        ("odd", "agent", "1", 700),
    ):
        way = [] if patch is None else ["--patch", patch]
        words = ["record", "--engine", engine, *way, "--map", "**/device", "-o", name, "--", program, str(odd)]
        assert mmiotap(*words).status == 0
    for other in ("patched", "outside"):
        result = mmiotap("diff", "trapped", other)
        assert (result.status, result.stdout) == (0, "equal: 2000 accesses\n")
    result = mmiotap("diff", "trapped", "odd")
    assert result.status == 1
    changed = [line for line in result.stdout.splitlines()[2:] if line[0] in "-+@"]
    assert changed[0] == "@@ access 1402 of A, 1402 of B @@"
    assert [(line[0], line.split()[6:9]) for line in changed[1:]] == [("+", ["0x00c", "<-", "0x00000bad"])]
