"""Which device is behind a mapped file, and at which bus address: what sysfs tells of it."""

import os
import re
import resource
from dataclasses import dataclass
from pathlib import Path

_PCI_ADDRESS = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_RESOURCE_FILE = re.compile(r"resource([0-9]+)(_wc)?")
#: Standard BARs of a PCI function; the lines of ``resource`` behind them are its ROM and bridge windows.
_BARS = 6


@dataclass(frozen=True)
class Place:
    """Where a mapping leads; None for what the system does not tell."""

    device: str | None = None  #: PCI address, or the name in /dev
    bar: int | None = None
    physical: int | None = None


def locate(path: str, file_offset: int, root: Path = Path("/")) -> Place:
    """The place behind ``file_offset`` of a mapped file. ``root`` is where /sys and /dev are."""
    file = root / path.lstrip("/")
    name = file.name
    try:
        if match := _RESOURCE_FILE.fullmatch(name):
            return _in_bar(file.parent, int(match[1]), file_offset)
        if path == "/dev/mem":
            return _at(file_offset, list((root / "sys/bus/pci/devices").glob("*")))
        if path.startswith("/dev/uio"):
            return _in_uio(root / "sys/class/uio" / name, file_offset // resource.getpagesize())
        if path.startswith("/dev/vfio/devices/"):
            return _in_vfio(_device_of(file, root), file_offset, root)
        if path == "anon_inode:[vfio-device]":
            return _in_vfio(None, file_offset, root)
        if path.startswith("/dev/"):
            return Place(device=_device_of(file, root) or name)
    except (OSError, ValueError):
        pass  # the device is gone, or sysfs is not as we know it
    return Place()


def _in_bar(device: Path, bar: int, file_offset: int) -> Place:
    if not _PCI_ADDRESS.fullmatch(device.resolve().name):
        return Place()
    start, _ = _resources(device)[bar]
    return Place(device.resolve().name, bar, start + file_offset if start else None)


def _in_uio(uio: Path, number: int) -> Place:
    """uio maps its region N at file offset N pages (Documentation/driver-api/uio-howto.rst in Linux)."""
    device = (uio / "device").resolve()
    try:
        address = int((uio / f"maps/map{number}/addr").read_text(), 16)
    except FileNotFoundError:
        address = None
    if not _PCI_ADDRESS.fullmatch(device.name):
        return Place(uio.name, None, address)
    found = _at(address, [device]) if address is not None else Place()
    return Place(device.name, found.bar, address)


def _in_vfio(device: str | None, file_offset: int, root: Path) -> Place:
    """vfio-pci maps its region N, which is BAR N, at file offset N << 40 (VFIO_PCI_OFFSET_SHIFT in Linux)."""
    bar, offset = divmod(file_offset, 1 << 40)
    if bar >= _BARS:
        return Place(device)
    if device is None:
        return Place(None, bar, None)
    return _in_bar(root / "sys/bus/pci/devices" / device, bar, offset)


def _at(address: int, devices: list[Path]) -> Place:
    """The BAR that holds a physical address."""
    for device in devices:
        for bar, (start, end) in enumerate(_resources(device)[:_BARS]):
            if start and start <= address <= end:
                return Place(device.resolve().name, bar, address)
    return Place(physical=address)


def _resources(device: Path) -> list[tuple[int, int]]:
    """First and last address of each line of a PCI device's ``resource`` file; 0, 0 for what it has not."""
    lines = (device / "resource").read_text().splitlines()
    return [(int(start, 16), int(end, 16)) for start, end, _ in map(str.split, lines)]


def _device_of(node: Path, root: Path) -> str | None:
    """The PCI address of the device behind a character device."""
    number = node.stat().st_rdev
    device = (root / "sys/dev/char" / f"{os.major(number)}:{os.minor(number)}" / "device").resolve()
    return device.name if _PCI_ADDRESS.fullmatch(device.name) else None
