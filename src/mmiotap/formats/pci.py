"""PCI devices as mmiotrace lists them: one PCIDEV line a device."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

_LINE = re.compile(
    rb"PCIDEV ([0-9a-f]{2,4})([0-9a-f]{2}) ([0-9a-f]{4})([0-9a-f]{4}) ([0-9a-f]{1,8})"
    rb"((?: [0-9a-f]{1,16}){14})(?: (.*))?"
)
_IO_PORTS = 0x1
#: Flags of a resource that mmiotrace prints with its start.
FLAG_BITS = 0xF
#: BAR 0 to 5, ROM.
RESOURCES = 7


@dataclass(frozen=True)
class PciDevice:
    """One PCI device of the machine that was traced.

    :ivar address: ``bus:slot.function``; mmiotrace does not print the domain.
    :ivar resources: seven pairs (start with the flag bits of the base address register, size in bytes): BAR 0 to 5,
        ROM.
    :ivar driver: the driver's name, empty where none was bound when the log was begun.
    :ivar domain: PCI domain (segment), where the source tells it.
    """

    address: str
    vendor: int
    device: int
    irq: int
    resources: tuple[tuple[int, int], ...]
    driver: str
    domain: int | None = None

    @classmethod
    def from_line(cls, line: bytes) -> Self | None:
        """The device of a PCIDEV line without its end of line; None if it is not one."""
        match = _LINE.fullmatch(line)
        if match is None:
            return None
        bus, function, vendor, device, irq = (int(field, 16) for field in match.groups()[:5])
        numbers = [int(field, 16) for field in match[6].split()]
        return cls(
            address=f"{bus:02x}:{function >> 3:02x}.{function & 7}",
            vendor=vendor,
            device=device,
            irq=irq,
            resources=tuple(zip(numbers[:7], numbers[7:], strict=True)),
            driver=(match[7] or b"").decode(errors="backslashreplace"),
        )

    @property
    def name(self) -> str:
        """The address, with its domain where that is known."""
        return self.address if self.domain is None else f"{self.domain:04x}:{self.address}"

    @property
    def has_memory(self) -> bool:
        """Is there a BAR that is memory, and no I/O ports?"""
        return any(size and not start & _IO_PORTS for start, size in self.resources[: RESOURCES - 1])

    def to_line(self) -> str:
        """The line as the kernel prints it, with a lone space where there is no driver; without its end of line."""
        bus, _, rest = self.address.partition(":")
        slot, _, function = rest.partition(".")
        numbers = [start for start, _ in self.resources] + [size for _, size in self.resources]
        return (
            f"PCIDEV {int(bus, 16):02x}{int(slot, 16) << 3 | int(function):02x} {self.vendor:04x}{self.device:04x} "
            f"{self.irq:x} {' '.join(f'{number:x}' for number in numbers)} {self.driver}"
        )

    def memory_bar(self, physical: int) -> tuple[int, int, int] | None:
        """Number, start and size of the memory BAR (6: the ROM) that holds a physical address."""
        for bar, (start, size) in enumerate(self.resources):
            base = start & ~FLAG_BITS
            if not start & _IO_PORTS and base <= physical < base + size:
                return bar, base, size
        return None

    def to_json(self) -> dict[str, Any]:
        """As it stands in trace.json, ``pci_devices``."""
        return {
            "address": self.address,
            "vendor": self.vendor,
            "device": self.device,
            "irq": self.irq,
            "resources": [{"start": start, "size": size} for start, size in self.resources],
            "driver": self.driver,
        } | ({} if self.domain is None else {"domain": self.domain})

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of :meth:`to_json`."""
        resources = tuple((resource["start"], resource["size"]) for resource in data["resources"])
        known = data["address"], data["vendor"], data["device"], data["irq"], resources, data["driver"]
        return cls(*known, data.get("domain"))


def place(physical: int, devices: Iterable[PciDevice]) -> tuple[str, str | None, int | None]:
    """What a mapping of a physical address is called, the device and the BAR (6: the ROM) that it is in, if any."""
    for device in devices:
        if found := device.memory_bar(physical):
            bar, base, _ = found
            inside = f"+{physical - base:#x}" if physical != base else ""
            return f"{device.name}/{'ROM' if bar == 6 else f'BAR{bar}'}{inside}", device.name, bar
    return f"{physical:#x}", None, None
