"""Descriptions that come with mmiotap, and the PCI functions that they are of.

Beside each is what the compiler of SystemRDL makes of it, as JSON, since loading the compiler takes longer than to show
some events. ``python -m mmiotap.registers.shipped`` makes these files anew; a test says when that is forgotten.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from mmiotap.registers.model import Description

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Shipped:
    """A file of this folder.

    :ivar bar: the base address register whose memory it describes.
    :ivar ids: vendor and device of PCI functions.
    """

    name: str
    bar: int
    ids: frozenset[tuple[int, int]]

    @property
    def path(self) -> Path:
        return _FOLDER / f"{self.name}.rdl"


def _ids(vendor: int, *devices: int) -> frozenset[tuple[int, int]]:
    return frozenset((vendor, device) for device in devices)


SHIPPED = (
    Shipped("edu", 0, _ids(0x1234, 0x11E8)),
    # Software Developer's Manual 317453, table 5-1 and section 4.1: 82544 to 82547 (not 82542, 82543). The last
    # three, 82546GB, are those of Linux's e1000_hw.h.
    Shipped(
        "e1000",
        0,
        _ids(
            *(0x8086, 0x1008, 0x1009, 0x100C, 0x100D, 0x100E, 0x100F, 0x1010, 0x1011, 0x1012, 0x1013, 0x1014, 0x1015),
            *(0x1016, 0x1017, 0x1018, 0x1019, 0x101A, 0x101D, 0x101E, 0x1026, 0x1027, 0x1028, 0x1075, 0x1076, 0x1077),
            *(0x1078, 0x1079, 0x107A, 0x107B, 0x107C, 0x108A, 0x1099, 0x10B5),
        ),
    ),
    # QEMU's controllers (docs/system/devices/nvme), with and without use-intel-id.
    Shipped("nvme", 0, _ids(0x1B36, 0x0010) | _ids(0x8086, 0x5845)),
)


def find(name: str) -> Path | None:
    """The file of a description, by its name alone."""
    return next((one.path for one in SHIPPED if one.name == name), None)


def of(vendor: int | None, device: int | None, bar: int) -> Path | None:
    """The file that describes the memory of a base address register of a PCI function."""
    return next((one.path for one in SHIPPED if (vendor, device) in one.ids and one.bar == bar), None)


def elaborated(path: Path) -> Description:
    """What such a file says."""
    return Description.from_json(json.loads(path.with_suffix(".json").read_bytes()))
