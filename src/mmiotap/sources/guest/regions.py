"""Where a machine's regions of memory and ports are, and which of its PCI devices has them: QEMU's own inventory.

From `info mtree` of the human monitor, the only way that a QEMU tells its regions, and from `query-pci`.
"""

import re
from dataclasses import dataclass
from typing import Any

from mmiotap.formats.pci import PciDevice

#: A region that has accessors: `0000…-0000… (prio 1, i/o): NAME`, in later versions with its owner behind.
_LINE = re.compile(r" +([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, (?:nv-)?(?:i/o|romd)\): (.*)")
_NOT_A_NAME = re.compile(r"(?: \[disabled\]| (?:owner|parent):\{.*\})+$")
_IO_SPACE = "I/O"
_ROM = 6


@dataclass(frozen=True)
class Place:
    """A region at its place on the bus; ``end`` is the first address behind it."""

    name: str
    ports: bool
    first: int
    end: int


@dataclass(frozen=True)
class Bar:
    """A base address register that the guest has set, and whose it is."""

    device: PciDevice
    qdev_id: str  #: `id=` of QEMU's -device; empty if it has none
    number: int
    ports: bool
    first: int
    end: int


@dataclass(frozen=True)
class Inventory:
    """What a machine had at one moment."""

    places: tuple[Place, ...] = ()
    bars: tuple[Bar, ...] = ()
    devices: tuple[PciDevice, ...] = ()

    def find(self, name: str, address: int) -> Place | None:
        """The region of this name (an empty one: any) at an address, the smallest if there are several."""
        found = [one for one in self.places if one.first <= address < one.end and name in ("", one.name)]
        return min(found, key=lambda one: one.end - one.first, default=None)

    def bar(self, place: Place) -> Bar | None:
        """The BAR that a region is in."""
        for bar in self.bars:
            if bar.ports == place.ports and bar.first <= place.first and place.end <= bar.end:
                return bar
        return None


def inventory(mtree: str, buses: list[dict[str, Any]]) -> Inventory:
    """Out of the text of `info mtree` and the return of `query-pci`."""
    places = dict.fromkeys(_places(mtree))
    bars = [bar for bus in buses for device in bus["devices"] for bar in _bars(device)]
    devices = [device for bus in buses for one in bus["devices"] for device in _devices(one)]
    return Inventory(tuple(places), tuple(bars), tuple(devices))


def _places(mtree: str) -> list[Place]:
    """Aliases show other regions a second time, and are left out."""
    found, ports = [], False
    for line in mtree.splitlines():
        if line and not line.startswith(" "):
            ports = line.removeprefix("address-space: ").strip() == _IO_SPACE
        elif (match := _LINE.match(line)) and not match[3].startswith("alias "):
            name = _NOT_A_NAME.sub("", match[3])
            found.append(Place(name, ports, int(match[1], 16), int(match[2], 16) + 1))
    return found


def _devices(one: dict[str, Any]) -> list[PciDevice]:
    """A device, and those behind it if it is a bridge."""
    resources = [(0, 0)] * (_ROM + 1)
    for region in one["regions"]:
        if region["bar"] <= _ROM and region["address"] >= 0:
            resources[region["bar"]] = (region["address"] | (region["type"] == "io"), region["size"])
    device = PciDevice(
        address=f"{one['bus']:02x}:{one['slot']:02x}.{one['function']}",
        vendor=one["id"]["vendor"],
        device=one["id"]["device"],
        irq=one.get("irq", 0),
        resources=tuple(resources),
        driver="",
        domain=0,
    )
    return [device, *(found for behind in _behind(one) for found in _devices(behind))]


def _bars(one: dict[str, Any]) -> list[Bar]:
    device = _devices(one)[0]
    mine = [
        Bar(device, one["qdev_id"], region["bar"], region["type"] == "io", region["address"], region["address"] + size)
        for region in one["regions"]
        if region["address"] >= 0 and (size := region["size"])
    ]
    return mine + [bar for behind in _behind(one) for bar in _bars(behind)]


def _behind(one: dict[str, Any]) -> list[dict[str, Any]]:
    behind: list[dict[str, Any]] = one.get("pci_bridge", {}).get("devices", [])
    return behind
