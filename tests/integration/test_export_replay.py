"""``mmiotap export --format c`` and ``python``: the script makes the same bytes of a fresh file."""

import sys
from pathlib import Path

import pytest

from conftest import Compile, Run

SIZE = 8192

DRIVER = """
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <emmintrin.h>
#include "mmiotap.h"
static volatile uint8_t *device(const char *path)
{
    int file = open(path, O_RDWR | O_CREAT, 0600);
    if (ftruncate(file, 8192))
        exit(1);
    return mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
}
int main(void)
{
    volatile uint8_t *a = device("resource0"), *b = device("resource2");
    mmiotap_mark("begin */ /* \\\\");
    for (uint32_t i = 0; i < 700; i++) {
        *(volatile uint32_t *)(a + 4 * i) = i * 0x01234567;
        *(volatile uint16_t *)(b + 2 * i) = i * 77;
    }
    for (int i = 0; i < 5; i++)
        (void)*(volatile uint32_t *)(a + 8);
    *(volatile uint32_t *)(a + 8) |= 0x40;
    *(volatile uint64_t *)(a + 4001) = 0xfedcba9876543210;
    a[8191] = 0x5a;
    _mm_store_si128((__m128i *)(b + 4096), _mm_set_epi32(1, 2, 3, 4));
    return 0;
}
"""


@pytest.mark.parametrize("language", ["c", "python"])
def test_the_script_makes_the_same_bytes(
    mmiotap: Run, run: Run, compile_c: Compile, tmp_path: Path, language: str
) -> None:
    driver = compile_c(DRIVER, "driver", "-O1")
    assert mmiotap("record", "-o", "t", "--map", "**/resource?", "--", driver).status == 0
    result = mmiotap("export", "t", "--format", language, "-o", "script")
    assert (result.status, result.stderr) == (0, "")
    text = (tmp_path / "script").read_text()
    assert "was read 6 times, always 0x02468ace" in text
    fresh = [tmp_path / "fresh0", tmp_path / "fresh2"]
    for path in fresh:
        path.write_bytes(bytes(SIZE))
    command = [sys.executable, "script"] if language == "python" else [compile_c(text, "replay", "-Wall", "-Werror")]
    result = run(*command, *fresh)
    assert (result.status, result.stderr) == (0, "replay: 1404 writes made, 0 things not replayed\n")
    for path, name in zip(fresh, ("resource0", "resource2"), strict=True):
        assert path.read_bytes() == (tmp_path / name).read_bytes()
    usage = run(*command, fresh[0])
    assert usage.status == 2
    assert usage.stderr.splitlines()[1:] == [f"  {tmp_path}/resource0", f"  {tmp_path}/resource2"]
    fresh[0].write_bytes(b"short")
    short = run(*command, *fresh)
    assert (short.status, short.stderr) == (1, f"replay: {fresh[0]} is too short: the writes need 8192 bytes\n")
    gone = run(*command, tmp_path / "gone", fresh[1])
    assert (gone.status, gone.stderr) == (1, f"replay: {tmp_path}/gone: No such file or directory\n")
