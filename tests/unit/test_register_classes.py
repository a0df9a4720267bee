"""Registers as Python classes, in m1n1's manner."""

from pathlib import Path
from typing import Any

import pytest

from mmiotap.registers.load import Wanted, load
from mmiotap.registers.model import Description
from mmiotap.trace.errors import MmiotapError
from test_registers import one as decoded

DEVICE = """\
from enum import Enum, IntEnum
from mmiotap.registers.classes import *

class Mode(IntEnum):
    SLOW = 0
    FAST = 2

class State(Enum):
    IDLE = 1

class R_BASE(Register32):
    EN = 0
    MODE = 3, 2, Mode

class R_CTRL(R_BASE):
    COUNT = 15, 8
    SCALE = 19, 16, int
    STATE = 21, 20, State
    _private = 5

class R_WIDE(Register64):
    BASE = 51, 12

class DeviceRegs(RegMap):
    ID = 0x00, Register32
    CTRL = 0x04, R_CTRL
    WIDE = 0x08, R_WIDE
    BYTE = 0x10, Register8
    TABLE = irange(0x20, 4, 4), R_BASE
    SPARSE = range(0x40, 0x60, 0x10), Register16
"""


@pytest.fixture
def device(tmp_path: Path) -> Description:
    (tmp_path / "device.py").write_text(DEVICE)
    return load(Wanted(tmp_path / "device.py"))


def test_all_registers(device: Description) -> None:
    assert [(each.offset, each.width, each.name, each.counts) for each in device.registers] == [
        (0x00, 4, "ID", ()),
        (0x04, 4, "CTRL", ()),
        (0x08, 8, "WIDE", ()),
        (0x10, 1, "BYTE", ()),
        (0x20, 4, "TABLE", (4,)),
        (0x40, 2, "SPARSE[0]", ()),
        (0x50, 2, "SPARSE[1]", ()),
    ]


@pytest.mark.parametrize(
    ("access", "expected"),
    [
        (
            ("write", 0x4, 0x1 | 2 << 2 | 7 << 8 | 0xA << 16 | 1 << 20),
            ("CTRL", "EN MODE=FAST COUNT=7 SCALE=0xa STATE=IDLE"),
        ),
        (("write", 0x4, 0x80000000), ("CTRL", "?=0x80000000")),
        (("write", 0x28, 0xC), ("TABLE[2]", "MODE=3")),
        (("write", 0x8, 0x5000, 8), ("WIDE", "BASE=5")),
        (("write", 0x10, 0x5, 1), ("BYTE", None)),
        (("write", 0x50, 0x5, 2), ("SPARSE[1]", None)),
    ],
)
def test_values(device: Description, access: tuple[Any, ...], expected: tuple[str, str | None]) -> None:
    assert decoded(device, *access) == expected


def test_several_maps(tmp_path: Path) -> None:
    path = tmp_path / "device.py"
    path.write_text(DEVICE + "class OtherRegs(RegMap):\n    ONLY = 0, Register8\n")
    assert [each.name for each in load(Wanted(path, "OtherRegs")).registers] == ["ONLY"]
    with pytest.raises(
        MmiotapError, match=r"it has several RegMaps; choose one, device.py:CLASS: DeviceRegs, OtherRegs"
    ):
        load(Wanted(path))
    with pytest.raises(MmiotapError, match=r"it has no RegMap 'X'; there are DeviceRegs, OtherRegs"):
        load(Wanted(path, "X"))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("EN = 0", "EN = ", ", line 12: no Python: invalid syntax"),
        ("EN = 0", "EN = 1 / 0", ", line 12: ZeroDivisionError: division by zero"),
        ("EN = 0", "EN = int('x')", ", line 12: ValueError: invalid literal"),
        ("EN = 0", "EN = exit(3)", ", line 12: SystemExit: 3"),
        ("EN = 0", "EN = 'x'", ", line 12: R_CTRL.EN = 'x' is no bit, and no pair of bits"),
        ("EN = 0", "EN = True", ", line 12: R_CTRL.EN = True is no bit"),
        ("EN = 0", "EN = 3", ", line 12: Field 'EN[3:3]' overlaps with field 'MODE[3:2]'"),
        ("EN = 0", "EN = 40", ", line 12: High bit (40) of field 'EN' exceeds"),
        ("COUNT = 15, 8", "COUNT = 8, 15", ", line 16: R_CTRL.COUNT: the highest bit comes first"),
        ("FAST = 2", "FAST = 9", ", line 13: Field 'MODE' is not wide enough"),
        ("CTRL = 0x04, R_CTRL", "CTRL = 0x02, R_CTRL", ", line 26: Instance 'CTRL' at offset +0x2:0x5 overlaps with"),
        ("CTRL = 0x04, R_CTRL", "CTRL = 0x04", ", line 26: CTRL is no offset (or range of them) and a Register"),
        (
            "CTRL = 0x04, R_CTRL",
            "CTRL = -4, R_CTRL",
            ", line 26: CTRL has no offsets, or they go down or begin below 0",
        ),
        ("ID = 0x00, Register32", "ID = 0x00, Register", ", line 25: Register has no width"),
        ("(RegMap)", "", ": it has no RegMap"),
        ("from enum", "\0", ": no Python: source code string cannot contain null bytes"),
    ],
)
def test_wrong_files_are_one_line(tmp_path: Path, old: str, new: str, expected: str) -> None:
    path = tmp_path / "wrong.py"
    path.write_text(DEVICE.replace(old, new, 1))
    with pytest.raises(MmiotapError) as error:
        load(Wanted(path))
    assert "\n" not in str(error.value)
    assert str(error.value).removeprefix(str(path)).startswith(expected)


def test_the_example_of_the_documentation(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "registers.md"
    path = tmp_path / "device.py"
    path.write_text(page.read_text().split("```python\n")[1].split("```")[0])
    assert decoded(load(Wanted(path)), "write", 0x0, 0x1209) == ("CTRL", "EN MODE=FAST COUNT=0x12")
