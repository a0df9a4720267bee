"""The descriptions that are shipped, and a real driver's start-up decoded by one of them."""

from collections import Counter
from pathlib import Path

import pytest

from e1000 import accesses, share_with_fields, the_manual
from mmiotap.cli import main
from mmiotap.formats.mmiotrace import import_log
from mmiotap.registers import shipped
from mmiotap.registers.load import Wanted, load
from mmiotap.registers.model import Description
from mmiotap.sources.recording import pci_devices
from mmiotap.trace.model import Mapping
from mmiotap.trace.reader import Trace, open_trace
from synthetic import UIO, row, write_trace
from test_formats_mmiotrace import FIXTURE


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """A start-up of Linux's e1000 on QEMU's 82540EM, recorded by the kernel's mmiotrace."""
    path = tmp_path_factory.mktemp("e1000") / "t"
    with FIXTURE.open("rb") as log:
        import_log(log, "log", path, force=False)
    return open_trace(path)


def test_every_access_has_the_right_name(trace: Trace) -> None:
    found = accesses(trace)
    assert len(found) == 14072
    assert {offset: name for _, offset, _, name, _ in found} == the_manual()


def test_writes_to_control_registers_name_their_fields(trace: Trace) -> None:
    assert share_with_fields(accesses(trace)) >= 0.95


@pytest.mark.parametrize("log", ["qemu-e1000.log.xz", "trace-cmd-7.dat"])
def test_other_recordings(log: str, tmp_path: Path) -> None:
    """QEMU's log of such a start-up; and one that was recorded in a guest with another kernel, by trace-cmd."""
    assert main(["import", str(FIXTURE.parent / log), "-o", str(tmp_path / "t")]) == 0
    found = accesses(open_trace(tmp_path / "t"), "e1000@1")
    assert len(found) > 11000
    manual = the_manual()
    assert {(offset, name) for _, offset, _, name, _ in found} <= set(manual.items())
    assert share_with_fields(found) >= 0.95


def test_bits_mean_what_the_manual_says(trace: Trace) -> None:
    said = Counter((kind, name, value, fields) for kind, _, value, name, fields in accesses(trace))
    for one in (
        # 13.4.1: bit 6, bits 9:8 = 10b, bit 18, bit 20; then bit 30, bit 27, bit 31
        ("write", "CTRL", 0xC8140240, "SLU SPEED=MBIT1000 SDP0_DATA ADVD3WUC RFCE VME PHY_RST"),
        # 13.4.2: bits 0, 1, 7:6 = 10b, 9:8 = 11b; the manual has nothing for bits 10, 19 and 31
        ("read", "STATUS", 0x80080783, "FD LU SPEED=MBIT1000 ASDV=3 ?=0x80080400"),
        # 13.4.3: bit 0, 1, 2, then 6, 7, 8
        ("write", "EECD", 0x1C7, "SK CS DI EE_REQ EE_GNT EE_PRES"),
        # 13.4.20: bits 0, 2, 3, 4, 7
        ("write", "IMS", 0x9D, "TXDW LSC RXSEQ RXDMT0 RXT0"),
        # 13.4.22: bits 1 and 15
        ("write", "RCTL", 0x8002, "EN BAM"),
        # 13.4.33: bits 1, 3, 11:4 = 15, 21:12 = 63, 24
        ("write", "TCTL", 0x103F0FA, "EN PSP CT=0xf COLD=0x3f RTLC"),
        # 13.4.34: 8, 8, 6
        ("write", "TIPG", 0x602008, "IPGT=8 IPGR1=8 IPGR2=6"),
        # 13.4.38: bits 19:7
        ("write", "TDLEN", 0x1000, "LEN=0x20"),
        ("write", "TXDCTL", 0x1010000, "WTHRESH=1 GRAN"),
        ("write", "FCRTL", 0x8000ACC0, "RTL=0x1598 XONE"),
        ("read", "ICR", 0x83, "TXDW TXQE RXT0"),
        ("write", "RA[0].RAH", 0x80005634, "RAH=0x5634 AV"),
    ):
        assert said[one], one
    mdic = next(fields for kind, _, value, name, fields in accesses(trace) if (name, value) == ("MDIC", 0x08220000))
    assert mdic == "REGADD=2 PHYADD=1 OP=READ"  # 13.4.7


def test_show_and_stats_find_it_by_pci_id(trace: Trace, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(trace.path), "--kind", "write", "--offset", "0x100"]) == 0
    lines = [line.split("1:BAR0")[1].strip() for line in capsys.readouterr().out.splitlines()]
    assert set(lines) == {
        "0x00100 RCTL             <- 0x00000000",
        "0x00100 RCTL             <- 0x00008000          {BAM}",
        "0x00100 RCTL             <- 0x00008002          {EN BAM}",
    }
    assert main(["show", str(trace.path), "--no-regs", "--offset", "0x100", "--limit", "1"]) == 0
    assert capsys.readouterr().out.split("1:BAR0")[1].strip() == "0x00100 <- 0x00000000"
    assert main(["stats", str(trace.path), "--limit", "2"]) == 0
    table = capsys.readouterr().out.split("Registers")[1].splitlines()
    assert [line.split()[:3] for line in table[1:4]] == [
        ["mapping", "offset", "register"],
        ["1:BAR0", "0x10", "EECD"],
        ["1:BAR0", "0x8", "STATUS"],
    ]


def test_a_recording_knows_its_devices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "sys/bus/pci/devices/0000:00:03.0"
    folder.mkdir(parents=True)
    resource = "0x00000000febc0000 0x00000000febdffff 0x0000000000040200\n" + 6 * "0x0 0x0 0x0\n"
    for name, text in {"vendor": "0x8086\n", "device": "0x100e\n", "irq": "22\n", "resource": resource}.items():
        (folder / name).write_text(text)
    other = Mapping(2, 100, "/dev/mem", 0, 0x1000, 0, "rw")
    assert pci_devices([other], tmp_path) == []
    devices = pci_devices([UIO, other], tmp_path)
    assert [(one["vendor"], one["device"]) for one in devices] == [(0x8086, 0x100E)]
    rows = [row(0, "write", 4, 0x400, 0x103F0FA), row(0, "write", 4, 0x400, 0, map_id=2)]
    path = write_trace(tmp_path / "t", rows, mappings=[UIO, other], pci_devices=devices)
    assert main(["show", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("TCTL             <- 0x0103f0fa          {EN PSP CT=0xf COLD=0x3f RTLC}")
    assert "TCTL" not in lines[1]
    assert pci_devices([UIO], tmp_path / "elsewhere") == []
    (folder / "vendor").write_text("none")
    assert pci_devices([UIO], tmp_path) == []


@pytest.mark.parametrize("name", ["edu", "e1000", "nvme"])
def test_shipped(name: str) -> None:
    description = load(Wanted.parse(name))
    assert len({one.name for one in description.registers}) == len(description.registers)
    for one in description.registers:
        assert one.offset % one.width == 0, one.name


def register(description: Description, name: str) -> tuple[int, int, dict[str, tuple[int, int]]]:
    [found] = [one for one in description.registers if one.name == name]
    return found.offset, found.width, {field.name: (field.lsb, field.width) for field in found.fields}


def test_what_reading_and_writing_does() -> None:
    """13.4.17: cleared by reading, and by writing 1. 13.7: cleared by reading; 13.7.41: the low half is not."""
    e1000 = {one.name: one for one in load(Wanted.parse("e1000")).registers}
    assert {field.access for field in e1000["ICR"].fields} == {"W1CRC"}
    assert {field.access for field in e1000["IMC"].fields} == {"WO1C"}
    assert (e1000["GPRC"].fields[0].access, e1000["TORL"].fields[0].access, e1000["TORH"].fields[0].access) == (
        *("RC", "RO", "RC"),
    )


@pytest.mark.parametrize("one", shipped.SHIPPED, ids=lambda one: one.name)
def test_what_is_beside_a_description_is_what_it_says(one: shipped.Shipped) -> None:
    assert shipped.elaborated(one.path) == load(Wanted(one.path)), "python -m mmiotap.registers.shipped"


def test_shipped_nvme() -> None:
    """Some of what the NVMe base specification says, and where its doorbells are."""
    nvme = load(Wanted.parse("nvme"))
    assert register(nvme, "CC") == (
        0x14,
        4,
        {"EN": (0, 1), "CSS": (4, 3), "MPS": (7, 4), "AMS": (11, 3), "SHN": (14, 2), "IOSQES": (16, 4)}
        | {"IOCQES": (20, 4), "CRIME": (24, 1)},
    )
    assert register(nvme, "ASQ") == (0x28, 8, {"ASQB": (12, 52)})
    assert register(nvme, "Q[3].CQHDBL")[:2] == (0x1000 + (2 * 3 + 1) * 4, 4)


@pytest.mark.parametrize(
    ("vendor", "device", "bar", "name"),
    [
        (0x8086, 0x100E, 0, "e1000"),
        (0x8086, 0x100E, 1, None),
        (0x8086, 0x10B5, 0, "e1000"),  # 82546GB, four ports
        (0x8086, 0x10D3, 0, None),  # 82574: another family
        (0x1234, 0x11E8, 0, "edu"),
        (0x1B36, 0x0010, 0, "nvme"),
    ],
)
def test_found_by_pci_id(vendor: int, device: int, bar: int, name: str | None) -> None:
    path: Path | None = shipped.of(vendor, device, bar)
    assert (path and path.stem) == name
