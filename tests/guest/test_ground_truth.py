"""Recordings of real drivers on real device models agree with QEMU's own log, access for access; most ran patched.

A guest is booted for each way of recording: it records both drivers, in its memory (9p cannot be mapped shared), and
copies the traces out.
"""

import shlex
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from boot import ROOT, Access, accesses, boot, first_difference

import mmiotap
from conftest import WAYS
from shares import assert_mostly_patched

pytestmark = [pytest.mark.guest, pytest.mark.timeout(700)]

DRIVERS = ("e1000", "edu")
DEVICES = ["-netdev user,id=n0", "-device e1000,netdev=n0,romfile=", "-device edu"]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory, patching: str) -> Path:
    """A folder with DRIVER.mmiotap, DRIVER.status and QEMU's log."""
    subprocess.run(["make", "-s", "-C", ROOT / "examples", *DRIVERS], check=True, timeout=60)
    folder = tmp_path_factory.mktemp("guest")
    script = [f"cd {shlex.quote(str(folder))}"]
    record = f"{sys.executable} -m mmiotap record --patch {patching}"
    for driver in DRIVERS:
        program = ROOT / "examples" / driver / driver
        script += [
            f"{record} -o /dev/shm/{driver}.mmiotap -- {program}",
            f"echo $? >{driver}.status",
            f"cp -r /dev/shm/{driver}.mmiotap .",
        ]
    print(boot("\n".join(script), folder, DEVICES, limit=600))
    return folder


def recorded(trace: mmiotap.Trace) -> list[list[Access]]:
    """What each thread did, in its order."""
    streams: dict[int, list[Access]] = defaultdict(list)
    table = trace.events(columns=["kind", "offset", "width", "value", "tid"])
    for row in table.to_pylist():
        if row["kind"] in ("read", "write"):
            streams[row["tid"]].append(Access(row["kind"], row["offset"], row["width"], row["value"]))
    return list(streams.values())


@pytest.mark.parametrize(
    ("driver", "region", "bar_size", "at_least"),
    [("e1000", "e1000-mmio", 128 * 1024, 10_000), ("edu", "edu-mmio", 1024 * 1024, 200)],
)
def test_recording_agrees_with_qemu(recordings: Path, driver: str, region: str, bar_size: int, at_least: int) -> None:
    assert (recordings / f"{driver}.status").read_text() == "0\n"
    trace = mmiotap.open(recordings / f"{driver}.mmiotap")
    assert trace.state == "finished"
    assert trace.lost == 0
    streams = recorded(trace)
    assert len(streams) == 3  # the main thread and two more
    log = accesses(recordings, region, bar_size)
    assert len(log) >= at_least
    assert first_difference(log, streams) is None
    (mapping,) = trace.mappings
    assert mapping.path.endswith("/resource0")
    assert mapping.length == bar_size
    assert mapping.bar == 0


@pytest.mark.parametrize("patching", [WAYS["patched"]], ids=["patched"], indirect=True)
def test_e1000_runs_patched(recordings: Path) -> None:
    assert_mostly_patched(mmiotap.open(recordings / "e1000.mmiotap"), at_least=10_000)
