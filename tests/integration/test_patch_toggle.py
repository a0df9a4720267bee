"""Sites of every length are patched and unpatched while threads and signal handlers run them.

No wrong value, no crash, and each access is in the trace, in its thread's order.
"""

import re
import subprocess
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from numpy.typing import NDArray
from patching import sites

from conftest import Run
from mmiotap.trace import layout
from mmiotap.trace.reader import open_trace

HERE = Path(__file__).parent / "patching"
PAGE, CONTEXTS = 4096, 8
#: struct record of toggle.c
ACCESS = np.dtype([("address", "u8"), ("offset", "u8"), ("value", "u8")])
#: Accesses by trap before the agent patches a site by itself.
NEVER = 1_000_000_000

patched_by_hand = pytest.mark.parametrize("patching", [str(NEVER)], ids=["by-hand"], indirect=True)
protocols = pytest.mark.parametrize("protocol", ["breakpoint", "stop-machine"])
TURNS = [
    pytest.param(10_000, id="10000", marks=pytest.mark.timeout(300)),
    pytest.param(100_000, id="100000", marks=[pytest.mark.long, pytest.mark.timeout(1800)]),
]


@dataclass(frozen=True)
class Toggled:
    """A site, and how often it was patched and could not be."""

    address: int
    length: int
    patched: int
    refused: int


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toggle")
    (folder / "sites.S").write_text(sites.assembly(sites.chunks()))
    sources = [HERE / "toggle.c", HERE / "visit.S", folder / "sites.S"]
    command = ["gcc", "-O2", "-g", "-pthread", "-Wall", "-o", str(folder / "toggle"), *map(str, sources)]
    subprocess.run(command, check=True, timeout=60)
    return folder / "toggle"


@pytest.fixture
def device(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    path = tmp_path / "device"
    path.write_bytes(bytes(CONTEXTS * PAGE))
    return path


def read(stdout: str) -> tuple[list[int], list[Toggled]]:
    """What the program prints: the number of accesses of each context, and its sites."""
    contexts = [int(count) for count in re.findall(r"^context (\d+)$", stdout, re.M)]
    found = re.findall(r"^site (\d+) (\d+) (\d+) (\d+)$", stdout, re.M)
    return contexts, [Toggled(*map(int, numbers)) for numbers in found]


@patched_by_hand
def test_the_program_is_right_without_mmiotap(program: Path, device: Path, run: Run) -> None:
    result = run(program, device, "logs", "2000", "0")
    assert (result.status, result.stderr) == (0, ""), result.stdout
    contexts, all_sites = read(result.stdout)
    assert len(contexts) == CONTEXTS
    assert min(contexts) > 20
    assert [one.length for one in all_sites] == [one.length for chunk in sites.chunks() for one in chunk.sites]
    for kind in (False, True):
        assert {one.length for chunk in sites.chunks() for one in chunk.sites if one.is_write == kind} == set(
            range(2, 16)
        )
    lines = [one for one in all_sites if one.address // 64 != (one.address + one.length - 1) // 64]
    pages = [one for one in all_sites if one.address // PAGE != (one.address + one.length - 1) // PAGE]
    assert {one.length for one in lines} == {one.length for one in pages} == set(range(2, 16))
    assert len(lines) > len(pages)


@patched_by_hand
@protocols
@pytest.mark.parametrize("turns", TURNS)
def test_toggle(program: Path, device: Path, mmiotap: Run, tmp_path: Path, turns: int, protocol: str) -> None:
    options = ["-q", "-o", "t", "--map", device, "--protocol", protocol]
    number = ["breakpoint", "stop-machine"].index(protocol)
    result = mmiotap("record", *options, "--", program, device, "logs", str(turns), str(number), limit=1500)
    assert (result.status, result.stderr) == (0, ""), result.stdout
    contexts, all_sites = read(result.stdout)
    trace = open_trace(tmp_path / "t")
    assert trace.lost == 0
    events = trace.events(["kind", "offset", "value", "pc", "flags"])
    assert set(pc.unique(events["kind"]).to_pylist()) <= {"read", "write", "map", "unmap"}
    events = events.filter(pc.is_in(events["kind"], pa.array(["read", "write"])))

    got = np.empty(events.num_rows, ACCESS)
    for name, column in (("address", "pc"), ("offset", "offset"), ("value", "value")):
        got[name] = events[column].to_numpy()
    context_of = got["offset"] // PAGE
    for context, count in enumerate(contexts):
        want = np.fromfile(tmp_path / "logs" / str(context), ACCESS)[:count]
        assert_same(want, got[context_of == context], f"context {context}")
    assert events.num_rows == sum(contexts)
    check_toggles(all_sites, got["address"], events["flags"].to_numpy(), turns)


def assert_same(want: NDArray[np.void], got: NDArray[np.void], where: str) -> None:
    both = min(len(want), len(got))
    different = np.flatnonzero(want[:both] != got[:both])
    first = int(different[0]) if len(different) else both
    assert (len(got), len(different)) == (len(want), 0), (
        f"{where}: from access {first} on {want[first : first + 4]} were made, and {got[first : first + 4]} recorded"
    )


def check_toggles(all_sites: list[Toggled], address: NDArray[np.uint64], flags: NDArray[np.uint32], turns: int) -> None:
    """Each site was patched every time or never, those of 5 bytes or more every time, and ran both ways."""
    assert sum(one.patched + one.refused for one in all_sites) == turns
    went = {way: set(address[(flags & layout.PATCHED != 0) == way].tolist()) for way in (False, True)}
    by_length: dict[int, list[Toggled]] = defaultdict(list)
    for one in all_sites:
        by_length[one.length].append(one)
        assert one.refused == 0 or (one.length < 5 and one.patched == 0), one
        if one.patched:
            assert one.address in went[True], one
        assert one.address in went[False], one
    for length, some in by_length.items():
        assert any(one.patched for one in some), f"no site of {length} bytes was ever patched"
