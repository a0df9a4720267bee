"""envytools' rnndb: a database that uses every construct, by variants; and what is wrong in others."""

from pathlib import Path
from typing import Any

import pytest

from mmiotap.registers.load import Wanted, load
from mmiotap.registers.model import Description
from mmiotap.trace.errors import MmiotapError
from test_registers import one as decoded

DATABASE = Path(__file__).parents[1] / "data" / "rnndb" / "top.xml"
VARIANTS = ["chip=NEW", "X"]

#: Offset, width, name, access of all registers of the chip NEW.
REGISTERS = """
0x0 4 ID RO, 0x4 4 CTRL RW, 0x8 4 ADDRESS RW, 0xc 4 PAGE RW, 0x10 4 SCALE RW, 0x14 2 MODE RW, 0x16 1 IN RO,
0x16 1 OUT WO, 0x18 8 WIDE RW, 0x20 4 TABLE(4) RW, 0x40 4 SPARSE[0] RW, 0x48 4 SPARSE[1] RW,
0x100 4 UNIT[0].CTL RW, 0x108 2 UNIT[0].[0].X RW, 0x10a 2 UNIT[0].[0].Y RW, 0x10c 2 UNIT[0].[1].X RW,
0x10e 2 UNIT[0].[1].Y RW, 0x110 4 UNIT[0].IN[0] RW, 0x114 4 UNIT[0].IN[1] RW,
0x120 4 UNIT[1].CTL RW, 0x128 2 UNIT[1].[0].X RW, 0x12a 2 UNIT[1].[0].Y RW, 0x12c 2 UNIT[1].[1].X RW,
0x12e 2 UNIT[1].[1].Y RW, 0x130 4 UNIT[1].IN[0] RW, 0x134 4 UNIT[1].IN[1] RW,
0x140 4 UNIT[2].CTL RW, 0x148 2 UNIT[2].[0].X RW, 0x14a 2 UNIT[2].[0].Y RW, 0x14c 2 UNIT[2].[1].X RW,
0x14e 2 UNIT[2].[1].Y RW, 0x150 4 UNIT[2].IN[0] RW, 0x154 4 UNIT[2].IN[1] RW,
0x200 4 ONCE.ONLY_NEW RW, 0x204 4 ONCE.NAMED.R RW,
0x220 4 ONCE.PORT[0].DATA RW, 0x224 1 ONCE.PORT[0].STATUS RW, 0x230 4 ONCE.PORT[1].DATA RW,
0x234 1 ONCE.PORT[1].STATUS RW, 0x280 4 ONCE.INNER RW, 0x300 4 OTHER RW, 0x1000 4 TIMER.COUNT RO
"""


def device(*variants: str) -> Description:
    return load(Wanted(DATABASE, "DEVICE"), variants or VARIANTS)


def names(description: Description) -> list[str]:
    return [each.name for each in description.registers]


def test_all_registers_of_a_variant() -> None:
    found = [
        f"{each.offset:#x} {each.width} {each.name}{f'({each.counts[0]})' if each.counts else ''} {each.access}"
        for each in device().registers
    ]
    assert found == [" ".join(one.split()) for one in REGISTERS.split(",")]


@pytest.mark.parametrize(
    ("variants", "there", "not_there"),
    [
        (["OLD", "X"], {"ID", "OTHER"}, {"ONCE.ONLY_NEW", "TIMER.COUNT", "OTHER_Y"}),
        (["MID", "Y"], {"ID", "OTHER_Y", "TIMER.COUNT"}, {"ONCE.ONLY_NEW", "OTHER"}),
        (["chip=NEWEST", "other=Y"], {"ID"}, {"ONCE.ONLY_NEW", "TIMER.COUNT", "OTHER"}),
    ],
)
def test_variants(variants: list[str], there: set[str], not_there: set[str]) -> None:
    found = set(names(device(*variants)))
    assert there <= found
    assert not found & not_there


@pytest.mark.parametrize(
    ("access", "expected"),
    [
        (("read", 0x0, 0x00030500), ("ID", "REVISION=5 CHIP=NEW")),
        (("write", 0x4, 0x3), ("CTRL", "EN MODE=ON")),
        (("write", 0x4, 0x6), ("CTRL", "MODE=3")),
        (("write", 0x4, 0xF70), ("CTRL", "SUB.A=7 SUB.B=-1")),
        (("write", 0x4, 0x00190000), ("CTRL", "BOTH.LOW=9 BOTH.HIGH=TURBO")),
        (("write", 0x4, 0x71000000), ("CTRL", "SPEED=TURBO GAIN=1.75")),
        (("write", 0x4, 0x00001000), ("CTRL", "?=0x1000")),
        (("write", 0x8, 0x12), ("ADDRESS", "value=0x1200")),
        (("write", 0xC, 0x12), ("PAGE", "value=0x12000")),
        (("write", 0x10, 0x3F000000), ("SCALE", "value=0.5")),
        (("write", 0x14, 0x10, 2), ("MODE", "value=LARGE")),
        (("read", 0x16, 0x1, 1), ("IN", None)),
        (("write", 0x16, 0x1, 1), ("OUT", None)),
        (("write", 0x1C, 0x1), ("WIDE+4", "BASE[39:20]=1")),
        (("write", 0x28, 0x1), ("TABLE[2]", None)),
        (("write", 0x224, 0x53, 1), ("ONCE.PORT[0].STATUS", "BUSY NEW_ERROR LEVEL=5")),
        (("write", 0x280, 0x3), ("ONCE.INNER", "F=THREE")),
    ],
)
def test_values(access: tuple[Any, ...], expected: tuple[str, str | None]) -> None:
    assert decoded(device(), *access) == expected


def test_values_of_another_variant() -> None:
    old = device("OLD", "X")
    assert decoded(old, "read", 0x0, 0x0503) == ("ID", "REVISION=3 ?=0x500")
    assert decoded(old, "write", 0x4, 0x01000000) == ("CTRL", "SPEED=FAST")
    assert decoded(old, "write", 0x224, 0x2, 1) == ("ONCE.PORT[0].STATUS", "OLD_ERROR")


def test_a_domain_of_words() -> None:
    words = load(Wanted(DATABASE, "WORDS"))
    assert [(each.name, each.offset) for each in words.registers] == [("SECOND", 4), ("A[0].R", 0x44), ("A[1].R", 0x4C)]


def failing(path: Path, *variants: str, part: str | None = None) -> str:
    with pytest.raises(MmiotapError) as error:
        load(Wanted(path, part), variants)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_has_to_be_chosen() -> None:
    assert failing(DATABASE).endswith("it has several domains; choose one, top.xml:DOMAIN: DEVICE, WORDS")
    assert "it has no domain 'X' with registers; there are DEVICE, WORDS" in failing(DATABASE, part="X")
    how = "which is there depends on the variant; choose one, as --variant"
    assert failing(DATABASE, "Y", part="DEVICE") == f"{DATABASE}, line 23: OLD_ERROR and NEW_ERROR: {how} chip=NEW"
    assert failing(DATABASE, "MID", part="DEVICE") == f"{DATABASE}, line 91: OTHER and OTHER_Y: {how} other=Y"
    assert failing(DATABASE, "chip=NONE") == "--variant chip=NONE: there is no such enum, or it has no such value"
    assert failing(DATABASE, "none=NEW") == "--variant none=NEW: there is no such enum, or it has no such value"
    assert failing(DATABASE, "NOWHERE") == "--variant NOWHERE: no enum has it"


WRONG = {
    "no XML": ("<database>\n<domain>\n</database>", "line 3: this is no XML: mismatched tag"),
    "empty": ("", "line 1: this is no XML: no element found"),
    "another": ("<html/>", "line 1: <html> is no rnndb; that begins with <database>"),
    "nothing": ("<database/>", "no register is described"),
    "unknown element": ("D<reg31 offset='0' name='A'/>", "line 2: <reg31> cannot stand in <domain>"),
    "unknown field element": (
        "D<reg32 offset='0' name='A'><field/></reg32>",
        "line 2: <field> cannot stand in <reg32>",
    ),
    "no offset": ("D<reg32 name='A'/>", "line 2: <reg32> has no offset"),
    "no number": ("D<reg32 name='A' offset='zero'/>", "line 2: offset='zero' is no number"),
    "no name": ("D<reg32 offset='0'/>", "line 2: <reg32> has no name, and is in nothing that has one"),
    "access": ("D<reg32 name='A' offset='0' access='x'/>", "line 2: access='x' is none of r, w, rw"),
    "overlap": (
        "D<reg32 name='A' offset='0'/>\n<reg32 name='B' offset='2'/>",
        "line 3: Instance 'B' at offset +0x2:0x5 overlaps with 'A' at offset +0x0:0x3",
    ),
    "overlapping fields": (
        "D<reg32 name='A' offset='0'>\n<bitfield low='0' high='4' name='X'/>\n<bitfield pos='4' name='Y'/></reg32>",
        "line 4: Field 'Y[4:4]' overlaps with field 'X[4:0]'",
    ),
    "bits": (
        "D<reg8 name='A' offset='0'>\n<bitfield low='4' high='8' name='X'/></reg8>",
        "line 3: bits 4 to 8 are not in the 8 that there are",
    ),
    "bits reversed": (
        "D<reg8 name='A' offset='0'>\n<bitfield low='4' high='3' name='X'/></reg8>",
        "line 3: low=4 and high=3 are no bits",
    ),
    "no bits": ("D<reg8 name='A' offset='0'>\n<bitfield name='X'/></reg8>", "line 3: <bitfield> has no low"),
    "value": (
        "D<reg8 name='A' offset='0'>\n<bitfield pos='0' name='X'>\n<value value='2' name='V'/></bitfield></reg8>",
        "line 4: value 0x2 does not fit into 1 bits",
    ),
    "type": ("D<reg8 name='A' offset='0' type='none'/>", "line 2: there is no type 'none'"),
    "group": ("D<use-group name='none'/>", "line 2: there is no group 'none'"),
    "recursive group": (
        "D<group name='g'>\n<use-group name='g'/></group><use-group name='g'/>",
        "line 3: group 'g' is used within itself",
    ),
    "recursive type": (
        "D<bitset name='b'><bitfield low='0' high='7' name='X' type='b'/></bitset><reg8 name='A' offset='0' type='b'/>",
        "it is nested too deeply, or within itself",
    ),
    "stride": (
        "D<array name='A' offset='0' length='2'><reg8 name='B' offset='0'/></array>",
        "line 2: <array> of length 2",
    ),
    "length": (
        "D<array name='A' offset='0' stride='4'><reg8 name='B' offset='0'/></array>",
        "line 2: <array> has no length",
    ),
    "many": (
        "D<array name='A' offset='0' stride='4' length='99999999'><reg8 name='B' offset='0'/></array>",
        "line 2: more than 1048576 registers",
    ),
    "variants of nothing": (
        "D<reg8 name='A' offset='0' variants='X'/>",
        "line 2: variants='X', and nothing says of which",
    ),
    "variants of none": (
        "D<reg8 name='A' offset='0' varset='no' variants='X'/>",
        "line 2: variants are values of enum 'no', which is not there",
    ),
    "no variant": (
        "D<enum name='e'><value name='V'/></enum>\n<reg8 name='A' offset='0' varset='e' variants='X'/>",
        "line 3: enum 'e' has no variant 'X'",
    ),
    "width": (
        "<database>\n<domain name='D' width='12'><reg8 name='A' offset='0'/></domain></database>",
        "line 2: the width",
    ),
    "missing import": ("<database>\n<import file='no.xml'/></database>", "line 2: there is no file 'no.xml' to import"),
    "recursive import": ("<database>\n<import file='wrong.xml'/></database>", "line 2: 'wrong.xml' imports itself"),
    "import of nothing": ("<database>\n<import/></database>", "line 2: <import> has no file"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_databases_are_one_line(tmp_path: Path, case: str) -> None:
    content, expected = WRONG[case]
    if content.startswith("D"):
        content = f"<database><domain name='D'>\n{content[1:]}</domain></database>"
    path = tmp_path / "wrong.xml"
    path.write_text(content)
    why = failing(path)
    assert why.startswith(f"{path}, {expected}") or why.startswith(f"{path}: {expected}")


def test_a_wrong_import_is_said_in_its_file(tmp_path: Path) -> None:
    (tmp_path / "top.xml").write_text("<database><import file='a.xml'/></database>")
    (tmp_path / "a.xml").write_text("<database>\n<import file='b.xml'/></database>")
    (tmp_path / "b.xml").write_text("<database>\n\n<import file='a.xml'/></database>")
    assert failing(tmp_path / "top.xml") == f"{tmp_path}/b.xml, line 3: 'a.xml' imports itself"
