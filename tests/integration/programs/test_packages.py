"""Programs of Debian's that map a file, a ring of the kernel's, or a framebuffer: they run as they do untraced."""

import os
import re
from pathlib import Path

from conftest import Run

from .comparing import SOURCES, blank, compare


def test_memtool(run: Run, tmp_path: Path) -> None:
    def prepare(folder: Path) -> None:
        (folder / "device").write_bytes(bytes(range(256)) * 16)

    (tmp_path / "show").mkdir()
    command: list[str | Path] = ["memtool", "md", "-s", "device", "256+64"]
    recorded = compare(run, tmp_path / "show", command, device="device", prepare=prepare)
    assert recorded.values("read", 256) == [0x03020100]
    assert recorded.kinds() == {"map": 1, "read": 16, "unmap": 1}

    (tmp_path / "set").mkdir()
    command = ["memtool", "mw", "-w", "-d", "device", "16", "0x1111", "0x2222"]
    recorded = compare(run, tmp_path / "set", command, device="device", prepare=prepare, results=["device"])
    assert recorded.values("write", 18) == [0x2222]
    assert recorded.kinds() == {"map": 1, "write": 2, "unmap": 1}


def test_lmdb(run: Run, tmp_path: Path) -> None:
    """Its map is read by the program; mdb_load writes from memory of its own, by pwrite, and reads that back mapped."""

    def prepare(folder: Path) -> None:
        (folder / "db").mkdir()
        pairs = "".join(f" key{number}\n {'value' * (number % 400)}\n" for number in range(300))
        head = "VERSION=3\nformat=print\ntype=btree\nmapsize=4194304\nHEADER=END\n"
        (folder / "text").write_text(f"{head}{pairs}DATA=END\n")

    command: list[str | Path] = ["sh", "-c", "mdb_load -f text db && mdb_stat -a db && mdb_dump -p db"]
    recorded = compare(run, tmp_path, command, device="db/data.mdb", prepare=prepare, results=["db/data.mdb"])
    assert "key299\n" in recorded.stdout
    assert len(recorded.trace.mappings) == 3
    assert recorded.kinds()["read"] > 300


def without_numbers(text: str) -> str:
    """fio's terse line is of times and rates: its name, and the error it ended with."""
    return ";".join(re.sub(r"\n.*", "", text, flags=re.DOTALL).split(";")[1:5])


FIO = [
    "fio",
    "--minimal",
    "--name=job",
    "--thread",
    "--filename=data",
    "--size=64k",
    "--bs=512",
    "--randseed=7",
    "--rw=randrw",
]


def test_fio_with_a_mapped_file(run: Run, tmp_path: Path) -> None:
    command: list[str | Path] = [*FIO, "--ioengine=mmap", "--verify=crc32c"]
    recorded = compare(run, tmp_path, command, device="data", prepare=blank(65536, "data"), cleaned=without_numbers)
    assert recorded.kinds()["write"] > 128
    assert recorded.kinds()["read"] > 128


def test_fio_with_io_uring(run: Run, tmp_path: Path) -> None:
    command: list[str | Path] = [*FIO, "--ioengine=io_uring", "--iodepth=8", "--verify=crc32c"]
    recorded = compare(
        run,
        tmp_path,
        command,
        device="anon_inode:[io_uring]",
        prepare=blank(65536, "data"),
        cleaned=without_numbers,
    )
    assert len(recorded.trace.mappings) >= 2
    assert recorded.kinds()["write"] > 128


def test_xvfb_with_its_framebuffer_in_a_file(run: Run, tmp_path: Path) -> None:
    command: list[str | Path] = ["sh", SOURCES / "draw.sh"]
    recorded = compare(run, tmp_path, command, device="Xvfb_screen0", prepare=lambda _: None, results=["picture"])
    kinds = recorded.kinds()
    assert kinds["write"] + kinds["unknown"] > 1000  # 64 by 48 pixels, drawn more than once
    assert len(set((tmp_path / "traced" / "picture").read_bytes())) > 3


def test_perf_reads_its_ring(run: Run, tmp_path: Path) -> None:
    """The ring is one of the kernel's mappings without pages, and perf hands pieces of it to write()."""
    command: list[str | Path] = [
        "perf",
        "record",
        "-q",
        "-o",
        "samples",
        "-e",
        "cpu-clock",
        "-F",
        "2000",
        "--",
        *busy(),
    ]
    recorded = compare(
        run, tmp_path, command, device="anon_inode:[perf_event]", prepare=lambda _: None, cleaned=lambda _: ""
    )
    assert len(recorded.trace.mappings) >= (os.cpu_count() or 1)
    assert recorded.kinds()["read"] > 0
    report = run("perf", "script", "-i", tmp_path / "traced" / "samples", "-F", "comm,event")
    assert report.status == 0
    assert set(report.stdout.split()) >= {"sh", "cpu-clock:"}


def busy() -> list[str]:
    return ["sh", "-c", "i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done"]
