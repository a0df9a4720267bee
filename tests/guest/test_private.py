"""The way ``private``, on a processor that has protection keys: nothing is missed, of a race and of a device model."""

import shlex
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from boot import ROOT, accesses, boot, first_difference
from test_ground_truth import recorded

import mmiotap

pytestmark = [pytest.mark.guest, pytest.mark.timeout(700)]

THREADS, TOUCHES = 2, 3_000
PLACE = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings, what the recorded programs wrote, and QEMU's log."""
    folder = tmp_path_factory.mktemp("guest")
    compile_race = ["gcc", "-O2", "-pthread", "-o", str(folder / "race"), str(ROOT / "benchmarks" / "race.c")]
    subprocess.run(compile_race, check=True, timeout=60)
    subprocess.run(["make", "-s", "-C", ROOT / "examples", "edu"], check=True, timeout=60)
    record = f"{sys.executable} -m mmiotap record --smp private"
    script = f"""
        cd {shlex.quote(str(folder))}
        grep -c ospke /proc/cpuinfo >processors
        truncate -s 4096 /dev/shm/device
        {record} -o /dev/shm/race.mmiotap --map /dev/shm/device -- ./race /dev/shm/device {THREADS} {TOUCHES} >race.out
        echo $? >race.status
        {record} -o /dev/shm/edu.mmiotap -- {ROOT}/examples/edu/edu
        echo $? >edu.status
        cp -r /dev/shm/race.mmiotap /dev/shm/edu.mmiotap ."""
    print(boot(script, folder, ["-device edu"], limit=600))
    return folder


def test_the_guest_has_keys(folder: Path) -> None:
    assert (folder / "processors").read_text() == "2\n"


def test_private_misses_nothing(folder: Path) -> None:
    assert (folder / "race.status").read_text() == "0\n"
    made, wrong, _ = map(int, (folder / "race.out").read_text().split())
    trace = mmiotap.open(folder / "race.mmiotap")
    assert (made, wrong, trace.lost) == (THREADS * TOUCHES, 0, 0)
    assert trace.info["settings"]["smp"] == "private"
    got = defaultdict(list)
    for row in trace.events(columns=["kind", "offset", "width", "value", "tid"]).to_pylist():
        if row["kind"] != "map":
            got[row["offset"] // PLACE, row["tid"]].append(
                (row["kind"], row["offset"] % PLACE, row["width"], row["value"])
            )
    assert sorted(thread for thread, _ in got) == list(range(THREADS))
    for (thread, _), rows in got.items():
        want = [(("write", "read")[i % 2], 0, 4, thread << 24 | i // 2) for i in range(TOUCHES)]
        assert rows == want


def test_a_device_under_private_agrees_with_qemu(folder: Path) -> None:
    assert (folder / "edu.status").read_text() == "0\n"
    log = accesses(folder, "edu-mmio", 1024 * 1024)
    assert len(log) >= 200
    trace = mmiotap.open(folder / "edu.mmiotap")
    assert trace.lost == 0
    assert first_difference(log, recorded(trace)) is None
