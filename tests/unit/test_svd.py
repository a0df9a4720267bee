"""CMSIS-SVD: everything that describes registers; bus addresses; and what is wrong in a file."""

from pathlib import Path
from typing import Any

import pytest

from mmiotap.cli import main
from mmiotap.registers.effects import EFFECTS, SVD_ACCESS, SVD_READ, SVD_WRITE, word
from mmiotap.registers.load import Wanted, load
from mmiotap.registers.model import Description
from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.model import Mapping
from synthetic import row, write_trace
from test_registers import one as decoded

DEVICE = Path(__file__).parents[1] / "data" / "device.svd"

REGISTERS = """
0x0 1 RX RO, 0x0 1 TX WO, 0x4 4 CTRL RW, 0x8 4 STATUS RW, 0xc 4 CTRL2 RW,
0x10 4 BUFFER[0] RW, 0x14 4 BUFFER[1] RW, 0x18 4 BUFFER[2] RW, 0x1c 4 BUFFER[3] RW,
0x20 4 DMA[0].SOURCE RW, 0x28 4 DMA[0].LIMIT.LOW RW, 0x2c 4 DMA[0].LIMIT.HIGH RW,
0x30 4 DMA[1].SOURCE RW, 0x38 4 DMA[1].LIMIT.LOW RW, 0x3c 4 DMA[1].LIMIT.HIGH RW
"""


def uart() -> Description:
    return load(Wanted(DEVICE, "UART0"))


def listed(description: Description) -> list[str]:
    return [f"{each.offset:#x} {each.width} {each.name} {each.access}" for each in description.registers]


def test_all_registers_of_a_peripheral() -> None:
    expected = [" ".join(each.split()) for each in REGISTERS.split(",")]
    assert listed(uart()) == expected
    assert listed(load(Wanted(DEVICE, "UART1"))) == expected


def test_the_whole_device_has_bus_addresses() -> None:
    device = load(Wanted(DEVICE))
    assert device.absolute
    names = {each.offset: each.name for each in device.registers}
    assert (names[0x40001004], names[0x4000203C]) == ("UART0.CTRL", "UART1.DMA[1].LIMIT.HIGH")


@pytest.mark.parametrize(
    ("access", "expected"),
    [
        (("read", 0x0, 0x41, 1), ("RX", None)),
        (("write", 0x0, 0x41, 1), ("TX", None)),
        (("write", 0x4, 0x00680005), ("CTRL", "EN PARITY=EVEN BAUD=0x68")),
        (("write", 0x4, 0x36), ("CTRL", "PARITY=3 IRQ_A IRQ_B")),
        (("write", 0xC, 0x1), ("CTRL2", "EN")),
        (("read", 0x8, 0x7), ("STATUS", "OVERRUN FULL ?=4")),
        (("write", 0x20, 0x1230), ("DMA[0].SOURCE", "ADDR=0x123")),
        (("write", 0x3C, 0x1230), ("DMA[1].LIMIT.HIGH", None)),
    ],
)
def test_values(access: tuple[Any, ...], expected: tuple[str, str | None]) -> None:
    assert decoded(uart(), *access) == expected


def test_what_reading_and_writing_does() -> None:
    fields = {field.name: field.access for each in uart().registers for field in each.fields}
    assert (fields["EN"], fields["OVERRUN"], fields["FULL"]) == ("RW", "W1C", "RC")


def test_an_absolute_description_of_a_mapping_of_bus_addresses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    memory = Mapping(1, 100, "/dev/mem", 0x7F0000000000, 0x2000, 0x40001000, "rw", None, None, 0x40001000)
    rows = [row(0, "write", 4, 0x4, 1), row(1, "write", 4, 0x1004, 1), row(2, "write", 4, 0x800, 1)]
    trace = write_trace(tmp_path / "t", rows, mappings=[memory])
    assert main(["show", str(trace), "--regs", str(DEVICE)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[5:] for line in lines] == [
        ["0x0004", "UART0.CTRL", "<-", "0x00000001", "{EN}"],
        ["0x1004", "UART1.CTRL", "<-", "0x00000001", "{EN}"],
        ["0x0800", "<-", "0x00000001"],
    ]


def test_words_map_to_words() -> None:
    """Each word of ours is one of SystemRDL's, and each of CMSIS-SVD's is one of ours."""
    for ours, effect in EFFECTS.items():
        assert word(*effect) == ours
    assert {word(sw) for sw in SVD_ACCESS.values()} == {"RO", "WO", "RW", "WO1", "W1"}
    assert [word("rw", None, SVD_WRITE[one]) for one in ("oneToClear", "zeroToSet", "clear", "modify")] == [
        *("W1C", "W0S", "WC", "RW")
    ]
    assert [word("r", SVD_READ[one]) for one in ("clear", "set", "modify")] == ["RC", "RS", "RO"]
    assert (word("w", "rclr", "woclr"), word("r", "rclr", "woclr")) == ("WO1C", "RC")
    assert (word("rw", "ruser", "woclr"), word("rw", "rclr", "wuser"), word("rw", "ruser", "wuser")) == (
        *("W1C", "WRC", "RW"),
    )


def change(tmp_path: Path, old: str, new: str, part: str | None = "UART0") -> str:
    text = DEVICE.read_text()
    assert old in text
    path = tmp_path / "wrong.svd"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(MmiotapError) as error:
        load(Wanted(path, part))
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix(str(path))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("</peripherals>", "</peripheral>", ", line 114: this is no XML: mismatched tag"),
        ("<addressOffset>0x8</addressOffset>", "<addressOffset>0x6</addressOffset>", ", line 57: Instance 'STATUS' at"),
        ("<lsb>16</lsb>", "<lsb>2</lsb>", ", line 50: Field 'BAUD[31:2]' overlaps with field 'PARITY[2:1]'"),
        ("<msb>31</msb>", "<msb>32</msb>", ", line 50: High bit (32) of field 'BAUD' exceeds MSb of parent register"),
        ("<value>#10</value>", "<value>7</value>", ", line 39: Field 'PARITY' is not wide enough to encode"),
        ("<addressOffset>0x4</addressOffset>", "", ", line 33: <register> has no <addressOffset>"),
        (
            "<addressOffset>0x4</addressOffset>",
            "<addressOffset>four</addressOffset>",
            ", line 36: <addressOffset> 'four'",
        ),
        ("<bitRange>[2:1]</bitRange>", "", ", line 39: <field> has neither"),
        ("<name>RX</name>", "", ", line 18: <register> has no <name>"),
        (
            'derivedFrom="CTRL"',
            'derivedFrom="NONE"',
            ", line 76: it is derived from register 'NONE', which is not there",
        ),
        ("<access>read-only</access>", "<access>sometimes</access>", ", line 23: <access> 'sometimes' is none of"),
        ("oneToClear", "never", ", line 61: <modifiedWriteValues> 'never' is none of"),
        ("<size>8</size>", "<size>24</size>", ", line 22: a register has 8, 16, 32, 64, 128 bits, not 24"),
        ("<dim>4</dim>", "<dim>999999</dim>", ", line 81: <register> stands for 999999 registers and fields"),
    ],
)
def test_wrong_files_are_one_line(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert change(tmp_path, old, new).startswith(expected)


def test_parts(tmp_path: Path) -> None:
    assert change(tmp_path, "UART1", "UART2", "UART9") == ": it has no peripheral 'UART9'; there are UART0, UART2"
    (tmp_path / "empty.xml").write_text("<device><name>X</name></device>")
    with pytest.raises(MmiotapError, match=r"empty.xml: (no register is described|cmsis-svd cannot read it)"):
        load(Wanted(tmp_path / "empty.xml"))
