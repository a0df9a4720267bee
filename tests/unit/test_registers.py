"""Registers: one model, and events decoded by it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mmiotap.registers import rdl, tree
from mmiotap.registers.decode import Binding, Decoder
from mmiotap.registers.model import FORMS, Description, Field, Register
from mmiotap.registers.text import hexadecimal, shown
from mmiotap.trace import layout
from mmiotap.trace.schema import EVENTS
from synthetic import row

EXAMPLE = """
addrmap device {
    default regwidth = 32;
    enum speed { SLOW = 2'd0; FAST = 2'd2; };
    reg {
        field {} EN[0:0];
        field { encode = speed; } SPEED[3:2];
        field {} COUNT[15:8];
        field { sw = r; onread = rclr; } DONE[16:16];
        field { onwrite = woclr; } ERROR[17:17];
    } CTRL @0x0;
    reg { regwidth = 64; field {} ENABLE[0:0]; field {} BASE[63:12]; } ADDRESS @0x8;
    reg { field { sw = r; } RECEIVED[7:0]; field { sw = w; } SENT[7:0]; } FIFO @0x10;
    reg { field { sw = r; } LEVEL[7:0]; } LEVEL @0x14;
    reg { field { sw = w; } KICK[0:0]; } KICK @0x14;
    regfile { reg { field {} LOW[31:0]; } LOW; reg { field {} HIGH[15:0]; } HIGH; } PAIR[3] @0x20;
    reg { field {} D[31:0]; } TABLE[4][8] @0x100;
    reg { field {} D[31:0]; } SPARSE[2] @0x200 += 0x10;
    external mem { mementries = 16; memwidth = 32; } BUFFER @0x300;
};
"""


@pytest.fixture
def description(tmp_path: Path) -> Description:
    (tmp_path / "device.rdl").write_text(EXAMPLE)
    return rdl.read(tmp_path / "device.rdl", None)


def decoded(description: Description, *rows: dict[str, Any], base: int = 0) -> list[tuple[str | None, str | None]]:
    decoder = Decoder([Binding(description, 1, base)])
    [table] = decoder.named([pa.Table.from_pylist(list(rows), schema=EVENTS)])
    return list(zip(table["register"].to_pylist(), table["fields"].to_pylist(), strict=True))


def one(description: Description, kind: str, offset: int, value: int = 0, width: int = 4, **more: Any) -> Any:
    return decoded(description, row(0, kind, width, offset, value, **more))[0]


def test_flat(description: Description) -> None:
    found = [(each.name, each.offset, each.width, each.counts, each.access) for each in description.registers]
    assert found == [
        ("CTRL", 0x0, 4, (), "RW"),
        ("ADDRESS", 0x8, 8, (), "RW"),
        ("FIFO", 0x10, 4, (), "RW"),
        ("LEVEL", 0x14, 4, (), "RO"),
        ("KICK", 0x14, 4, (), "WO"),
        ("PAIR[0].LOW", 0x20, 4, (), "RW"),
        ("PAIR[0].HIGH", 0x24, 4, (), "RW"),
        ("PAIR[1].LOW", 0x28, 4, (), "RW"),
        ("PAIR[1].HIGH", 0x2C, 4, (), "RW"),
        ("PAIR[2].LOW", 0x30, 4, (), "RW"),
        ("PAIR[2].HIGH", 0x34, 4, (), "RW"),
        ("TABLE", 0x100, 4, (4, 8), "RW"),
        ("SPARSE[0]", 0x200, 4, (), "RW"),
        ("SPARSE[1]", 0x210, 4, (), "RW"),
        ("BUFFER", 0x300, 4, (16,), "RW"),
    ]
    assert description.registers[0].fields == (
        Field("EN", 0, 1),
        Field("SPEED", 2, 2, "RW", {0: "SLOW", 2: "FAST"}),
        Field("COUNT", 8, 8),
        Field("DONE", 16, 1, "RC"),
        Field("ERROR", 17, 1, "W1C"),
    )


def test_a_description_survives_json(description: Description) -> None:
    assert Description.from_json(json.loads(json.dumps(description.to_json()))) == description


def test_a_description_survives_the_tree(description: Description) -> None:
    """What other readers describe becomes a tree of systemrdl-compiler's, and is flattened from that."""
    again = tree.describe("device.rdl", "device.rdl", description.registers)
    assert again == description


@pytest.mark.parametrize(
    ("access", "expected"),
    [
        (("write", 0x0, 0x1), ("CTRL", "EN")),
        (("write", 0x0, 0x0), ("CTRL", None)),
        (("read", 0x0, 0x3F09), ("CTRL", "EN SPEED=FAST COUNT=0x3f")),
        (("read", 0x0, 0x4), ("CTRL", "SPEED=1")),  # a value without a name
        (("write", 0x0, 0x30900), ("CTRL", "COUNT=9 DONE ERROR")),
        (("write", 0x0, 0x80040002), ("CTRL", "?=0x80040002")),
        (("write", 0x0, 0x80000001), ("CTRL", "EN ?=0x80000000")),
        (("read", 0x1, 0xFF, 1), ("CTRL+1", "COUNT=0xff")),
        (("read", 0x1, 0xFF1, 2), ("CTRL+1", "COUNT=0xf1 DONE ERROR ?=0xc00")),
        (("read", 0x8, 0x1234567890001, 8), ("ADDRESS", "ENABLE BASE=0x1234567890")),
        (("write", 0x8, 0x67890001), ("ADDRESS", "ENABLE BASE[19:0]=0x67890")),
        (("write", 0xC, 0x12345), ("ADDRESS+4", "BASE[51:20]=0x12345")),
        (("read", 0x10, 0x41), ("FIFO", "RECEIVED=0x41")),
        (("write", 0x10, 0x41), ("FIFO", "SENT=0x41")),
        (("read", 0x14, 0x41), ("LEVEL", "LEVEL=0x41")),
        (("write", 0x14, 0x1), ("KICK", "KICK")),
        (("write", 0x28, 0x41), ("PAIR[1].LOW", None)),  # one field, which is the whole register
        (("write", 0x2C, 0x41), ("PAIR[1].HIGH", "HIGH=0x41")),
        (("write", 0x28, 0x4100000007, 8), ("PAIR[1].LOW,PAIR[1].HIGH", "HIGH=0x41")),
        (("write", 0x100, 0x1), ("TABLE[0][0]", None)),
        (("write", 0x124, 0x1), ("TABLE[1][1]", None)),
        (("write", 0x17C, 0x1), ("TABLE[3][7]", None)),
        (("write", 0x180, 0x1), (None, None)),
        (("read", 0x4, 0x1), (None, None)),
        (("read", 0x4, 0x1 << 32, 8), ("ADDRESS", "ENABLE")),  # begins before it
        (("read", 0x210, 0x1), ("SPARSE[1]", None)),
        (("read", 0x208, 0x1), (None, None)),
        (("read", 0x33C, 0x1), ("BUFFER[15]", None)),
        (("read", 0xFFFFFFFFFFFFFFFF, 0x1, 8), (None, None)),
    ],
)
def test_accesses(description: Description, access: tuple[Any, ...], expected: tuple[str | None, str | None]) -> None:
    assert one(description, *access) == expected


def test_wide_accesses_name_all_that_they_touch(description: Description) -> None:
    data = bytes(range(16))
    names = "PAIR[0].LOW,PAIR[0].HIGH,PAIR[1].LOW,PAIR[1].HIGH"
    value = int.from_bytes(data[:8], "little")
    expected = (names, "HIGH=0x504 ?=0x706000000000000")
    assert one(description, "write", 0x20, value, 16, data=data) == expected


def test_what_is_no_access_and_what_has_no_value(description: Description) -> None:
    flags = layout.VALUE_UNKNOWN | layout.REASON_LOCKED << layout.REASON_SHIFT
    assert decoded(
        description,
        row(0, "mark", text="x"),
        row(0, "unknown", 4, 0, data=b"\x90"),
        row(0, "write", 4, 0, 0x1, flags=flags),
        row(0, "write", 4, 0, 0x1),
        row(0, "write", 4, 0, 0x1, map_id=2),
    ) == [(None, None), ("CTRL", None), ("CTRL", None), ("CTRL", "EN"), (None, None)]


def test_a_description_begins_where_it_is_said(description: Description) -> None:
    assert decoded(description, row(0, "read", 4, 0x1008), base=0x1000) == [("ADDRESS", None)]
    assert decoded(description, row(0, "read", 4, 0x8), base=0x1000) == [(None, None)]
    assert decoded(description, row(0, "read", 4, 0x4), base=-0x10) == [("LEVEL", None)]


def test_the_first_description_of_a_place_is_right(description: Description) -> None:
    other = Description("other", (Register("OTHER", 0x4, 4), Register("NEVER", 0x8, 4)))
    decoder = Decoder([Binding(description, 1, 0), Binding(other, 1, 0)])
    table = pa.Table.from_pylist([row(0, "read", 4, offset) for offset in (0, 4, 8)], schema=EVENTS)
    assert decoder.decode(table).register.to_pylist() == ["CTRL", "OTHER", "ADDRESS"]


def test_many_mappings_and_many_chunks(description: Description) -> None:
    other = Description("other", (Register("OTHER", 0, 4),))
    decoder = Decoder([Binding(description, 1, 0), Binding(other, 2, 0), Binding(description, 3, 0x100)])
    parts = [pa.Table.from_pylist([row(0, kind, 4, 0x100, 1, map_id=id)], schema=EVENTS) for kind, id in
             (("read", 1), ("mark", 0), ("write", 3), ("write", 2))]  # fmt: skip
    assert decoder.decode(pa.concat_tables(parts)).register.to_pylist() == ["TABLE[0][0]", None, "CTRL", None]
    assert decoder.decode(parts[0].slice(0, 0)).register.to_pylist() == []


def test_forms() -> None:
    fields = (
        Field("F", 0, 32, form="float"),
        Field("I", 32, 8, form="int"),
        Field("U", 40, 8, form="uint"),
        Field("X", 48, 8, form="fixed", radix=4),
        Field("S", 56, 8, shift=12),
    )
    value = 0x40490FDB | 0xFE << 32 | 200 << 40 | 0xE8 << 48 | 0x12 << 56
    description = Description("x", (Register("R", 0, 8, fields=fields),))
    (name, text) = one(description, "read", 0, value, 8)
    assert (name, text) == ("R", "F=3.1415927410125732 I=-2 U=200 X=-1.5 S=0x12000")
    assert len(FORMS) == 7


def test_numbers_as_text() -> None:
    numbers = [0, 1, 9, 10, 15, 16, 255, 256, 2**32 - 1, 2**32, 2**63, 2**64 - 1]
    expected = [str(number) if number < 10 else hex(number) for number in numbers]
    assert hexadecimal(np.array(numbers, np.uint64)).to_pylist() == expected
    half = shown(np.array([0x3C00], np.uint64), *(np.array([x]) for x in (16, FORMS.index("float"), 0, 0)))
    assert half.to_pylist() == ["1"]


def test_a_register_of_sixteen_bytes(tmp_path: Path) -> None:
    (tmp_path / "wide.rdl").write_text(
        "addrmap wide { reg { regwidth = 128; field {} LOW[7:0]; field {} MID[71:60]; field {} TOP[127:120]; } R @0; };"
    )
    wide = rdl.read(tmp_path / "wide.rdl", None)
    assert one(wide, "read", 0x0, 0x9000000000000105, 8) == ("R", "LOW=5 MID[3:0]=9 ?=0x100")
    assert one(wide, "read", 0x8, 0x55000000000000AB, 8) == ("R+8", "MID[11:4]=0xab TOP=0x55")
    assert one(wide, "read", 0xF, 0x55, 1) == ("R+15", "TOP=0x55")


def any_description(random: np.random.Generator) -> Description:
    """Registers of all widths, arrays, gaps, some only for reading or writing; fields of all places."""
    registers, offset = [], int(random.integers(0, 8))
    for number in range(int(random.integers(1, 12))):
        width = int(random.choice([1, 2, 4, 8]))
        counts = tuple(random.integers(1, 4, random.choice([0, 0, 1, 2])).tolist())
        access = str(random.choice(["RO", "WO", "RW", "RW", "RW"]))
        fields, bit = [], int(random.integers(0, 3))
        while bit < 8 * width and random.random() < 0.8:
            bits = int(random.integers(1, 8 * width - bit + 1))
            values = {3: "THREE", 1: "ONE"} if random.random() < 0.3 else {}
            fields.append(Field(f"F{bit}", bit, bits, access, values, shift=int(random.choice([0, 0, 4]))))
            bit += bits + int(random.integers(0, 4))
        one = Register(f"R{number}", offset, width, counts, tuple(fields), access)
        registers.append(one)
        offset = one.end + int(random.choice([0, 0, 1, 5]))
    return Description("any", tuple(registers))


def said_plainly(description: Description, offset: int, width: int, value: int) -> tuple[str | None, str | None]:
    """The same as the decoder, one bit after the other."""
    names, texts, rest = [], [], 0
    for register in description.registers:
        for element in range(register.elements):
            begin = register.offset + element * register.width
            if begin >= offset + width or begin + register.width <= offset:
                continue
            indexes: list[str] = []
            below = element
            for count in reversed(register.counts):
                below, index = divmod(below, count)
                indexes.insert(0, f"[{index}]")
            within = f"+{offset - begin}" if offset > begin else ""
            names.append(f"{register.name}{''.join(indexes)}{within}")
            bits = {  # of the register: of the access
                bit: bit + 8 * (begin - offset)
                for bit in range(8 * register.width)
                if 0 <= bit + 8 * (begin - offset) < min(8 * width, 64)
            }
            for field in register.fields:
                mine = [bit for bit in range(field.lsb, field.lsb + field.width) if bit in bits]
                number = sum((value >> bits[bit] & 1) << place for place, bit in enumerate(mine))
                name = field.values.get(number) if len(mine) == field.width else None
                plain = field.width == 8 * register.width and not field.shift
                if not number or (plain and not name):
                    continue
                part = len(mine) != field.width
                label = f"{field.name}[{mine[-1] - field.lsb}:{mine[0] - field.lsb}]" if part else field.name
                shown = number << (0 if part else field.shift) & 2**64 - 1
                text = name or (str(shown) if shown < 10 else hex(shown))
                texts.append(label if field.width == 1 and not name else f"{label}={text}")
            covered = {bit for field in register.fields for bit in range(field.lsb, field.lsb + field.width)}
            if register.fields:
                rest |= sum(value & 1 << place for bit, place in bits.items() if bit not in covered)
    if rest:
        texts.append(f"?={rest if rest < 10 else hex(rest)}")
    return ",".join(names) or None, " ".join(texts) or None


@pytest.mark.parametrize("seed", range(40))
def test_decoding_says_what_a_plain_loop_says(seed: int) -> None:
    random = np.random.default_rng(seed)
    description = any_description(random)
    last = description.registers[-1].end
    rows = [
        row(0, str(random.choice(["read", "write"])), width, int(random.integers(0, last + 4)), value)
        for width in (1, 2, 4, 8, 16)
        for value in [int(random.integers(0, 2 ** min(8 * width, 64), dtype=np.uint64)) for _ in range(20)]
    ]
    expected = [said_plainly(description, one["offset"], one["width"], one["value"]) for one in rows]
    assert decoded(description, *rows) == expected
