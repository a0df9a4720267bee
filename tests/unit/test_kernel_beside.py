"""`mmiotap kernel --agent`: what it refuses, and what becomes of the two traces. The recording is tested in a guest."""

from dataclasses import replace
from pathlib import Path

import pytest

from conftest import Compile
from mmiotap.cli import main
from mmiotap.sources.kernel import beside
from mmiotap.sources.recording import RecordResult
from mmiotap.trace.model import Process
from mmiotap.trace.reader import open_trace
from synthetic import row, write_trace

KERNEL = [row(10, "read", 4, 8, 1, tid=7, pid=7), row(50, "write", 4, 8, 2, tid=7, pid=7)]
AGENT = [row(20, "read", 2, 4, 3), row(40, "lost", map_id=0, value=5)]
RESULT = RecordResult(
    path=Path(),
    events=2,
    lost=0,
    mappings=1,
    threads=1,
    seconds=2.0,
    status=0,
    signal=None,
    not_selected=[],
    still_running=[],
    trouble=None,
)


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """As a recording has them in the end. The task of a program may have another name than the program's file."""
    folder = tmp_path / "both.mmiotap.parts"
    folder.mkdir()
    write_trace(folder / "kernel.mmiotap", KERNEL, processes=[Process(100, 0, "modprobe")], boot_id="one")
    write_trace(folder / "agent.mmiotap", AGENT, processes=[Process(100, 0, "/usr/bin/kmod")], boot_id="one")
    return folder


def test_the_two_become_one(parts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "both.mmiotap"
    result = beside.merge(folder, parts, RESULT, replace(RESULT, status=3, lost=5), force=False)
    assert (result.path, result.events, result.lost, result.status, result.mappings) == (folder, 4, 5, 3, 2)
    rows = open_trace(folder).events().to_pylist()
    assert [one["source"] for one in rows] == ["kernel", "agent", "agent", "kernel"]
    assert [one["pid"] for one in rows] == [7, 100, 100, 7]
    assert not parts.exists()


def test_what_cannot_be_merged_stays(parts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "both.mmiotap"
    folder.write_text("somebody's")
    result = beside.merge(folder, parts, RESULT, RESULT, force=True)
    command = f"mmiotap merge {parts}/kernel.mmiotap {parts}/agent.mmiotap -o {folder}"
    assert result.trouble == f"{folder} exists and is no mmiotap trace; choose another name; then: {command}"
    assert result.path == parts / "kernel.mmiotap"
    assert folder.read_text() == "somebody's"
    assert open_trace(parts / "kernel.mmiotap").count == 2


def test_what_is_not_whole_is_not_merged(parts: Path, tmp_path: Path) -> None:
    result = beside.merge(tmp_path / "both", parts, replace(RESULT, trouble="the disk is full"), RESULT, force=False)
    assert result.trouble is not None
    assert result.trouble.startswith("the disk is full; then: mmiotap merge ")
    assert not (tmp_path / "both").exists()
    assert open_trace(parts / "agent.mmiotap").count == 2


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    status = main(["kernel", *words])
    return status, capsys.readouterr().err


def test_a_program_without_an_agent_is_refused(
    compile_c: Compile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = compile_c("int main(void) { return 0; }", "program", "-static")
    status, said = refused(capsys, "--agent", "-o", str(tmp_path / "both"), "--", str(program))
    assert (status, said.count("\n")) == (1, 1)
    assert f"{program} is statically linked, so no agent can be loaded into it" in said
    assert sorted(tmp_path.glob("both*")) == []


def test_what_an_earlier_recording_left_is_not_touched(parts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, said = refused(capsys, "--agent", "-o", str(parts.with_suffix("")), "--", "true")
    assert (status, said.count("\n")) == (1, 1)
    assert f"{parts} exists: what a recording left that was ended" in said
    assert len(list(parts.iterdir())) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--agent"], "which program?"), (["--map", "/dev/uio*", "--", "true"], "say --agent, too")],
)
def test_words_that_do_not_go_together(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, line = refused(capsys, *words)
    assert status == 2
    assert said in line
