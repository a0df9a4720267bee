"""A program run twice, untraced and traced, each time in a folder of its own: all that it leaves must be equal."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from conftest import MMIOTAP, Run
from mmiotap.trace.reader import Trace, open_trace

#: Where the programs of these tests are.
SOURCES = Path(__file__).parent
#: Seconds that a program may take under a tracer on a busy machine; only a hang takes so long.
LIMIT = 100.0


@dataclass(frozen=True)
class Recorded:
    """What a traced program wrote, and its trace, from which nothing is missing."""

    stdout: str
    trace: Trace

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        return self.trace.events(["kind", "pid", "tid", "map_id", "offset", "width", "value"]).to_pylist()

    def kinds(self) -> Counter[str]:
        return Counter(row["kind"] for row in self.rows)

    def values(self, kind: str, offset: int) -> list[int]:
        return [row["value"] for row in self.rows if row["kind"] == kind and row["offset"] == offset]


def compare(
    run: Run,
    tmp_path: Path,
    command: Sequence[str | Path],
    *,
    device: str,
    prepare: Callable[[Path], object],
    results: Sequence[str] = (),
    env: dict[str, str] | None = None,
    cleaned: Callable[[str], str] = str,
) -> Recorded:
    """Run the command in a folder that ``prepare`` has filled, and again, recorded.

    Output on both streams, once ``cleaned`` of what differs from run to run, the exit status, and the files ``results``
    must be equal. ``device`` is a glob inside the folder, or a path that is no file.
    """
    plain, traced, trace = tmp_path / "plain", tmp_path / "traced", tmp_path / "trace"
    for folder in (plain, traced):
        folder.mkdir()
        prepare(folder)
    rule = device if device.startswith("anon_inode:") else f"{traced}/{device}"
    expected = run(*command, cwd=plain, env=env, limit=LIMIT)
    got = run(*MMIOTAP, "record", "-q", "-o", trace, "--map", rule, "--", *command, cwd=traced, env=env, limit=LIMIT)
    assert cleaned(got.stdout) == cleaned(expected.stdout), got.stderr
    assert cleaned(got.stderr) == cleaned(expected.stderr)
    assert got.status == expected.status
    for name in results:
        assert (traced / name).read_bytes() == (plain / name).read_bytes(), name
    opened = open_trace(trace)
    assert opened.lost == 0
    return Recorded(got.stdout, opened)


def blank(size: int, name: str = "device") -> Callable[[Path], object]:
    """Prepares a file of zeros."""
    return lambda folder: (folder / name).write_bytes(bytes(size))
