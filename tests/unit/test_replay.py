"""What a replay script says of that which it cannot replay, and what it does not choke on."""

import subprocess
from pathlib import Path

import pytest

from conftest import Compile, Run
from mmiotap.trace import layout
from mmiotap.trace.model import Mapping
from synthetic import row, write_trace

PORTS = Mapping(3, 100, "ioports:e1000-io", 0, 0x40, 0, "rw")
ODD = Mapping(4, 100, '/tmp/a"b\\*/\nc', 0, 0x1000, 0x3000, "rw")


@pytest.mark.parametrize("language", ["c", "python"])
def test_what_cannot_be_replayed_is_told_in_its_place(
    mmiotap: Run, compile_c: Compile, tmp_path: Path, language: str
) -> None:
    rows = [
        row(0, "write", 4, 0, 7, map_id=4),
        row(10, "write", 4, 8, 0, flags=layout.VALUE_UNKNOWN, map_id=4),
        row(20, "lost", value=33, map_id=0),
        row(30, "write", 4, 4, 1, map_id=3),
        row(40, "write", 4, 4, 1, map_id=9),
        row(50, "unknown", 0, 4, 0, map_id=4),
        row(60, "write", 4, 0xFFE, 1, map_id=4),
        row(70, "write", 4, 0, 8, flags=layout.HOOKED, map_id=4),
        row(9_000_000, "mark", text="*/ abort(); /*\nabort();\\", map_id=0),
    ]
    trace = write_trace(tmp_path / "t", rows, mappings=[PORTS, ODD])
    result = mmiotap("export", trace, "--format", language, "-o", tmp_path / "script")
    assert result.status == 0
    assert result.stderr == "mmiotap: 6 cannot be replayed: look for NOT REPLAYED in the script\n"
    text = (tmp_path / "script").read_text()
    left = [line.partition("NOT REPLAYED: ")[2].removesuffix(" */") for line in text.splitlines()]
    assert [line for line in left if line] == [
        "a write of 4 bytes to 0x8 of mapping 4, whose value is not known",
        "33 events were lost here",
        "a write of 4 bytes to 0x4 of mapping 3, which is no memory but ports",
        "a write of 4 bytes to 0x4 of mapping 9, of which nothing else is known",
        "an instruction at 0x00004 of mapping 4, which may have written",
        "a write of 4 bytes to 0xffe of mapping 4, which is only 0x1000 long",
    ]
    assert "8.9 ms later" in text or "9.0 ms later" in text
    (tmp_path / "device").write_bytes(bytes(0x4000))
    if language == "c":
        command: list[str | Path] = [compile_c(text, "replay", "-Wall", "-Wextra", "-Werror")]
    else:
        command = ["python3", tmp_path / "script"]
    done = subprocess.run([*command, tmp_path / "device"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "replay: 2 writes made, 6 things not replayed\n")
    assert (tmp_path / "device").read_bytes()[0x3000:0x3008] == bytes([8, 0, 0, 0, 0, 0, 0, 0])


@pytest.mark.parametrize("language", ["c", "python"])
def test_registers_are_named(mmiotap: Run, tmp_path: Path, language: str) -> None:
    trace = write_trace(tmp_path / "t", [row(0, "write", 4, 0, 0x04000000)])
    text = mmiotap("export", trace, "--format", language, "--regs", "e1000@uio0").stdout

    mark = "#" if language == "python" else "/*"
    line = next(line for line in text.splitlines() if "0x04000000" in line)
    assert f"{mark} CTRL RST" in line


@pytest.mark.parametrize("language", ["c", "python"])
def test_nothing_to_replay(mmiotap: Run, compile_c: Compile, tmp_path: Path, language: str) -> None:
    text = mmiotap("export", write_trace(tmp_path / "t", []), "--format", language).stdout
    (tmp_path / "script").write_text(text)
    command: list[str | Path] = (
        [compile_c(text, "replay", "-Wall", "-Werror")] if language == "c" else ["python3", tmp_path / "script"]
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "replay: 0 writes made, 0 things not replayed\n")


def test_only_repeated_reads_are_waits(mmiotap: Run, tmp_path: Path) -> None:
    """The read of a read-modify-write belongs to its write, and other threads do not end a loop."""
    rows = [
        row(0, "read", 4, 8, 0, tid=1),
        row(1, "write", 4, 0, 1, tid=2),
        row(2, "read", 4, 8, 3, tid=1),
        row(3, "read", 4, 8, 3, tid=1, flags=layout.RMW),
        row(4, "write", 4, 8, 4, tid=1, flags=layout.RMW),
        row(5, "read", 4, 12, 9, tid=1),
        row(6, "write", 4, 12, 9, tid=1),
    ]
    text = mmiotap("export", write_trace(tmp_path / "t", rows), "--format", "c", "--no-regs").stdout
    body = text[text.index("static void part_1") : text.index("static inline mapping")]
    assert [line.strip() for line in body.splitlines() if line.startswith("    ")] == [
        "w32(map1, 0x00000, 0x00000001);",
        "/* wait: map1 0x00008 was read 2 times, until 0x00000003 */",
        "w32(map1, 0x00008, 0x00000004);",
        "w32(map1, 0x0000c, 0x00000009);",
    ]


def test_a_filter_chooses_what_is_replayed(mmiotap: Run, tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "t", [row(0, "write", 4, 0, 1), row(1, "write", 4, 8, 2)])
    for language in ("c", "python", "perfetto"):
        result = mmiotap("export", trace, "--format", language, "--filter", "offset == 8", "-o", tmp_path / language)
        assert (result.status, result.stderr) == (0, "")
    assert "w32(map1, 0x00008, 0x00000002)" in (tmp_path / "python").read_text()
    assert "0x00000001" not in (tmp_path / "c").read_text()
    assert b"write 0x0" not in (tmp_path / "perfetto").read_bytes()
    assert b"write 0x8" in (tmp_path / "perfetto").read_bytes()
