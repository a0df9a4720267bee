"""Completion in real shells, manual pages by real troff, and ``--json``."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from conftest import Run
from mmiotap.cli import COMMANDS
from synthetic import row, write_trace
from test_docs import options


@pytest.fixture
def script(mmiotap: Run, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    result = mmiotap("completion", request.param)
    assert (result.status, result.stderr) == (0, "")
    path = tmp_path / f"mmiotap.{request.param}"
    path.write_text(result.stdout)
    return path


def shell(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=cwd)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def bash(words: str, script: Path) -> list[str]:
    """What Tab offers behind some words."""
    typed = words.split(" ")
    quoted = " ".join(f"'{word}'" for word in typed)
    program = (
        f"source {script}; COMP_WORDS=({quoted}); COMP_CWORD={len(typed) - 1}; "
        'COMP_LINE="${COMP_WORDS[*]}"; COMP_POINT=${#COMP_LINE}; _shtab_mmiotap; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    return [word.strip() for word in shell("bash", "-c", program, cwd=script.parent).splitlines()]


@pytest.mark.parametrize("script", ["bash"], indirect=True)
def test_bash_completes(script: Path) -> None:
    assert set(bash("mmiotap ", script)) >= set(COMMANDS)
    assert bash("mmiotap expo", script) == ["export"]
    assert set(bash("mmiotap stats --", script)) >= {"--json", "--limit", "--regs"}
    assert set(bash("mmiotap export --format p", script)) == {"parquet", "perfetto", "python"}
    (script.parent / "driver.mmiotap").mkdir()
    assert bash("mmiotap show driver", script) == ["driver.mmiotap"]


@pytest.mark.parametrize("script", ["fish"], indirect=True)
def test_fish_completes(script: Path) -> None:
    def fish(words: str) -> set[str]:
        text = shell("fish", "-c", f"source {script}; complete -C {words!r}", cwd=script.parent)
        return {line.split("\t")[0] for line in text.splitlines()}

    assert fish("mmiotap ") >= set(COMMANDS)
    assert fish("mmiotap expo") == {"export"}
    assert fish("mmiotap export --format p") >= {"parquet", "perfetto", "python"}


@pytest.mark.parametrize("script", ["zsh"], indirect=True)
def test_zsh_takes_it(script: Path) -> None:
    """From a folder of its functions, as docs/completion.md says, and through eval."""
    script.rename(script.with_name("_mmiotap"))
    script = script.with_name("_mmiotap")
    ready = f"fpath=({script.parent} $fpath); autoload -Uz compinit; compinit -D -u"
    asked = "autoload +X _mmiotap && print -r -- ${_comps[mmiotap]}"
    assert shell("zsh", "-f", "-c", f"{ready}; {asked}", cwd=script.parent) == "_mmiotap\n"
    program = f'{ready}; eval "$(<{script})"; print -r -- ${{_comps[mmiotap]}}'
    assert shell("zsh", "-f", "-c", program, cwd=script.parent) == "_shtab_mmiotap\n"
    assert set(COMMANDS) <= set(script.read_text().replace('"', " ").replace(":", " ").split())


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_page_is_good_troff_and_whole(mmiotap: Run, command: str, pages: Path) -> None:
    name = f"mmiotap-{command}" if command else "mmiotap"
    page = pages / f"{name}.1"
    done = subprocess.run(["groff", "-man", "-ww", "-Tutf8", "-P-c", page], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    words = subprocess.run(["col", "-b"], input=done.stdout, capture_output=True, text=True, timeout=60).stdout
    assert "NAME" in words
    for option in options(command) if command else [f"mmiotap-{other}(1)" for other in COMMANDS]:
        assert option in words


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mmiotap.cli import main

    folder = tmp_path_factory.mktemp("man")
    assert main(["man", "-o", str(folder)]) == 0
    return folder / "man1"


def test_man_knows_what_there_is(mmiotap: Run, tmp_path: Path) -> None:
    assert mmiotap("man", "show").stdout.startswith(".TH MMIOTAP\\-SHOW 1 ")
    unknown = mmiotap("man", "shew")
    assert unknown.status == 1
    assert unknown.stderr.startswith("mmiotap: man: there is no command 'shew'; there are record, ")


@pytest.mark.parametrize(
    ("command", "lines"),
    [(["show"], True), (["sites"], True), (["stats"], False), (["info"], False), (["query"], False)],
    ids=lambda one: one[0] if isinstance(one, list) else "",
)
def test_json_is_one_word(mmiotap: Run, tmp_path: Path, command: list[str], lines: bool) -> None:
    trace = write_trace(tmp_path / "t", [row(0, "read", 4, 8, 1), row(10, "mark", text="x")])
    sql = ["SELECT kind FROM events"] if command == ["query"] else []
    result = mmiotap(*command, trace, *sql, "--json")
    assert result.status == 0
    found: Any = [json.loads(line) for line in result.stdout.splitlines()] if lines else json.loads(result.stdout)
    assert len(found) == {"show": 2, "sites": 0, "query": 2}.get(command[0], len(found))
