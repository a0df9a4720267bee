"""``--smp``: where it goes, what it refuses, and what it says."""

import struct
from pathlib import Path
from typing import Any

import pytest

import mmiotap as api
from conftest import Run
from mmiotap.sources import keys
from mmiotap.trace import layout
from mmiotap.trace.arena import SMP_WAYS
from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.reader import open_trace

#: A program that keeps what the agent finds in the header of the arena.
COMMAND = ["sh", "-c", 'head -c 1024 "$MMIOTAP_ARENA" > header']


def has_keys() -> bool:
    try:
        keys.check()
    except MmiotapError:
        return False
    return True


def told(folder: Path) -> tuple[str, int]:
    header = (folder / "header").read_bytes()
    return SMP_WAYS[struct.unpack_from("<I", header, layout.H_SMP)[0]], header[layout.H_PATCH]


def test_the_layout_numbers_the_ways() -> None:
    assert [getattr(layout, f"SMP_{way.upper()}") for way in SMP_WAYS] == list(range(len(SMP_WAYS)))


@pytest.mark.parametrize(
    ("options", "way", "patch"),
    [
        ([], "emulate", 4),
        (["--smp", "emulate", "--patch", "1"], "emulate", 1),
        (["--smp", "step"], "step", 0),
        (["--smp", "lock", "--patch", "off"], "lock", 0),
    ],
)
def test_options(mmiotap: Run, tmp_path: Path, options: list[str], way: str, patch: int) -> None:
    result = mmiotap("record", "-o", "t", *options, "--", *COMMAND)
    assert (result.status, "no effect" in result.stderr) == (0, False)
    settings = open_trace(tmp_path / "t").info["settings"]
    assert told(tmp_path) == (settings["smp"], settings["patch"]) == (way, patch)
    shown = mmiotap("info", "t").stdout
    assert (f"smp {way}" in shown) == (way != "emulate")


def test_patching_has_no_effect_and_that_is_said(mmiotap: Run, tmp_path: Path) -> None:
    result = mmiotap("record", "-o", "t", "--smp", "step", "--patch", "3", "--", *COMMAND)
    assert result.status == 0
    assert "mmiotap: --smp step steps every access; --patch 3 has no effect\n" in result.stderr
    assert told(tmp_path) == ("step", 0)


def test_no_such_way(mmiotap: Run) -> None:
    result = mmiotap("record", "--smp", "hope", "true")
    assert (result.status, "invalid choice: 'hope'" in result.stderr) == (2, True)


@pytest.mark.parametrize(("words", "way"), [({}, "emulate"), ({"smp": "lock"}, "lock")])
def test_in_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: dict[str, Any], way: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert api.record(COMMAND, path="t", **words).info["settings"]["smp"] == told(tmp_path)[0] == way


def test_no_such_way_in_python(tmp_path: Path) -> None:
    hope: Any = "hope"
    with pytest.raises(MmiotapError, match="there is no way 'hope'; there are emulate, step, lock, private"):
        api.record(["true"], path=tmp_path / "t", smp=hope)
    assert not (tmp_path / "t").exists()


def test_private_where_there_are_no_keys(mmiotap: Run, tmp_path: Path) -> None:
    """It starts nothing there; a guest that has keys is in tests/guest/test_drivers.py."""
    result = mmiotap("record", "-o", "t", "--smp", "private", "touch", "started")
    if has_keys():
        assert result.status == 0
    else:
        line = (
            "mmiotap: --smp private needs protection keys (pku), which this processor or kernel does not have; "
            "choose --smp emulate, lock or step\n"
        )
        assert (result.status, result.stderr) == (1, line)
        assert not (tmp_path / "t").exists()
        assert not (tmp_path / "started").exists()
