"""Every instruction with a memory operand, on a mapping whose accesses a hook observes, answers or changes.

The program of ``instructions/`` finds the same registers, flags and memory as without mmiotap, and says where not.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from instructions import program
from instructions.case import WINDOW, Case
from instructions.generated import generated
from instructions.table import all_cases
from instructions.tracing import PROCESSOR

from mmiotap.trace import layout
from mmiotap.trace.reader import open_trace

#: Of each case; the first traps in any case.
ROUNDS = 3
FILLING = b"\xa5"

#: Records the rest of its command line with a hook on the window.
RECORDER = Path(__file__).parent / "instructions" / "hooked.py"


def is_taken_apart(case: Case) -> bool:
    """Its accesses are run by the agent, so that a hook can answer them."""
    return not case.may_be_unknown and all(access.kind != "unknown" for access in case.accesses)


def is_in_parts(case: Case) -> bool:
    """Each of its accesses is made for itself: what it writes can be changed without answering what it reads."""
    return is_taken_apart(case) and not any(access.locked for access in case.accesses)


#: Cases that were written by hand, and every encoding with a mask register.
ALL = [*all_cases(PROCESSOR), *(case for case in generated(PROCESSOR) if "{k4}" in case.name or "{k5}" in case.name)]
CASES = {
    "observed": ALL,
    "answered": [case for case in ALL if is_taken_apart(case)],
    "changed": [case for case in ALL if is_in_parts(case)],
}


@pytest.fixture(scope="module", params=CASES)
def way(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def folder(way: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(f"hook-{way}")
    program.build(CASES[way], PROCESSOR, folder)
    return folder


@pytest.mark.timeout(600)
def test_no_difference(way: str, folder: Path, patching: str) -> None:
    device, behind, trace = folder / "device", folder / "behind", folder / f"{patching}.mmiotap"
    device.write_bytes(FILLING * (WINDOW + 4096))
    behind.write_bytes(bytes(WINDOW))
    runner = [folder / "runner", device, folder / "results", ROUNDS, 0, len(CASES[way])]
    if way == "answered":
        runner.append(behind)
    if way == "changed":
        runner += [device, "inverted"]
    words = [sys.executable, RECORDER, way, trace, patching, behind, WINDOW, *runner]
    result = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=500, check=False)
    assert (result.stdout, result.stderr, result.returncode) == ("", "", 0)
    if way == "answered":
        assert device.read_bytes()[:WINDOW] == FILLING * WINDOW, "the device was touched"
    flags = accesses(trace)
    assert len(flags) > ROUNDS * len(CASES[way])
    if way == "observed":
        assert not any(flag & layout.HOOKED for flag in flags)
    else:
        assert all(flag & layout.HOOKED for flag in flags)


def accesses(trace: Path) -> list[int]:
    """The flags of each read and write of the window."""
    table = open_trace(trace).events(["kind", "offset", "flags"])
    rows = zip(*(table.column(name).to_pylist() for name in table.column_names), strict=True)
    return [flags for kind, offset, flags in rows if kind in ("read", "write") and offset < WINDOW]
