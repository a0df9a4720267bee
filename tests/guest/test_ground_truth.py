"""Recordings of real drivers on real device models agree with QEMU's own log, access for access; most ran patched.

One guest records both drivers, trapped and then patched, in its memory (9p cannot be mapped shared), and copies the
traces out.
"""

import shlex
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from itertools import accumulate, pairwise
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
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with DRIVER.WAY.mmiotap and DRIVER.WAY.status, and QEMU's log."""
    subprocess.run(["make", "-s", "-C", ROOT / "examples", *DRIVERS], check=True, timeout=60)
    folder = tmp_path_factory.mktemp("guest")
    script = [f"cd {shlex.quote(str(folder))}"]
    for way, patching in WAYS.items():
        for driver in DRIVERS:
            record = f"{sys.executable} -m mmiotap record --patch {patching} -o /dev/shm/{driver}.{way}.mmiotap"
            script.append(f"{record} -- {ROOT / 'examples' / driver / driver}; echo $? >{driver}.{way}.status")
    script.append("cp -r /dev/shm/*.mmiotap .")
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


def parts(log: list[Access], traces: Iterable[Path]) -> list[list[Access]]:
    """QEMU's log of what was recorded one after the other, and what is left of it."""
    ends = [0, *accumulate(sum(map(len, recorded(mmiotap.open(trace)))) for trace in traces), None]
    return [log[start:end] for start, end in pairwise(ends)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("driver", "region", "bar_size", "at_least"),
    [("e1000", "e1000-mmio", 128 * 1024, 10_000), ("edu", "edu-mmio", 1024 * 1024, 200)],
)
def test_recording_agrees_with_qemu(
    recordings: Path, way: str, driver: str, region: str, bar_size: int, at_least: int
) -> None:
    assert (recordings / f"{driver}.{way}.status").read_text() == "0\n"
    trace = mmiotap.open(recordings / f"{driver}.{way}.mmiotap")
    assert trace.state == "finished"
    assert trace.lost == 0
    streams = recorded(trace)
    assert len(streams) == 3  # the main thread and two more
    traces = [recordings / f"{driver}.{one}.mmiotap" for one in WAYS]
    *logs, rest = parts(accesses(recordings, region, bar_size), traces)
    assert not rest
    log = dict(zip(WAYS, logs, strict=True))[way]
    assert len(log) >= at_least
    assert first_difference(log, streams) is None
    (mapping,) = trace.mappings
    assert mapping.path.endswith("/resource0")
    assert mapping.length == bar_size
    assert mapping.bar == 0


def test_e1000_runs_patched(recordings: Path) -> None:
    assert_mostly_patched(mmiotap.open(recordings / "e1000.patched.mmiotap"), at_least=10_000)
