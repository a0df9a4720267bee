"""Random programs (randomly/compose.py) end as they do untraced, and their trace tells what the device went through.

MMIOTAP_SEED=N runs the program of that seed alone.
"""

import os
import random
import subprocess
import time
from pathlib import Path

import pytest
from randomly.compose import DEVICE_SIZE, compose
from randomly.replayed import contradiction

from conftest import MMIOTAP, TIME_LIMIT, Result, Run
from mmiotap.trace.reader import open_trace

#: Seconds in each of the two ways: a minute, and twenty, in both.
SHORT, LONG = 28, 600
#: Programs, however slow the machine is.
AT_LEAST = 3
#: Seconds for one program, which takes less than one on an idle machine.
LIMIT = 3 * TIME_LIMIT
FLAGS = ["-O1", "-g", "-pthread", "-Wall", "-Werror", "-Wno-unused-function"]


def check(seed: int, run: Run, folder: Path) -> None:
    """Leaves source, program and trace in the folder if the program of this seed fails."""
    source, program, device = folder / f"{seed}.c", folder / str(seed), folder / "device"
    source.write_text(compose(seed))
    subprocess.run(["gcc", *FLAGS, "-o", program, source], check=True, timeout=LIMIT)

    def run_one(*before: str | Path) -> Result:
        device.write_bytes(bytes(DEVICE_SIZE))
        return run(*before, program, device, limit=LIMIT)

    expected = run_one()
    assert 0 <= expected.status < 64, "it fails untraced"
    assert "wrong: 0" in expected.stdout, "it is wrong untraced"
    trace = folder / "trace"
    assert run_one(*MMIOTAP, "record", "-q", "-f", "-o", trace, "--map", device, "--") == expected
    recorded = open_trace(trace)
    assert recorded.lost == 0
    assert recorded.count > 100
    assert contradiction(recorded, device.read_bytes()) is None
    source.unlink()
    program.unlink()


def check_some(run: Run, folder: Path, seconds: float) -> None:
    chosen = os.environ.get("MMIOTAP_SEED")
    seeds = random.SystemRandom()
    end, done = time.monotonic() + seconds, 0
    while done < AT_LEAST or time.monotonic() < end:
        seed = int(chosen) if chosen else seeds.randrange(1 << 32)
        try:
            check(seed, run, folder)
        except BaseException:
            test = os.environ.get("PYTEST_CURRENT_TEST", "").split()[0]
            print(
                f"seed {seed}; again: MMIOTAP_SEED={seed} python -m pytest '{test}'; the program is {folder}/{seed}.c"
            )
            raise
        done += 1


@pytest.mark.timeout(1200)
def test_random_programs_for_half_a_minute(run: Run, tmp_path: Path) -> None:
    check_some(run, tmp_path, SHORT)


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_random_programs_for_ten_minutes(run: Run, tmp_path: Path) -> None:
    check_some(run, tmp_path, LONG)
