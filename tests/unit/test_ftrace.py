"""Pages of a kernel's ring buffer, against what the same kernel printed of them, and against a writer of pages."""

import lzma
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmiotap.formats import mmiotrace
from mmiotap.formats.ftrace import pages
from mmiotap.formats.ftrace.events import NAMES, NOT_COUNTED, Decoder
from mmiotap.formats.ftrace.fields import Formats, PageLayout
from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.reader import open_trace

DATA = Path(__file__).parent.parent / "data"
LAYOUT = PageLayout(timestamp=0, commit=8, data=16, size=4096)


def formats() -> Formats:
    """Those of the kernel that made the pages."""
    texts = (DATA / "ftrace-formats.txt").read_text().split("name: ")
    return Formats.parse(texts[0], [f"name: {text}" for text in texts[1:]])


def recorded() -> bytes:
    return lzma.decompress((DATA / "ftrace-e1000.raw.xz").read_bytes())


def kernel_text() -> list[str]:
    """The same events as /sys/kernel/tracing/trace showed them before the pages were read."""
    lines = lzma.decompress((DATA / "ftrace-e1000.txt.xz").read_bytes()).decode().splitlines()
    return [line for line in lines if not line.startswith("#")]


def test_pages_say_what_the_kernel_prints(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("\n".join(kernel_text()) + "\n")
    with log.open("rb") as raw:
        mmiotrace.import_log(raw, "log", tmp_path / "text.mmiotap")
    text = open_trace(tmp_path / "text.mmiotap").events().to_pylist()
    rows = Decoder(formats()).table([(0, recorded())], "pages").to_pylist()
    assert len(rows) == len(text) == 11955
    for row, line in zip(rows, text, strict=True):
        # The kernel rounds to microseconds, and prints no task.
        assert (row["time_ns"] + 500) // 1000 * 1000 == line["time_ns"]
        for name in ("kind", "width", "map_id", "offset", "value", "data", "pc", "flags"):
            assert row[name] == line[name], (row, line)
        assert row["cpu"] == 0
    assert len({row["tid"] for row in rows}) == 3  # the shell that marks, modprobe and ip
    assert [row["text"] for row in rows if row["kind"] == "mark"] == ["hello world", "no newline"]


def test_mappings_are_found() -> None:
    decoder = Decoder(formats())
    decoder.table([(0, recorded())], "pages")
    (mapping,) = decoder.mappings
    assert (mapping.map_id, mapping.physical, mapping.length) == (1, 0xFEBA0000, 0x20000)


def test_pages_may_come_one_by_one() -> None:
    data = recorded()
    whole = Decoder(formats()).table([(0, data)], "pages").to_pylist()
    decoder, rows = Decoder(formats()), []
    for start in range(0, len(data), LAYOUT.size):
        rows += decoder.table([(0, data[start : start + LAYOUT.size])], "pages").to_pylist()
    assert rows == whole


def page(records: bytes, time_ns: int = 1000, flags: int = 0, behind: bytes = b"") -> bytes:
    return (struct.pack("<QQ", time_ns, len(records) | flags) + records + behind).ljust(LAYOUT.size, b"\0")


def record(payload: bytes, delta: int = 0) -> bytes:
    payload += bytes(-len(payload) % 4)
    if len(payload) > 112:
        return struct.pack("<II", delta << 5, len(payload) + 4) + payload
    return struct.pack("<I", delta << 5 | len(payload) // 4) + payload


def access(value: int, opcode: int = 1, width: int = 4) -> bytes:
    return struct.pack("<HBBiQQQiBB2x", 7, 0, 0, 5, 0xF000, value, 0, 1, opcode, width)


def mark(text: str) -> bytes:
    return struct.pack("<HBBiQ", 5, 0, 0, 5, 0) + text.encode() + b"\n\0"


def rows(*data: bytes) -> list[dict[str, Any]]:
    decoder = Decoder(formats())
    return decoder.table([(cpu, one) for cpu, one in enumerate(data)], "pages").to_pylist()


def test_times_add_up() -> None:
    extend = struct.pack("<II", 3 << 5 | 30, 2)  # 2 * 2**27 + 3
    stamp = struct.pack("<II", 9 << 5 | 31, 1 << 10)  # the time itself
    gone = struct.pack("<II8x", 4 << 5 | 29, 12)  # a record that was taken back
    data = (
        record(access(1), 5) + extend + record(access(2), 1) + gone + record(access(3)) + stamp + record(access(4), 1)
    )
    assert [row["time_ns"] for row in rows(page(data))] == [1005, 1009 + (2 << 27), 1013 + (2 << 27), 10 + (1 << 37)]


@given(
    st.lists(st.lists(st.sampled_from([4, 8, 12, 120, None]), max_size=12), min_size=1, max_size=6), st.integers(0, 3)
)
@settings(deadline=None)
def test_records_are_found_whatever_their_lengths(lengths: list[list[int | None]], many: int) -> None:
    """Long runs of one length, cut short anywhere by another, or by time that has no record."""
    data, starts, times = b"", [], []
    for number, page_lengths in enumerate(lengths):
        inside, clock = b"", 1000 * number
        for length in [*[8] * 50 * many, *page_lengths, *[8] * 20 * many]:
            if length is None:
                inside += struct.pack("<II", 2 << 5 | 30, 0)
                clock += 2
            else:
                one = record(bytes(length), 1)
                clock += 1
                starts.append(len(data) + 16 + len(inside) + len(one) - length)
                times.append(clock)
                inside += one
        data += page(inside, 1000 * number)
    found = pages.read(data, LAYOUT, "pages")
    assert (found.start.tolist(), found.time_ns.tolist()) == (starts, times)


def test_an_absolute_time_has_its_top_bits_from_the_page() -> None:
    late = 0x08 << 56
    (row,) = rows(page(struct.pack("<II", 9 << 5 | 31, 1 << 10) + record(access(4)), late))
    assert row["time_ns"] == late + 9 + (1 << 37)


def test_the_rest_of_a_page_is_padding() -> None:
    assert len(rows(page(record(access(1)) + struct.pack("<I", 29) + b"\xff" * 40))) == 1


def test_a_long_mark_is_whole() -> None:
    text = "long " * 50
    assert [row["text"] for row in rows(page(record(mark(text))))] == [text]


def test_losses_are_before_the_page_that_says_so() -> None:
    counted = page(record(access(2), 1), 2000, 3 << 30, struct.pack("<Q", 12345))
    uncounted = page(record(access(3), 1), 3000, 1 << 31)
    got = rows(page(record(access(1))) + counted + uncounted)
    assert [row["kind"] for row in got] == ["read", "lost", "read", "lost", "read"]
    assert [(row["value"], row["text"], row["cpu"]) for row in got if row["kind"] == "lost"] == [
        (12345, None, 0),
        (0, NOT_COUNTED, 0),
    ]


def test_cpus_are_one_row_of_events() -> None:
    first = page(record(access(1)) + record(access(3), 20), 1000)
    second = page(record(access(2), 10), 1000)
    assert [(row["value"], row["cpu"]) for row in rows(first, second)] == [(1, 0), (2, 1), (3, 0)]


def test_an_instruction_that_was_not_understood_is_unknown() -> None:
    (row,) = rows(page(record(access(0x0F_AE_F0, opcode=5, width=0))))
    assert (row["kind"], row["data"], row["value"], row["offset"]) == ("unknown", b"\x0f\xae\xf0", 0, 0xF000)


def test_values_are_masked_to_their_width() -> None:
    assert [row["value"] for row in rows(page(record(access(0xFFFF_FF80, width=1))))] == [0x80]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (bytes(5000), "byte 4096: the last page is cut short"),
        (bytes(4096) + struct.pack("<QQ4080x", 0, 4084), "byte 4104: a page that says it holds more"),
        (page(struct.pack("<I", 20)), "byte 16: a record that is longer than its page"),
        (page(record(access(1)) + struct.pack("<II", 0, 0)), "byte 60: a record that is longer than its page"),
    ],
)
def test_damage_is_named_by_its_place(data: bytes, message: str) -> None:
    with pytest.raises(MmiotapError, match=f"^pages, {message}"):
        pages.read(data, LAYOUT, "pages")


@given(st.binary(max_size=2000), st.integers(0, 4080))
@settings(deadline=None)
def test_arbitrary_pages_end_in_rows_or_a_message(data: bytes, used: int) -> None:
    one = struct.pack("<QQ", 0, used) + data.ljust(4080, b"\x07")
    try:
        table = Decoder(formats()).table([(0, one)], "pages")
    except MmiotapError as error:
        assert "byte" in str(error)  # noqa: PT017
    else:
        table.validate(full=True)


def test_fields_are_where_the_kernel_says() -> None:
    text = (DATA / "ftrace-formats.txt").read_text().replace("offset:37;", "offset:38;")
    texts = text.split("name: ")
    moved = Formats.parse(texts[0], [f"name: {text}" for text in texts[1:]])
    payload = access(1, width=0)[:38] + b"\2" + access(1)[39:]
    (row,) = Decoder(moved).table([(0, page(record(payload)))], "pages").to_pylist()
    assert row["width"] == 2


def test_a_kernel_without_mmiotrace_is_named() -> None:
    known = formats()
    with pytest.raises(MmiotapError, match="CONFIG_MMIOTRACE"):
        Decoder(Formats(known.page, {"print": known.events["print"]}))
    assert set(known.events) == set(NAMES)
