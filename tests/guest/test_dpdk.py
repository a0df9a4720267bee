"""DPDK's testpmd, as Debian ships it, sends packets through an e1000, and is recorded access for access."""

import re
import shlex
import sys
from pathlib import Path

import pytest
from boot import Access, accesses, boot, first_difference
from test_ground_truth import parts, recorded

import mmiotap
from conftest import WAYS
from shares import assert_mostly_patched

pytestmark = [pytest.mark.guest, pytest.mark.timeout(700)]

BAR_SIZE = 128 * 1024
DEVICES = ["-netdev user,id=n0", "-device e1000,netdev=n0,romfile="]
TESTPMD = (
    "dpdk-testpmd -l 0,1 -m 128 --iova-mode=pa --no-telemetry -- "
    "-i --auto-start --forward-mode=txonly --nb-cores=1 --total-num-mbufs=2048"
)
#: uio_pci_generic keeps the card for whoever maps its BAR; DPDK wants huge pages.
PREPARE = """
modprobe uio_pci_generic
echo 8086 100e >/sys/bus/pci/drivers/uio_pci_generic/new_id
mkdir -p /dev/hugepages /run/dpdk
mount -t hugetlbfs none /dev/hugepages
echo 96 >/proc/sys/vm/nr_hugepages
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For each way WAY.mmiotap, WAY.out and WAY.status; QEMU's log has what they did one after the other."""
    folder = tmp_path_factory.mktemp("guest")
    script = [f"cd {shlex.quote(str(folder))}", PREPARE]
    for way, patching in WAYS.items():
        started = f"until grep -q 'nb forwarding cores' {way}.out; do sleep 1; done"
        typed = f"{started}; sleep 3; echo show port stats all; sleep 1; echo quit"
        record = f"{sys.executable} -m mmiotap record --patch {patching} -o /dev/shm/{way}.mmiotap"
        script += [
            f"({typed}) | {record} -- {TESTPMD} >{way}.out 2>&1",
            f"echo $? >{way}.status",
            f"cp -r /dev/shm/{way}.mmiotap .",
        ]
    print(boot("\n".join(script), folder, DEVICES, limit=600))
    return folder


@pytest.fixture(scope="module")
def logs(folder: Path) -> dict[str, list[Access]]:
    log = accesses(folder, "e1000-mmio", BAR_SIZE)
    *logs, rest = parts(log, [folder / f"{way}.mmiotap" for way in WAYS])
    assert not rest
    return dict(zip(WAYS, logs, strict=True))


@pytest.mark.parametrize("way", WAYS)
def test_testpmd_agrees_with_qemu(folder: Path, logs: dict[str, list[Access]], way: str) -> None:
    written = (folder / f"{way}.out").read_text()
    assert (folder / f"{way}.status").read_text() == "0\n", written
    sent = re.search(r"TX-packets: (\d+)", written)
    assert sent is not None
    assert int(sent[1]) > 0
    trace = mmiotap.open(folder / f"{way}.mmiotap")
    assert (trace.state, trace.lost) == ("finished", 0)
    (mapping,) = trace.mappings
    assert (mapping.length, mapping.bar) == (BAR_SIZE, 0)
    streams = recorded(trace)
    assert len(streams) >= 2  # the main thread, and the one that sends
    assert len(logs[way]) > 10_000
    assert first_difference(logs[way], streams) is None


def test_testpmd_runs_patched(folder: Path) -> None:
    # The driver's start-up is a few hundred instructions that run once each.
    assert_mostly_patched(mmiotap.open(folder / "patched.mmiotap"), at_least=10_000, hot=100)
