"""What the agent says of the code that accesses: ``mmiotap sites`` of a recorded program."""

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import Compile, Run
from mmiotap.trace.reader import open_trace

#: A store of two bytes (in each register allocation), one of seven, and a load that happens once.
DRIVER = r"""
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

__attribute__((noinline)) void doorbell(volatile uint32_t *tail, uint32_t value) { *tail = value; }
__attribute__((noinline)) void reset(volatile uint32_t *device) { device[3] = 0x12345678; }
__attribute__((noinline)) uint32_t identity(volatile uint32_t *device) { return *device; }

int main(void)
{
    int file = open("registers", O_RDWR | O_CREAT, 0600);
    if (ftruncate(file, 4096))
        return 1;
    volatile uint32_t *device = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    uint32_t id = identity(device);
    for (uint32_t i = 0; i < 1000; i++) {
        doorbell(device + 1, i);
        reset(device);
        getpid(); /* where the agent does not go on by itself */
    }
    return id;
}
"""


def recorded(mmiotap: Run, program: Path) -> dict[str, dict[str, Any]]:
    """The sites of a recording, by function."""
    assert mmiotap("record", "-q", "-o", "t", "--map", "**/registers", "--", program).status == 0
    result = mmiotap("sites", "t", "--format", "jsonl")
    assert (result.status, result.stderr) == (0, "")
    sites = [json.loads(line) for line in result.stdout.splitlines()]
    return {site["site"].partition("+")[0]: site for site in sites}


EXPECTED = {
    "doorbell": ("mov [rdi], esi", 4, 1000),
    "reset": ("mov dword ptr [rdi+0xc], 0x12345678", 4, 1000),
    "identity": ("mov eax, [rdi]", 4, 1),
}


def known(sites: dict[str, dict[str, Any]]) -> dict[str, tuple[str, int, int]]:
    return {name: (site["instruction"], site["width"], site["hits"]) for name, site in sites.items()}


@pytest.mark.parametrize("patching", ["3"], indirect=True)
def test_hot_sites_are_patched(compile_c: Compile, mmiotap: Run, tmp_path: Path) -> None:
    sites = recorded(mmiotap, compile_c(DRIVER, "driver"))
    assert known(sites) == EXPECTED
    assert (sites["reset"]["state"], sites["doorbell"]["state"]) == ("jump", "punned")
    assert (sites["identity"]["state"], sites["identity"]["patched"]) == ("seen", 0)
    for name in ("doorbell", "reset"):
        assert 3 <= sites[name]["trapped"] <= 100  # the agent goes on by itself after a trap
        assert sites[name]["patched"] + sites[name]["trapped"] == 1000
    trace = open_trace(tmp_path / "t")
    changes = [site.state for site in trace.site_changes if site.pc == sites["doorbell"]["pc"]]
    assert changes == ["seen", "punned"]
    stats = json.loads(mmiotap("stats", "t", "--format", "json").stdout)
    assert stats["ways"] == {way: sum(site[way] for site in sites.values()) for way in stats["ways"]}


@pytest.mark.parametrize("patching", ["off"], indirect=True)
def test_nothing_is_patched(compile_c: Compile, mmiotap: Run) -> None:
    sites = recorded(mmiotap, compile_c(DRIVER, "driver"))
    assert known(sites) == EXPECTED
    assert {(site["state"], site["reason"], site["patched"]) for site in sites.values()} == {("seen", "disabled", 0)}


#: A store of three bytes before a load of two, which are a part of the only jumps that the store can have; where those
#: lead, the program has mappings. Once the load is a jump, other bytes are behind the store.
NEIGHBOURS = r"""
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

uint32_t both(volatile uint32_t *device, uint32_t value);
extern const char store[];
__asm__(".globl both, store, load\n"
        ".type both, @function; .type store, @function; .type load, @function\n"
        "both: mov %rdi, %rax\n"
        "      mov %esi, %ecx\n"
        "store: .byte 0x89, 0x48, 0x04\n" /* mov [rax+4], ecx */
        "load: .byte 0x8b, 0x38\n"         /* mov edi, [rax] */
        "      .byte 0x39, 0xfa\n"         /* cmp edx, edi */
        "      mov %edi, %eax\n"
        "      ret\n");

static int take(intptr_t displacement, uintptr_t after, uintptr_t length)
{
    void *from = (void *)(((uintptr_t)store + after + displacement) & ~4095ul);
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
    return mmap(from, length + 4096, PROT_NONE, flags, -1, 0) == MAP_FAILED;
}

int main(void)
{
    if (take(0x388b0000, 5, 65536) || take(0x39388b00, 6, 256))
        return 2;
    int file = open("registers", O_RDWR | O_CREAT, 0600);
    if (ftruncate(file, 4096))
        return 1;
    volatile uint32_t *device = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    for (uint32_t i = 0; i < 1000; i++) {
        if (both(device, i))
            return 3;
        getpid();
    }
    return device[1] != 999;
}
"""


@pytest.mark.parametrize("patching", ["1"], indirect=True)
def test_a_site_without_a_jump_has_one_when_its_neighbour_changes(compile_c: Compile, mmiotap: Run) -> None:
    sites = recorded(mmiotap, compile_c(NEIGHBOURS, "neighbours"))
    assert [(sites[name]["bytes"], sites[name]["state"]) for name in ("store", "load")] == [
        ("894804", "punned"),
        ("8b38", "punned"),
    ]
