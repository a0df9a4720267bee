"""``mmiotap export --format perfetto``, read back by perfetto's own messages."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent

from conftest import Run
from mmiotap.trace import layout
from synthetic import START, row, write_trace
from test_formats_mmiotrace import FIXTURE


class Opened:
    """What Perfetto's importer makes of a trace: tracks by name, events with their arguments."""

    def __init__(self, path: Path) -> None:
        whole = Trace()
        whole.ParseFromString(path.read_bytes())
        tracks: dict[int, Any] = {}
        names: dict[int, str] = {}
        strings: dict[int, str] = {}
        self.events: list[dict[str, Any]] = []
        self.paths: list[str] = []
        cleared = False
        for packet in whole.packet:
            assert packet.trusted_packet_sequence_id == 1
            cleared |= bool(packet.sequence_flags & 1)
            names |= {one.iid: one.name for one in packet.interned_data.debug_annotation_names}
            strings |= {one.iid: one.str.decode() for one in packet.interned_data.debug_annotation_string_values}
            if packet.HasField("track_descriptor"):
                one = packet.track_descriptor
                assert one.uuid not in tracks
                above = f"{tracks[one.parent_uuid]}/" if one.HasField("parent_uuid") else ""
                tracks[one.uuid] = above + one.name
            if packet.HasField("track_event"):
                event = packet.track_event
                end = event.type == TrackEvent.TYPE_SLICE_END
                # Without its flag a packet may not use what was interned.
                assert end or (cleared and packet.sequence_flags & 2)
                found = {"time": packet.timestamp, "type": event.type, "track": tracks[event.track_uuid]}
                self.events.append(found | {"name": event.name, "categories": list(event.categories)})
                for fact in event.debug_annotations:
                    kind = fact.WhichOneof("value")
                    value = getattr(fact, kind)
                    found = self.events[-1]
                    assert names[fact.name_iid] not in found
                    found[names[fact.name_iid]] = strings[value] if kind == "string_value_iid" else value


@pytest.fixture
def export(mmiotap: Run, tmp_path: Path) -> Any:
    def run(trace: Path, *options: str) -> Opened:
        result = mmiotap("export", trace, "--format", "perfetto", "-o", tmp_path / "out", *options)
        assert (result.status, result.stderr) == (0, "")
        return Opened(tmp_path / "out")

    return run


def test_each_event_on_its_track_with_all_it_says(export: Any, tmp_path: Path) -> None:
    trace = write_trace(
        tmp_path / "t",
        [
            row(0, "map", text='{"map_id": 1}'),
            row(10, "write", 4, 8, 2**32 - 1, pc=0x1234),
            row(20, "read", 8, 0x10, 2**64 - 1, took=5, tid=101),
            row(30, "read", 16, 0x20, 1, data=bytes(range(16)), map_id=2),
            row(40, "write", 4, 8, 0, flags=layout.VALUE_UNKNOWN | layout.LOCKED | 1 << layout.REASON_SHIFT),
            row(50, "mark", text="half «way»\n", map_id=0),
            row(60, "lost", value=7, map_id=0),
            row(70, "unknown", 4, 8, data=b"\x0f\x05"),
        ],
    )
    opened = export(trace)
    device = "0000:00:03.0/1:uio0 BAR 0"
    assert [(one["time"] - START, one["name"], one["track"]) for one in sorted(opened.events, key=_time)] == [
        (0, "map", device),
        (10, "write 0x8", f"{device}/driver 100, thread 100"),
        (20, "read 0x10", f"{device}/driver 100, thread 101"),
        (25, "", f"{device}/driver 100, thread 101"),
        (30, "read 0x20", "anon_inode:[io_uring]/2:[io_uring]/driver 100, thread 100"),
        (40, "write 0x8", f"{device}/driver 100, thread 100"),
        (50, "half «way»\n", "marks"),
        (60, "7 events lost", "lost events"),
        (70, "unknown 0x8", f"{device}/driver 100, thread 100"),
    ]
    _, write, begin, end, wide, unknown, _, lost, _ = sorted(opened.events, key=_time)
    assert (write["value"], write["offset"], write["width"], write["code"]) == (2**32 - 1, 8, 4, "0x1234")
    assert (begin["type"], end["type"]) == (TrackEvent.TYPE_SLICE_BEGIN, TrackEvent.TYPE_SLICE_END)
    assert begin["value"] == 2**64 - 1
    assert "value" not in wide
    assert wide["data"] == "00010203 04050607 08090a0b 0c0d0e0f"
    assert "value" not in unknown
    assert unknown["flags"] == "locked, value unknown: this locked instruction does not return it"
    assert lost["count"] == 7


def test_a_real_log_with_names(mmiotap: Run, export: Any, tmp_path: Path) -> None:
    assert mmiotap("import", FIXTURE, "-o", tmp_path / "t").status == 0
    assert mmiotap("export", tmp_path / "t", "--format", "jsonl", "--regs", "e1000", "-o", tmp_path / "j").status == 0
    rows = [json.loads(line) for line in (tmp_path / "j").read_text().splitlines()]
    accesses = [one for one in rows if one["kind"] in ("read", "write")]
    opened = export(tmp_path / "t", "--regs", "e1000")
    found = [one for one in opened.events if one["categories"][0] in ("read", "write")]
    assert [(one["time"], one["name"], one["value"], one.get("fields", "")) for one in found] == [
        (one["time_ns"], f"{one['kind']} {one['register'] or hex(one['offset'])}", one["value"], one["fields"] or "")
        for one in accesses
    ]
    assert len(opened.events) == len(rows)
    assert Counter(one["name"] for one in found)["read STATUS"] > 1


def test_times_before_zero_are_moved(export: Any, tmp_path: Path) -> None:
    opened = export(write_trace(tmp_path / "t", [row(-START - 5, "read", 4), row(-START, "read", 4)]))
    assert [one["time"] for one in opened.events] == [0, 5]


def test_a_trace_of_nothing(export: Any, tmp_path: Path) -> None:
    assert export(write_trace(tmp_path / "t", [])).events == []


def _time(event: dict[str, Any]) -> int:
    time: int = event["time"]
    return time
