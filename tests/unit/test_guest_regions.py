"""QEMU's inventory of regions, as it prints it: which one an address is in, and whose BAR that is."""

import pytest

from mmiotap.sources.guest.machine import log_file
from mmiotap.sources.guest.regions import inventory

#: Of QEMU 7.2; the owners as later versions print them with `info mtree -o`.
MTREE = """\
address-space: memory
  0000000000000000-ffffffffffffffff (prio 0, i/o): system
    0000000000000000-0000000003ffffff (prio 0, ram): alias ram-below-4g @pc.ram 0000000000000000-0000000003ffffff
    0000000000000000-ffffffffffffffff (prio -1, i/o): pci
      00000000000a0000-00000000000bffff (prio 1, i/o): alias smram-region @pci 00000000000a0000-00000000000bffff
      00000000febc0000-00000000febdffff (prio 1, i/o): e1000-mmio owner:{dev id=card}
      00000000febe0000-00000000febe0fff (prio 1, i/o): virtio pci
        00000000febe0000-00000000febe07ff (prio 0, i/o): virtio-pci-common-virtio net [disabled]
    00000000fec00000-00000000fec00fff (prio 0, i/o): ioapic

address-space: I/O
  0000000000000000-000000000000ffff (prio 0, i/o): io
    00000000000003f8-00000000000003ff (prio 0, i/o): serial
    000000000000c000-000000000000c03f (prio 1, i/o): e1000-io
"""

CARD = {
    "bus": 1,
    "slot": 2,
    "function": 0,
    "irq": 11,
    "irq_pin": 1,
    "qdev_id": "card",
    "class_info": {"class": 512, "desc": "Ethernet controller"},
    "id": {"device": 0x100E, "vendor": 0x8086},
    "regions": [
        {"bar": 0, "size": 0x20000, "address": 0xFEBC0000, "type": "memory"},
        {"bar": 1, "size": 64, "address": 0xC000, "type": "io"},
        {"bar": 6, "size": 0x40000, "address": -1, "type": "memory"},
    ],
}
BRIDGE = CARD | {
    "bus": 0,
    "slot": 1,
    "qdev_id": "",
    "regions": [],
    "pci_bridge": {"bus": {"number": 0}, "devices": [CARD]},
}
MACHINE = inventory(MTREE, [{"bus": 0, "devices": [BRIDGE]}])


@pytest.mark.parametrize(
    ("name", "address", "first", "length", "ports"),
    [
        ("e1000-mmio", 0xFEBC0008, 0xFEBC0000, 0x20000, False),
        ("", 0xFEBC0008, 0xFEBC0000, 0x20000, False),
        ("virtio-pci-common-virtio net", 0xFEBE0014, 0xFEBE0000, 0x800, False),
        ("virtio pci", 0xFEBE0F00, 0xFEBE0000, 0x1000, False),
        ("serial", 0x3FD, 0x3F8, 8, True),
        ("e1000-io", 0xC03F, 0xC000, 64, True),
    ],
)
def test_region_of_an_address(name: str, address: int, first: int, length: int, ports: bool) -> None:
    place = MACHINE.find(name, address)
    assert place is not None
    assert (place.first, place.end - place.first, place.ports) == (first, length, ports)


@pytest.mark.parametrize(("name", "address"), [("e1000-mmio", 0xFEBE0000), ("smram-region", 0xA0000), ("pc.ram", 0)])
def test_no_region_of_that_name_there(name: str, address: int) -> None:
    assert MACHINE.find(name, address) is None


@pytest.mark.parametrize(("name", "address", "bar"), [("e1000-mmio", 0xFEBC0008, 0), ("e1000-io", 0xC000, 1)])
def test_bar_of_a_region_behind_a_bridge(name: str, address: int, bar: int) -> None:
    place = MACHINE.find(name, address)
    assert place is not None
    found = MACHINE.bar(place)
    assert found is not None
    assert (found.number, found.device.name, found.qdev_id) == (bar, "0000:01:02.0", "card")


def test_region_in_no_bar() -> None:
    place = MACHINE.find("ioapic", 0xFEC00000)
    assert place is not None
    assert MACHINE.bar(place) is None


def test_devices() -> None:
    bridge, card = MACHINE.devices
    assert (bridge.address, card.address, card.vendor, card.device, card.irq) == (
        "00:01.0",
        "01:02.0",
        0x8086,
        0x100E,
        11,
    )
    assert card.resources[:2] == ((0xFEBC0000, 0x20000), (0xC001, 64))
    assert card.resources[6] == (0, 0)


@pytest.mark.parametrize(
    ("command", "file"),
    [
        ("qemu -m 1G", None),
        ("qemu -D a.log -m 1G", "a.log"),
        ("qemu -trace enable=x,file=b.log", "b.log"),
        ("qemu -drive file=disk.img", None),
    ],
)
def test_log_file_of_a_command(command: str, file: str | None) -> None:
    assert log_file(command.split()) == file
