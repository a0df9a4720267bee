"""Recordings of real drivers in user space, on real device models, agree with QEMU's own log, access for access.

One guest records all of them, one after the other: the examples for e1000 and edu, and Debian's DPDK's testpmd,
trapped and then patched; and by the way ``private`` edu and a race, as the emulated processor has protection keys.
"""

import re
import shlex
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest
from boot import ROOT, boot, first_difference, logged, recorded

import mmiotap
from conftest import WAYS
from shares import assert_mostly_patched

pytestmark = [pytest.mark.guest, pytest.mark.timeout(1100)]

E1000_BAR, EDU_BAR = 128 * 1024, 1024 * 1024
DEVICES = ["-netdev user,id=n0", "-device e1000,netdev=n0,romfile=", "-device edu"]
#: What two threads do to a page at once: accesses each, and bytes between their words (benchmarks/race.c).
TOUCHES, PLACE = 3_000, 64

#: record NAME ARGUMENTS: in the guest's memory, as 9p cannot be mapped shared.
RECORD = """
record() {
    name=$1; shift
    stat -c %s qemu.log >$name.at
    mmiotap record -q -o /dev/shm/$name.mmiotap "$@" >$name.out 2>&1
    echo $? >$name.status
}
"""
#: uio_pci_generic keeps the card for whoever maps its BAR; DPDK wants huge pages.
#: It loads all its drivers, over a hundred; it gets those of this card. What testpmd is linked to is found as ever.
FOR_DPDK = """
modprobe uio_pci_generic
echo 8086 100e >/sys/bus/pci/drivers/uio_pci_generic/new_id
mkdir -p /dev/hugepages /run/dpdk
mount -t hugetlbfs none /dev/hugepages
echo 96 >/proc/sys/vm/nr_hugepages
mkdir /run/drivers /run/needed
mount --bind "$(echo /usr/lib/*/dpdk/pmds-*)" /run/drivers
for name in bus_pci mempool_ring net_e1000; do ln -s /run/drivers/librte_$name.so /run/needed; done
mount --bind /run/needed "$(echo /usr/lib/*/dpdk/pmds-*)"
export LD_LIBRARY_PATH=/run/drivers
"""
TESTPMD = (
    "dpdk-testpmd -l 0,1 -m 128 --iova-mode=pa --no-telemetry -- "
    "-i --auto-start --forward-mode=txonly --nb-cores=1 --total-num-mbufs=2048"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with QEMU's log and, of each recording, NAME.mmiotap, NAME.status, NAME.out (what was written), NAME.at.

    NAME is e1000, edu (both of examples/) and testpmd (DPDK's), each with .trapped or .patched, and race and edu with
    .private.
    """
    subprocess.run(["make", "-s", "-C", ROOT / "examples", "e1000", "edu"], check=True, timeout=60)
    folder = tmp_path_factory.mktemp("guest")
    compile_race = ["gcc", "-O2", "-pthread", "-o", str(folder / "race"), str(ROOT / "benchmarks" / "race.c")]
    subprocess.run(compile_race, check=True, timeout=60)
    script = [f"cd {shlex.quote(str(folder))}", RECORD, "grep -c ospke /proc/cpuinfo >keys"]
    for driver in ("e1000", "edu"):
        for way, patching in WAYS.items():
            script.append(f"record {driver}.{way} --patch {patching} -- {ROOT}/examples/{driver}/{driver}")
    script += [
        f"record edu.private --smp private -- {ROOT}/examples/edu/edu",
        "truncate -s 4096 /dev/shm/page",
        f"record race.private --smp private --map /dev/shm/page -- ./race /dev/shm/page 2 {TOUCHES}",
        FOR_DPDK,
    ]
    for way, patching in WAYS.items():
        started = f"until grep -q 'nb forwarding cores' testpmd.{way}.out; do sleep 0.5; done"
        typed = f"{started}; sleep 3; echo show port stats all; sleep 1; echo quit"
        script.append(f"({typed}) | record testpmd.{way} --patch {patching} -- {TESTPMD}")
    script.append("cp -r /dev/shm/*.mmiotap .")
    print(boot("\n".join(script), folder, DEVICES, limit=1000, zygote=True))
    return folder


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("driver", "region", "bar_size", "at_least"),
    [("e1000", "e1000-mmio", E1000_BAR, 10_000), ("edu", "edu-mmio", EDU_BAR, 200)],
)
def test_recording_agrees_with_qemu(
    folder: Path, way: str, driver: str, region: str, bar_size: int, at_least: int
) -> None:
    assert (folder / f"{driver}.{way}.status").read_text() == "0\n"
    trace = mmiotap.open(folder / f"{driver}.{way}.mmiotap")
    assert trace.state == "finished"
    assert trace.lost == 0
    streams = recorded(trace)
    assert len(streams) == 3  # the main thread and two more
    log = logged(folder, f"{driver}.{way}", region, bar_size)
    assert len(log) >= at_least
    assert first_difference(log, streams) is None
    (mapping,) = trace.mappings
    assert mapping.path.endswith("/resource0")
    assert mapping.length == bar_size
    assert mapping.bar == 0


def test_e1000_runs_patched(folder: Path) -> None:
    assert_mostly_patched(mmiotap.open(folder / "e1000.patched.mmiotap"), at_least=10_000)


@pytest.mark.parametrize("way", WAYS)
def test_testpmd_agrees_with_qemu(folder: Path, way: str) -> None:
    written = (folder / f"testpmd.{way}.out").read_text()
    assert (folder / f"testpmd.{way}.status").read_text() == "0\n", written
    sent = re.search(r"TX-packets: (\d+)", written)
    assert sent is not None
    assert int(sent[1]) > 0
    trace = mmiotap.open(folder / f"testpmd.{way}.mmiotap")
    assert (trace.state, trace.lost) == ("finished", 0)
    (mapping,) = trace.mappings
    assert (mapping.length, mapping.bar) == (E1000_BAR, 0)
    streams = recorded(trace)
    assert len(streams) >= 2  # the main thread, and the one that sends
    log = logged(folder, f"testpmd.{way}", "e1000-mmio", E1000_BAR)
    assert len(log) > 10_000
    assert first_difference(log, streams) is None


def test_testpmd_runs_patched(folder: Path) -> None:
    # The driver's start-up is a few hundred instructions that run once each.
    assert_mostly_patched(mmiotap.open(folder / "testpmd.patched.mmiotap"), at_least=10_000, hot=100)


def test_the_guest_has_keys(folder: Path) -> None:
    assert (folder / "keys").read_text() == "2\n"


def test_private_misses_nothing(folder: Path) -> None:
    assert (folder / "race.private.status").read_text() == "0\n"
    made, wrong, _ = map(int, (folder / "race.private.out").read_text().split())
    trace = mmiotap.open(folder / "race.private.mmiotap")
    assert (made, wrong, trace.lost) == (2 * TOUCHES, 0, 0)
    assert trace.info["settings"]["smp"] == "private"
    got = defaultdict(list)
    for row in trace.events(columns=["kind", "offset", "width", "value", "tid"]).to_pylist():
        if row["kind"] != "map":
            got[row["offset"] // PLACE, row["tid"]].append(
                (row["kind"], row["offset"] % PLACE, row["width"], row["value"])
            )
    assert sorted(thread for thread, _ in got) == [0, 1]
    for (thread, _), rows in got.items():
        want = [(("write", "read")[i % 2], 0, 4, thread << 24 | i // 2) for i in range(TOUCHES)]
        assert rows == want


def test_a_device_under_private_agrees_with_qemu(folder: Path) -> None:
    assert (folder / "edu.private.status").read_text() == "0\n"
    log = logged(folder, "edu.private", "edu-mmio", EDU_BAR)
    assert len(log) >= 200
    trace = mmiotap.open(folder / "edu.private.mmiotap")
    assert trace.lost == 0
    assert first_difference(log, recorded(trace)) is None
