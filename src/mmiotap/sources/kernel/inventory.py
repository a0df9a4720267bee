"""The machine's PCI devices, from sysfs: what mmiotrace lists as PCIDEV, and their domains."""

from pathlib import Path

from mmiotap.formats.pci import FLAG_BITS, RESOURCES, PciDevice


def devices(root: Path = Path("/")) -> list[PciDevice]:
    """All devices, in the order of their addresses; such as go away meanwhile are left out."""
    found = []
    for folder in sorted((root / "sys/bus/pci/devices").glob("*")):
        try:
            found.append(_device(folder))
        except FileNotFoundError:
            continue
    return found


def _device(folder: Path) -> PciDevice:
    domain, _, address = folder.name.partition(":")
    driver = folder / "driver"
    lines = (folder / "resource").read_text().splitlines()[:RESOURCES]
    return PciDevice(
        address=address,
        vendor=int((folder / "vendor").read_text(), 16),
        device=int((folder / "device").read_text(), 16),
        irq=int((folder / "irq").read_text()),
        resources=tuple(_resource(line) for line in lines),
        driver=driver.resolve().name if driver.exists() else "",
        domain=int(domain, 16),
    )


def _resource(line: str) -> tuple[int, int]:
    start, end, flags = (int(word, 16) for word in line.split())
    return start | flags & FLAG_BITS, end - start + 1 if end > start else 0
