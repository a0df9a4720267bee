"""The documentation is true: links lead somewhere, options exist, examples run."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mmiotap
from conftest import Compile
from mmiotap.cli import COMMANDS, build_parser

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
#: Commands that share a page.
PAGE_OF = {"disable": "mark", "enable": "mark", "man": "completion"}

DRIVER = """
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>
int main(void)
{
    int file = open("resource0", O_RDWR | O_CREAT, 0600);
    if (ftruncate(file, 4096))
        return 1;
    volatile uint32_t *device = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    for (uint32_t i = 0; i < 8; i++)
        device[i] = i + device[0];
    return 0;
}
"""


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links() -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if "://" not in target:
                yield page, target


@pytest.mark.parametrize(("page", "target"), [pytest.param(*link, id=f"{link[0].name}:{link[1]}") for link in links()])
def test_links_lead_somewhere(page: Path, target: str) -> None:
    path, _, anchor = target.partition("#")
    found = (page.parent / path).resolve() if path else page
    assert found.exists()
    assert not anchor or anchor in anchors(found)


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    assert [page.name for page in PAGES if page.parent.name == "docs" and f"({page.name}" not in index] == ["index.md"]


def options(command: str) -> set[str]:
    [subparsers] = [action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    actions = subparsers.choices[command]._actions
    return {option for action in actions for option in action.option_strings} - {"-h", "--help"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_its_place(command: str) -> None:
    text = (ROOT / "docs" / f"{PAGE_OF.get(command, command)}.md").read_text()
    assert [option for option in options(command) if option not in text] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_no_option_is_made_up(command: str) -> None:
    text = (ROOT / "docs" / f"{PAGE_OF.get(command, command)}.md").read_text()
    text = re.sub(r" -- .*", "", text)  # what follows is the program's
    known = set().union(*map(options, COMMANDS)) | {"--help", "--version"}
    assert [option for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", text) if option not in known] == []


def test_the_examples_of_the_api_run(compile_c: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_c(DRIVER, "driver")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "api.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/api.md", "exec"), names)
    assert names["trace"].count == 17
    assert isinstance(names["trace"], mmiotap.Trace)
    assert [row["value"] for row in names["writes"].to_pylist()] == list(range(8))
    assert (names["status"], names["counter"].reads) == (0, 8)
    assert [access.value for access in names["seen"]] == [2 * i + 1 for i in range(1, 8)]
    assert len(names["frame"]) == len(names["pandas_frame"]) == 17
