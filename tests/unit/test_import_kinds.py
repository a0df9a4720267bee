"""Logs of other tools: what each becomes, that content tells the kind, and that what is damaged is named."""

import gzip
import io
from pathlib import Path
from typing import Any

import pytest

import mmt
from mmiotap import formats
from mmiotap.formats import importing
from mmiotap.formats.detect import KINDS, import_log
from mmiotap.formats.importing import Imported
from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.reader import open_trace

DATA = Path(__file__).parents[1] / "data"
KVM = b"        CPU 1/KVM-1235    [002] d..1. 11906.220183: kvm_mmio: mmio write len 4 gpa 0xfee000b0 val 0x7\n"
QEMU = b"memory_region_ops_read cpu 0 mr 0x55d1 addr 0xfebc0008 value 0x80080783 size 4 name 'e1000-mmio'\n"
MMIOTRACE = b"R 4 1.000001 1 0xfebc0008 0x1 0x0 0\n"
OWN = '{"kind": "read", "width": 4, "address": 4096, "value": 7}\n'


def load(log: bytes, trace: Path, **options: Any) -> tuple[str, Imported]:
    return import_log(io.BytesIO(log), "some.log", trace, **options)


def rows(trace: Path) -> list[dict[str, Any]]:
    return open_trace(trace).events().to_pylist()


@pytest.mark.parametrize(
    ("log", "kind"),
    [
        ((DATA / "mmiotrace-e1000.log.xz").read_bytes(), "mmiotrace"),
        (b"# tracer: mmiotrace\n#\n", "mmiotrace"),
        ((DATA / "qemu-e1000.log.xz").read_bytes(), "qemu"),
        ((DATA / "kvm-rwmmio.trace.txt").read_bytes(), "ftrace-text"),
        ((DATA / "kvm-rwmmio.perf.txt").read_bytes(), "ftrace-text"),
        (gzip.compress(mmt.LOG), "mmt"),
        ((DATA / "panda.json").read_bytes(), "jsonl"),
        (OWN.encode(), "jsonl"),
    ],
)
def test_content_tells_the_kind(log: bytes, kind: str, tmp_path: Path) -> None:
    assert load(log, tmp_path / "t")[0] == kind
    assert open_trace(tmp_path / "t").info["source"] == kind


@pytest.mark.parametrize(
    "log",
    [
        b"hello\n",
        b"\x7fELF\x02",
        b"==12== valgrind's own text alone\n",
        b"{}\n",
        b"\n" * 5000,
        b"4e44444444444444444444\n",
    ],
)
def test_what_is_of_no_kind(log: bytes, tmp_path: Path) -> None:
    with pytest.raises(MmiotapError, match=r"no kind of log that is known.*--from"):
        load(log, tmp_path / "t")
    assert list(tmp_path.iterdir()) == []


def test_events_of_trace_and_trace_pipe(tmp_path: Path) -> None:
    _, found = load((DATA / "kvm-rwmmio.trace.txt").read_bytes(), tmp_path / "t")
    assert (found.events, found.lost, found.cut) == (7, 998 + 17, None)
    write, _, lost = rows(tmp_path / "t")[:3]
    assert (write["kind"], write["width"], write["offset"], write["value"]) == ("write", 4, 0xFFFFFBFFFDBFF700, 0xA0D5D)
    assert (write["time_ns"], write["cpu"], write["tid"]) == (123_456_789_000, 1, 0)
    assert write["text"] == "__qcom+0x160/0x1e0 [mod]"
    # The header counts what was overwritten before the first event that the log has.
    assert (lost["kind"], lost["value"], lost["time_ns"]) == ("lost", 998, 11_906_220_183_000)
    by_address = {row["offset"]: row for row in rows(tmp_path / "t") if row["kind"] != "lost"}
    read = by_address[0xFFFF8000087447F4]
    assert (read["kind"], read["width"], read["value"], read["pid"], read["tid"]) == ("read", 2, 4, 120, 123)
    assert (read["time_ns"], read["duration_ns"]) == (124 * 10**9, 1000)
    answered, waiting = by_address[0xC0004014], by_address[0xC0004018]
    assert (answered["value"], answered["duration_ns"], answered["flags"]) == (0x74726976, 10_000, 0)
    assert (waiting["value"], waiting["flags"]) == (0, importing.NOT_SAID)
    paths = {mapping.map_id: mapping.path for mapping in open_trace(tmp_path / "t").mappings}
    assert (paths[answered["map_id"]], paths[read["map_id"]]) == ("kvm:guest-physical", "kernel:virtual")


def test_events_of_perf_script(tmp_path: Path) -> None:
    load((DATA / "kvm-rwmmio.perf.txt").read_bytes(), tmp_path / "t")
    first, second, third = rows(tmp_path / "t")
    assert (first["time_ns"], first["width"], first["cpu"]) == (5_678_123_456_789, 1, 1)
    assert (second["pid"], second["tid"], second["offset"]) == (4242, 4244, 0xFE003000)
    assert (third["kind"], third["pid"], third["tid"]) == ("read", 0, 4244)


def test_a_write_that_only_its_second_event_tells_of(tmp_path: Path) -> None:
    head = b"a-1 [000] .... 1.00000%d: "
    call = b"rwmmio_post_write: f+0x0/0x1 width=8 val=0x%x addr=0x10\n"
    before = b"rwmmio_write: f+0x0/0x1 width=8 val=0x1 addr=0x10\n"
    load(head % 1 + before + head % 2 + call % 1 + head % 3 + call % 2, tmp_path / "t")
    assert [(row["kind"], row["value"]) for row in rows(tmp_path / "t")] == [("write", 1), ("write", 2)]


def test_reads_that_never_end_are_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmiotap.formats.paired._MOST_BEGUN", 3)
    line = b"a-1 [000] .... 1.%06d: kvm_mmio: mmio unsatisfied-read len 4 gpa 0x%x val 0x0\n"
    load(b"".join(line % (n, n) for n in range(20)), tmp_path / "t")
    assert [row["offset"] for row in rows(tmp_path / "t")] == list(range(20))


def test_valgrind_mmt(tmp_path: Path) -> None:
    load(mmt.LOG, tmp_path / "t")
    found = rows(tmp_path / "t")
    assert [row["kind"] for row in found] == (
        ["map", "write", "read", "write", "read", "write", "mark", "map", "read", "unmap", "map", "unmap"]
    )
    trace = open_trace(tmp_path / "t")
    assert [(one.map_id, one.path, one.address, one.length, one.prot) for one in trace.mappings] == [
        (1, "/dev/nvidia0", 0x4000_0000, 0x1000, "rw"),
        (2, "/dev/nvidia0", 0x6000_0000, 0x2000, "r"),
        (3, "/dev/nvidia0", 0x6100_0000, 0x4000, "r"),
    ]
    accesses = [
        (row["map_id"], row["offset"], row["width"], row["value"]) for row in found if row["kind"] in ("read", "write")
    ]
    assert accesses == [
        (1, 0x140, 4, 0x04030201),
        (1, 0x10, 1, 0x0A),
        (1, 0x200, 16, 0x0706050403020100),
        (1, 0xABC, 2, 0xEEFF),
        (0, 0x5000_0000, 8, 0x8000_0000_0000_0001),
        (2, 4, 4, 1),
    ]
    assert found[3]["data"] == bytes(range(16))
    assert found[6]["text"] == "a mark"


def test_valgrind_mmt_in_small_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(mmt.LOG, tmp_path / "whole")
    monkeypatch.setattr("mmiotap.formats.mmt._READ", 1)
    monkeypatch.setattr("mmiotap.formats.importing._ROWS", 2)
    load(mmt.LOG, tmp_path / "pieces")
    assert rows(tmp_path / "pieces") == rows(tmp_path / "whole")


def test_our_own_json_comes_back(tmp_path: Path) -> None:
    import_log((DATA / "mmiotrace-e1000.log.xz").open("rb"), "log", tmp_path / "first")
    first = open_trace(tmp_path / "first")
    out = io.BytesIO()
    formats.write("jsonl", first.batches(), first, out)
    assert load(out.getvalue(), tmp_path / "again")[0] == "jsonl"
    again = open_trace(tmp_path / "again")
    assert again.events().equals(first.events())
    assert again.mappings == first.mappings


def test_json_of_panda(tmp_path: Path) -> None:
    load((DATA / "panda.json").read_bytes(), tmp_path / "t")
    read, write = rows(tmp_path / "t")
    assert (read["kind"], read["width"], read["offset"], read["value"], read["pc"]) == (
        "read",
        4,
        0x10009018,
        0x90,
        0xC0001000,
    )
    assert (write["kind"], write["width"], write["offset"], write["value"]) == ("write", 1, 0x10009000, 0x41)
    assert [mapping.path for mapping in open_trace(tmp_path / "t").mappings] == ["pl011"]


def test_json_with_a_mapping_of_fields(tmp_path: Path) -> None:
    fields = {"operation": "kind", "from": "pc", "address": "address", "thread": "tid", "us": "time_us"}
    mapped = {column: f"payload.{name}" for name, column in fields.items()}
    load((DATA / "frida.jsonl").read_bytes(), tmp_path / "t", mapped=mapped)
    read, write = rows(tmp_path / "t")
    assert (read["kind"], read["offset"], read["pc"], read["tid"], read["time_ns"]) == (
        "read",
        0x7F0010,
        0x55D0,
        77,
        12_500,
    )
    assert (write["kind"], write["value"], write["flags"]) == ("write", 0, importing.NOT_SAID)


def test_times_of_json_keep_their_nanoseconds(tmp_path: Path) -> None:
    load(b'{"kind": "w", "value": 1, "time_s": 1700000000.123456789}\n', tmp_path / "t")
    assert rows(tmp_path / "t")[0]["time_ns"] == 1_700_000_000_123_456_789


@pytest.mark.parametrize(
    ("kind", "log", "message"),
    [
        ("ftrace-text", KVM + b"x-1 [0] 1.0: kvm_mmio: mmio write len\n" + KVM, "line 2: 'x-1"),
        ("ftrace-text", KVM.replace(b"len 4", b"len 400") + KVM, "line 1"),
        ("ftrace-text", b"nothing\n" * 3, r"no rwmmio or kvm_mmio event is in it \(3 lines"),
        ("mmt", mmt.LOG + b"?what is this", f"byte {len(mmt.LOG)}: no record"),
        ("mmt", mmt.LOG[:-1] + b"x", "does not end with a newline"),
        ("mmt", b"y" + bytes(8) + b"\xff\xff\xff\xff", "byte 0: no record of valgrind-mmt's binary log: a buffer of"),
        ("mmt", b"r\0\0", "byte 0: it ends within a record"),
        ("jsonl", OWN.encode() + b'{"kind": "read"\n' + OWN.encode(), "line 2: "),
        ("jsonl", b'{"kind": "read", "value": -1}\n', "value is -1 and so beyond"),
        ("jsonl", b'{"kind": "read", "value": "0xzz"}\n', "value is no number: '0xzz'"),
        ("jsonl", b'{"kind": "read", "time_s": 1e999999999}\n', "time_s is no time"),
        ("jsonl", b'{"kind": "read", "time_s": 1e4444444444444444444444}\n', "line 1: .* an exponent that is none"),
        ("jsonl", b'{"kind": "send"}\n', "'send' is neither a read nor a write"),
        ("jsonl", b'{"a": 1}\n', "no field of kind, type, .* says if it is a read or a write"),
        ("jsonl", b"[" * 100_000 + b"\n", "line 1: "),
        ("mmiotrace", b"x" * (3 << 20), "line 1: it has no end within 1 MiB"),
        ("jsonl", OWN.encode() + b"x" * (3 << 20), "line 2: it has no end within 1 MiB"),
    ],
)
def test_what_is_damaged_is_named(kind: str, log: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(MmiotapError, match=f"^some.log.*{message}") as error:
        load(log, tmp_path / "t", kind=kind)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "log", "place"),
    [
        ("ftrace-text", KVM + KVM[:-20], "line 2: the last line"),
        ("mmt", mmt.LOG[:-3], f"byte {len(mmt.LOG) - 46}: the last record"),
        ("jsonl", OWN.encode() + OWN.encode()[:-9], "line 2: the last line"),
    ],
)
def test_a_log_that_is_cut_short_keeps_what_is_whole(kind: str, log: bytes, place: str, tmp_path: Path) -> None:
    _, found = load(log, tmp_path / "t", kind=kind)
    assert found.cut is not None
    assert found.place == place
    assert open_trace(tmp_path / "t").count == found.events > 0


def test_fields_are_for_json_alone(tmp_path: Path) -> None:
    with pytest.raises(MmiotapError, match="--map-field is for JSON lines, and this is rwmmio"):
        load(KVM, tmp_path / "t", mapped={"value": "x"})
    with pytest.raises(MmiotapError, match="--map-field nonsense: there is no such column"):
        load(OWN.encode(), tmp_path / "t", mapped={"nonsense": "x"})


def test_every_kind_says_what_it_is() -> None:
    assert all(name and kind.what for name, kind in KINDS.items())


@pytest.mark.parametrize(
    ("kind", "log", "junk", "accesses"),
    [
        ("ftrace-text", KVM, b"\n", 1),
        ("ftrace-text", KVM, b"something else\n", 1),
        ("jsonl", OWN.encode(), b"\n", 1),
        ("jsonl", OWN.encode(), b" []\n", 1),
        ("qemu", QEMU, b"\n", 1),
        ("qemu", QEMU, b"x\n", 1),
        ("mmiotrace", MMIOTRACE, b"\n", 1),
        ("mmiotrace", MMIOTRACE, b"#\r\n", 1),
        ("mmt", mmt.LOG, b"=\n", 12),
    ],
)
@pytest.mark.timeout(60)
def test_twenty_mebibytes_of_junk(kind: str, log: bytes, junk: bytes, accesses: int, tmp_path: Path) -> None:
    """Lines that say nothing cost next to nothing: a second or so. As many turns of a Python loop take a minute."""
    count = (20 << 20) // len(junk)
    _, found = load(log + count * junk, tmp_path / "t", kind=kind)
    assert found.events == accesses
    assert found.lines == (0 if kind == "mmt" else log.count(b"\n") + count)
