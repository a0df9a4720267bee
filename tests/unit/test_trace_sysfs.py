"""Where a mapping leads, as sysfs tells it: against a tree as Linux lays it out."""

import os
import resource
import stat
from pathlib import Path

import pytest

from mmiotap.trace.sysfs import Place, locate

PAGE = resource.getpagesize()
ADDRESS = "0000:00:03.0"
RESOURCES = """\
0x00000000febc0000 0x00000000febdffff 0x0000000000040200
0x000000000000c000 0x000000000000c03f 0x0000000000040101
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x00000000feb80000 0x00000000febbffff 0x000000000004e200
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with one PCI device, bound to uio; and a uio device that is not on PCI."""
    device = tmp_path / "sys/devices/pci0000:00" / ADDRESS
    for maps in (device / "uio/uio0/maps/map0", tmp_path / "sys/devices/platform/soc/uio/uio1/maps/map1"):
        maps.mkdir(parents=True)
    (device / "resource").write_text(RESOURCES)
    (device / "resource0").touch()
    (device / "uio/uio0/maps/map0/addr").write_text("0x00000000febc0000\n")
    (tmp_path / "sys/devices/platform/soc/uio/uio1/maps/map1/addr").write_text("0xfd000000\n")
    (device / "uio/uio0/device").symlink_to(device)
    (tmp_path / "sys/devices/platform/soc/uio/uio1/device").symlink_to(tmp_path / "sys/devices/platform/soc")
    for folder in ("sys/bus/pci/devices", "sys/class/uio", "sys/dev/char", "dev/vfio/devices"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "sys/bus/pci/devices" / ADDRESS).symlink_to(device)
    (tmp_path / "sys/class/uio/uio0").symlink_to(device / "uio/uio0")
    (tmp_path / "sys/class/uio/uio1").symlink_to(tmp_path / "sys/devices/platform/soc/uio/uio1")
    return tmp_path


def node(root: Path, path: str, device: str | None) -> None:
    """A character device, and which device it stands for; making one needs root, which CI is."""
    os.mknod(root / path.lstrip("/"), stat.S_IFCHR | 0o600, os.makedev(511, 3))
    if device is not None:
        (root / "sys/dev/char/511:3").mkdir()
        (root / "sys/dev/char/511:3/device").symlink_to(root / "sys/bus/pci/devices" / device)


@pytest.mark.parametrize("name", ["resource0", "resource0_wc"])
def test_a_bar(root: Path, name: str) -> None:
    path = f"/sys/devices/pci0000:00/{ADDRESS}/{name}"
    assert locate(path, 0, root) == Place(ADDRESS, 0, 0xFEBC0000)
    assert locate(path, 0x1000, root) == Place(ADDRESS, 0, 0xFEBC1000)


def test_a_bar_by_its_other_name(root: Path) -> None:
    assert locate(f"/sys/bus/pci/devices/{ADDRESS}/resource0", 0, root) == Place(ADDRESS, 0, 0xFEBC0000)


def test_a_bar_that_has_no_address(root: Path) -> None:
    assert locate(f"/sys/devices/pci0000:00/{ADDRESS}/resource2", 0, root) == Place(ADDRESS, 2, None)


def test_uio(root: Path) -> None:
    assert locate("/dev/uio0", 0, root) == Place(ADDRESS, 0, 0xFEBC0000)
    assert locate("/dev/uio0", PAGE, root) == Place(ADDRESS, None, None)
    assert locate("/dev/uio1", PAGE, root) == Place("uio1", None, 0xFD000000)


def test_physical_memory(root: Path) -> None:
    assert locate("/dev/mem", 0xFEBC2000, root) == Place(ADDRESS, 0, 0xFEBC2000)
    assert locate("/dev/mem", 0xFEB80000, root) == Place(None, None, 0xFEB80000)  # the ROM is no BAR
    assert locate("/dev/mem", 0x1000, root) == Place(None, None, 0x1000)


def test_vfio(root: Path) -> None:
    node(root, "/dev/vfio/devices/vfio0", ADDRESS)
    assert locate("/dev/vfio/devices/vfio0", 0x2000, root) == Place(ADDRESS, 0, 0xFEBC2000)
    assert locate("/dev/vfio/devices/vfio0", (7 << 40) + 64, root) == Place(ADDRESS)  # configuration space
    assert locate("anon_inode:[vfio-device]", (2 << 40) + 64, root) == Place(None, 2, None)


def test_other_devices(root: Path) -> None:
    node(root, "/dev/card0", ADDRESS)
    assert locate("/dev/card0", 0, root) == Place(ADDRESS)


@pytest.mark.parametrize(
    "path", ["/run/registers", "anon_inode:[io_uring]", "", "/sys/devices/gone/resource0", "/tmp/resource0"]
)
def test_what_is_no_device_or_is_gone(root: Path, path: str) -> None:
    assert locate(path, 0, root) == Place()


def test_a_uio_device_that_is_gone(root: Path) -> None:
    assert locate("/dev/uio7", 0, root) == Place("uio7")


def test_damaged(root: Path) -> None:
    (root / "sys/bus/pci/devices" / ADDRESS / "resource").write_text("0x0 nonsense\n")
    assert locate(f"/sys/devices/pci0000:00/{ADDRESS}/resource0", 0, root) == Place()


def test_on_this_machine() -> None:
    """Every BAR there is; a machine without PCI has none."""
    for file in Path("/sys/bus/pci/devices").glob("*/resource[0-5]"):
        place = locate(str(file.resolve()), 0)
        assert place.device == file.parent.name
        assert place.bar == int(file.name[-1])
