"""Every importer against arbitrary bytes: atheris, guided by coverage, from seeds that are real logs and whole records.

What libFuzzer tries follows from its seed, 1; how far it comes in the time, from the machine. An input that fails stays
in the test's folder, named crash-…, timeout-… or oom-…, and `python tests/fuzz/fuzz_import.py KIND FILE` runs it again.
"""

import lzma
import subprocess
import sys
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


def seeds(kind: str) -> list[bytes]:
    """Logs of a kind, each whole and a part of it."""
    logs = {
        "mmiotrace": [lzma.decompress((DATA / "mmiotrace-e1000.log.xz").read_bytes())[:8000]],
        "trace.dat": [version(HEADER, EVENTS, [recorded()[:8192]]) for version in VERSIONS],
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


# Until each importer has survived a minute, chance would say whether `make test` passes.
@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_arbitrary_bytes(kind: str, tmp_path: Path) -> None:
    fuzz(kind, tmp_path, SHORT)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", KINDS)
def test_arbitrary_bytes_for_a_minute(kind: str, tmp_path: Path) -> None:
    fuzz(kind, tmp_path, LONG)
