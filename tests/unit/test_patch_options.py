"""``--patch`` and ``--protocol``: where they go, and what they refuse."""

import struct
from pathlib import Path
from typing import Any

import pytest

import mmiotap as api
from conftest import Run
from mmiotap.sources.agent import AUTO_PATCH
from mmiotap.trace import layout
from mmiotap.trace.arena import PROTOCOLS
from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.reader import Trace, open_trace

#: A program that keeps what the agent finds in the header of the arena.
COMMAND = ["sh", "-c", 'head -c 1024 "$MMIOTAP_ARENA" > header']


def told(folder: Path) -> tuple[int, str]:
    header = (folder / "header").read_bytes()
    return struct.unpack_from("<I", header, layout.H_PATCH)[0], PROTOCOLS[header[layout.H_PROTOCOL]]


def noted(trace: Trace) -> tuple[int, str]:
    return trace.info["settings"]["patch"], trace.info["settings"]["protocol"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], (AUTO_PATCH, "breakpoint")),
        (["--patch", "auto", "--protocol", "breakpoint"], (AUTO_PATCH, "breakpoint")),
        (["--patch", "off"], (0, "breakpoint")),
        (["--patch", "1", "--protocol", "stop-machine"], (1, "stop-machine")),
        (["--patch", "4294967295"], (2**32 - 1, "breakpoint")),
    ],
)
def test_options(mmiotap: Run, tmp_path: Path, options: list[str], expected: tuple[int, str]) -> None:
    assert mmiotap("record", "-o", "t", *options, "--", *COMMAND).status == 0
    assert told(tmp_path) == noted(open_trace(tmp_path / "t")) == expected


@pytest.mark.parametrize("option", ["0", "-1", "4294967296", "1e3", "on", "", "¼"])
def test_no_number_of_accesses(mmiotap: Run, tmp_path: Path, option: str) -> None:
    result = mmiotap("record", "-o", "t", "--patch", option, "true")
    assert result.status == 2
    assert f"argument --patch: {option!r} is no number of accesses: auto, off, or 1 to 4294967295" in result.stderr
    assert not (tmp_path / "t").exists()


def test_no_such_protocol(mmiotap: Run) -> None:
    result = mmiotap("record", "--protocol", "hope", "true")
    assert (result.status, "invalid choice: 'hope'" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({}, (AUTO_PATCH, "breakpoint")),
        ({"patch": "off", "protocol": "stop-machine"}, (0, "stop-machine")),
        ({"patch": 9}, (9, "breakpoint")),
    ],
)
def test_in_python(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: dict[str, Any], expected: tuple[int, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert noted(api.record(COMMAND, path="t", **words)) == told(tmp_path) == expected


@pytest.mark.parametrize(
    "words", [{"patch": 0}, {"patch": True}, {"patch": 2.5}, {"patch": "on"}, {"protocol": "hope"}]
)
def test_errors_in_python(tmp_path: Path, words: dict[str, Any]) -> None:
    with pytest.raises(MmiotapError, match=r"is no number of accesses|there is no protocol 'hope'"):
        api.record(["true"], path=tmp_path / "t", **words)
    assert not (tmp_path / "t").exists()
