"""Where a probe shall be, as users write it."""

import pytest

from mmiotap.kmmio.place import AtAddress, InMapping, parse
from mmiotap.kmmio.probe import Probe
from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.model import Mapping

MAPPING = Mapping(3, 1, "/sys/bus/pci/devices/0000:00:04.0/resource0", 0x7F0000000000, 0x1000, 0, "rw")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("/dev/uio0:0x10+4", InMapping("/dev/uio0", 0x10, 4)),
        ("**/resource0:0+0x1000", InMapping("**/resource0", 0, 0x1000)),
        ("/sys/bus/pci/devices/0000:00:04.0/resource0:8+8", InMapping(MAPPING.path, 8, 8)),
        ("3:8+8", InMapping("3", 8, 8)),
        ("0x7f0000001000+64", AtAddress(0x7F0000001000, 64)),
    ],
)
def test_places(text: str, place: InMapping | AtAddress) -> None:
    assert parse(text) == place


@pytest.mark.parametrize("text", ["", "x", "a:1", "+4", "4+", ":1+2", "a:-1+2", "a:1+0", "a:1+-1", "a:x+1", "1+2+3"])
def test_what_is_none(text: str) -> None:
    with pytest.raises(MmiotapError, match="is no place for a probe: MAP:OFFSET"):
        parse(text)


BASE = MAPPING.address


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("**/resource0:0x10+4", range(BASE + 0x10, BASE + 0x14)),
        ("/sys/**:0xfff+4", range(BASE + 0xFFF, BASE + 0x1000)),
        ("3:0+1", range(BASE, BASE + 1)),
        ("4:0+1", range(0)),
        ("resource0:0+1", range(0)),
        ("**/resource1:0+1", range(0)),
        ("**/resource0:0x1000+4", range(0)),
        ("0x7f0000000ffe+4", range(BASE + 0xFFE, BASE + 0x1000)),
        ("0x7efffffffffe+4", range(BASE, BASE + 2)),
        ("0x7f0000001000+4", range(0)),
        ("0x7efffffffffc+4", range(0)),
    ],
)
def test_where_that_is_in_a_mapping(text: str, span: range) -> None:
    assert parse(text).span(MAPPING) == span


@pytest.mark.parametrize(("start", "length"), [(0, 0), (-1, 4), (2**64 - 1, 2)])
def test_a_probe_covers_something_that_can_be_there(start: int, length: int) -> None:
    with pytest.raises(MmiotapError, match="at least one byte"):
        Probe(start, length)
