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
