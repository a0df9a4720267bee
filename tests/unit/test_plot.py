"""``mmiotap plot``: what is in the pictures."""

import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.image import imread

from mmiotap.cli import main
from mmiotap.trace.model import Mapping
from synthetic import UIO, row, write_trace

STRANGE = Mapping(3, 100, r"/dev/$\frac{<b>&$", 0x7F0000200000, 0x1000, 0, "rw")
MILLISECOND = 1_000_000


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """A register in the first half of the time, one in the second."""
    rows = [row(i * MILLISECOND, "read", 4, 0x08, i, took=100 + i) for i in range(100)]
    rows += [row((100 + i) * MILLISECOND, "write", 4, 0x10, i, map_id=3, took=90_000) for i in range(100)]
    return write_trace(tmp_path / "t.mmiotap", rows, mappings=[UIO, STRANGE])


def colourful(picture: Any, across: tuple[float, float], down: tuple[float, float]) -> int:
    """Points in a part of a picture that are neither white nor black nor grey."""
    height, width = picture.shape[:2]
    part = picture[int(down[0] * height) : int(down[1] * height), int(across[0] * width) : int(across[1] * width), :3]
    return int(np.count_nonzero(part.max(2) - part.min(2) > 0.2))


def plot(*words: str | Path) -> int:
    """In this process: a new one would import matplotlib again."""
    return main(["plot", *map(str, words)])


def test_the_map_shows_what_was_where_and_when(trace: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert plot(trace, "--what", "map", "-o", tmp_path / "map.png") == 0
    assert capfd.readouterr() == ("", "")
    picture = imread(tmp_path / "map.png")
    first, second, upper, lower = (0.2, 0.4), (0.6, 0.8), (0.15, 0.4), (0.55, 0.8)
    assert colourful(picture, first, upper) > 100
    assert colourful(picture, second, lower) > 100
    assert colourful(picture, second, upper) == colourful(picture, first, lower) == 0


def texts(svg: Path) -> list[str]:
    return ["".join(one.itertext()) for one in ElementTree.parse(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_all_panels_in_svg_and_texts_as_they_are(
    trace: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert plot(trace, "-o", tmp_path / "all.svg") == 0
    said = texts(tmp_path / "all.svg")
    assert "t.mmiotap" in said
    assert r"3:$\frac{<b>&$  0x10" in said
    assert {"accesses a second", "how long an access took", "reads", "writes", "1:uio0"} <= set(said)
    assert plot(trace, "--format", "svg") == 0
    assert capfd.readouterr().out == (tmp_path / "all.svg").read_text(), "the same trace gives the same picture"


def test_names_and_a_filter(trace: Path, tmp_path: Path) -> None:
    (tmp_path / "device.rdl").write_text(
        "addrmap device { default regwidth = 32; reg { field { sw = rw; } EN[31:0]; } CONTROL @ 0x8; };"
    )
    words = ["--regs", f"{tmp_path}/device.rdl@uio0", "--what", "map", "--filter", "read"]
    assert plot(trace, *words, "-o", tmp_path / "reads.svg") == 0
    said = texts(tmp_path / "reads.svg")
    assert "CONTROL" in said
    assert not any("0x10" in text for text in said)


def test_many_rows_and_columns(tmp_path: Path) -> None:
    """A single access among thousands of places is seen."""
    rows = [row(i * 1000, "read", 4, 4 * i, i) for i in range(900)]
    path = write_trace(tmp_path / "t", rows)
    assert plot(path, "--what", "map", "--what", "rate", "-o", tmp_path / "t.png") == 0
    picture = imread(tmp_path / "t.png")
    inside = picture[40:480, 100:1000, :3]
    assert np.count_nonzero((inside.max(2) - inside.min(2) > 0.2).any(1)) > 380


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["-o", "x.jpeg"], 2, ".jpeg is not drawn; png and svg are"),
        (["-o", "there.png"], 1, "there.png exists"),
        (["--filter", "value ==", "-o", "x.png"], 2, "filter"),
        (["--filter", "mark", "-o", "x.png"], 1, "no access"),
        (["--filter", "not duration > 0", "--what", "latency", "-o", "x.png"], 1, "nobody knows"),
    ],
)
def test_bad_wishes_are_one_line(
    trace: Path,
    tmp_path: Path,
    words: list[str],
    status: int,
    says: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.png").write_text("mine")
    assert plot(trace, *words) == status
    told = capfd.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1)
    assert says in told.err
    assert not (tmp_path / "x.png").exists()
    assert (tmp_path / "there.png").read_text() == "mine"


def test_without_matplotlib_it_says_what_to_install(trace: Path) -> None:
    hidden = "import sys; sys.modules['matplotlib'] = None; from mmiotap.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", hidden, "plot", str(trace), "-o", str(trace.parent / "x.png")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (1, "mmiotap: plot needs matplotlib: pip install 'mmiotap[plot]'\n")
