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


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("resource0:0x10+4", 0x7F0000000010),
        ("/sys/**:0xfff+4", 0x7F0000000FFF),
        ("3:0+1", 0x7F0000000000),
        ("4:0+1", None),
        ("resource1:0+1", None),
        ("resource0:0x1000+4", None),
    ],
)
def test_a_place_in_a_mapping(text: str, address: int | None) -> None:
    place = parse(text)
    assert isinstance(place, InMapping)
    assert place.address(MAPPING) == address


@pytest.mark.parametrize(("start", "length"), [(0, 0), (-1, 4), (2**64 - 1, 2)])
def test_a_probe_covers_something_that_can_be_there(start: int, length: int) -> None:
    with pytest.raises(MmiotapError, match="at least one byte"):
        Probe(start, length)
