"""Of a driver's accesses at least 99 of 100 run patched, with what ``mmiotap record`` does by itself.

Each driver makes enough accesses that those before its sites are hot do not matter. tests/guest has the e1000 driver.
"""

import os
import subprocess
from pathlib import Path

import pytest

from conftest import Run, Start
from mmiotap.trace.reader import open_trace
from shares import assert_mostly_patched

EXAMPLES = Path(__file__).parent.parent.parent / "examples"

pytestmark = pytest.mark.parametrize("patching", ["auto"], indirect=True)


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    subprocess.run(["make", "-s", "-C", EXAMPLES, "edu", "uring", "hammer"], check=True, timeout=60)


def test_edu(start: Start, mmiotap: Run, tmp_path: Path) -> None:
    registers = tmp_path / "resource0"
    device = start(EXAMPLES / "edu" / "edu-device", registers)
    assert device.process.stdout is not None
    assert device.process.stdout.readline() == "ready\n"
    driver = [EXAMPLES / "edu" / "edu", "-n", "100", registers]
    result = mmiotap("record", "-q", "-o", "t", "--map", "**/resource0", "--", *driver)
    assert result.status == 0, result.stderr
    assert "edu: 6400 liveness checks, 0 wrong factorials, 0 wrong identifications" in result.stdout
    assert_mostly_patched(open_trace(tmp_path / "t"), at_least=20_000)


def test_uring(mmiotap: Run, tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.touch()
    os.truncate(source, 64 << 20)
    driver = [EXAMPLES / "uring" / "uring", source, copy]
    result = mmiotap("record", "-q", "-o", "t", "--map", "anon_inode:[io_uring]", "--", *driver)
    assert result.status == 0, result.stderr
    assert copy.stat().st_size == source.stat().st_size
    assert_mostly_patched(open_trace(tmp_path / "t"), at_least=50_000)


def test_hammer(mmiotap: Run, tmp_path: Path) -> None:
    """All widths, four threads: while one patches a site, the others trap there."""
    threads, count = 4, 500_000
    driver = [EXAMPLES / "hammer" / "hammer", tmp_path / "hammer.bin", str(threads), str(count)]
    result = mmiotap("record", "-q", "-o", "t", "--map", "**/hammer.bin", "--", *driver)
    assert result.status == 0, result.stderr
    assert_mostly_patched(open_trace(tmp_path / "t"), at_least=threads * count)
