"""`mmiotap guest`: what it records of a machine from outside is what QEMU logs, and what the guest did."""

import sys
from pathlib import Path

import pytest
from boot import Access, accesses, boot

import mmiotap

pytestmark = [pytest.mark.guest, pytest.mark.timeout(600)]

CARD = ["-netdev user,id=n0", "-device e1000,netdev=n0,romfile=,id=card"]
BAR_SIZE = 128 * 1024
MMIOTAP = [sys.executable, "-m", "mmiotap"]

#: The kernel's own driver: loaded on one processor, used on both, unloaded on the other.
USE_CARD = """
bash -e <<'END'
taskset -c 0 modprobe e1000
card=$(ls /sys/bus/pci/drivers/e1000/0000:*/net)
ip address add 10.0.2.15/24 dev $card
taskset -c 1 ip link set $card up
for number in 1 2 3 4 5; do sleep 0.5; echo hello >/dev/udp/10.0.2.2/9; done
taskset -c 0 ip -s link show dev $card
taskset -c 1 modprobe -r e1000
END
"""


def of_card(trace: mmiotap.Trace) -> list[tuple[Access, int]]:
    """Accesses to the card's registers, and the processor that made each."""
    ids = {one.map_id for one in trace.mappings if one.path == "e1000-mmio"}
    rows = trace.events(["kind", "offset", "width", "value", "cpu", "map_id"]).to_pylist()
    return [
        (Access(row["kind"], row["offset"], row["width"], row["value"]), row["cpu"])
        for row in rows
        if row["map_id"] in ids
    ]


def test_kernel_driver_on_two_processors_equals_qemus_log(tmp_path: Path) -> None:
    record = [*MMIOTAP, "guest", "-o", str(tmp_path / "card.mmiotap"), "--device", "card", "--device", "rtc*"]
    print(boot(USE_CARD, tmp_path, CARD, limit=400, under=[*record, "--"]))
    trace = mmiotap.open(tmp_path / "card.mmiotap")
    assert trace.state == "finished"
    assert trace.info["exit"] == {"status": 0, "signal": None}
    found = of_card(trace)
    log = accesses(tmp_path, "e1000-mmio", BAR_SIZE)
    assert len(log) > 1000
    assert [access for access, _ in found] == log
    assert {cpu for _, cpu in found} == {0, 1}
    (card,) = {one.device for one in trace.mappings if one.path == "e1000-mmio"}
    assert card in {f"{one['domain']:04x}:{one['address']}" for one in trace.info["pci_devices"]}
    (mapping,) = {(one.bar, one.length) for one in trace.mappings if one.path == "e1000-mmio"}
    assert mapping == (0, BAR_SIZE)
    # Ports of other devices are told from memory, and those that were not asked for are left out.
    assert {one.path for one in trace.mappings} - {"ioports:e1000-io"} == {
        "e1000-mmio",
        "ioports:rtc",
        "ioports:rtc-index",
    }
    assert "ioports:pci-conf-data" in trace.info["not_selected"]
