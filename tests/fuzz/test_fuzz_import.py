"""Every importer against arbitrary bytes: atheris, guided by coverage, from seeds that are real logs and whole records.

As many importers at a time as there are processors.

What libFuzzer tries follows from its seed, 1; how far it comes in the time, from the machine. An input that fails stays
in the test's folder, named crash-…, timeout-… or oom-…, and `python tests/fuzz/fuzz_import.py KIND FILE` runs it again.
"""

import lzma
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

import mmt
import tracedat
from mmiotap.formats.detect import KINDS

HERE = Path(__file__).parent
DATA = HERE.parent / "data"
SHORT, LONG = 10, 60
#: Seconds that one input may take, and what the process may hold.
INPUT_LIMIT, MEMORY_MB = 20, 1500
LONGEST = 1 << 16


HEADER, *_texts = (DATA / "ftrace-formats.txt").read_bytes().split(b"name: ")
EVENTS = [b"name: " + text for text in _texts]
VERSIONS = (tracedat.version_6, tracedat.version_7, partial(tracedat.version_7, name="zlib"))


def recorded() -> bytes:
    return lzma.decompress((DATA / "ftrace-e1000.raw.xz").read_bytes())


def kvm() -> bytes:
    """The first pages of a recording."""
    file = lzma.decompress((DATA / "trace-cmd-kvm.dat.xz").read_bytes())
    formats = [(DATA / "kvm_mmio.format").read_bytes()]
    return tracedat.version_6(HEADER, EVENTS, [file[0x5000:0x7000]], system="kvm", others=formats)


def seeds(kind: str) -> list[bytes]:
    """Logs of a kind, each whole and a part of it."""
    logs = {
        "mmiotrace": [lzma.decompress((DATA / "mmiotrace-e1000.log.xz").read_bytes())[:8000]],
        "trace.dat": [version(HEADER, EVENTS, [recorded()[:8192]]) for version in VERSIONS]
        + [(DATA / "trace-cmd-rwmmio.dat").read_bytes(), kvm()],
        "qemu": [lzma.decompress((DATA / "qemu-e1000.log.xz").read_bytes())[:8000]],
        "ftrace-text": [path.read_bytes() for path in sorted(DATA.glob("kvm-rwmmio.*.txt"))],
        "mmt": [mmt.LOG],
        "jsonl": [path.read_bytes() for path in sorted(DATA.glob("*.json*"))],
    }
    return [part for log in logs[kind] for part in (log, log[: len(log) // 2])]


def fuzz(kind: str, folder: Path, seconds: int) -> None:
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(seeds(kind)):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [f"-max_total_time={seconds}", "-seed=1", f"-timeout={INPUT_LIMIT}", f"-rss_limit_mb={MEMORY_MB}"]
    options += [f"-max_len={LONGEST}", "-print_final_stats=1"]
    command: list[str | Path] = [sys.executable, HERE / "fuzz_import.py", kind, corpus, *options]
    limit = seconds + 4 * INPUT_LIMIT
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=limit, check=False)
    assert result.returncode == 0, result.stderr[-4000:] + result.stdout[-1000:]
    [runs] = [line.split()[-1] for line in result.stderr.splitlines() if "number_of_executed_units" in line]
    assert int(runs) > len(seeds(kind))


class Running:
    """All importers, each for the same time."""

    def __init__(self, folder: Path, seconds: int) -> None:
        self._pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
        self._found: dict[str, Future[None]] = {}
        for kind in KINDS:
            (folder / kind).mkdir()
            self._found[kind] = self._pool.submit(fuzz, kind, folder / kind, seconds)

    def result(self, kind: str) -> None:
        """Waits for it. Raises what it has raised."""
        self._found[kind].result()

    def stop(self) -> None:
        self._pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def shortly(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("short"), SHORT)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def for_a_minute(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("long"), LONG)
    yield running
    running.stop()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", KINDS)
def test_arbitrary_bytes(kind: str, shortly: Running) -> None:
    shortly.result(kind)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", KINDS)
def test_arbitrary_bytes_for_a_minute(kind: str, for_a_minute: Running) -> None:
    for_a_minute.result(kind)
