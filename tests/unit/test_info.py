"""``mmiotap info``."""

import json
from pathlib import Path

import pytest

from mmiotap.cli import main
from mmiotap.trace.model import Module
from mmiotap.views.info import write_text
from mmiotap.views.state import state_text
from synthetic import DRIVER, RING, UIO, row, write_trace

LIBRARY = Module(100, "/usr/lib/libx.so", 0x1000, 0x2000, 0x1000, "ab12")

TEXT = """\
state:       finished
command:     ./driver '--reset now'
exit:        killed by SIGKILL
started:     2026-11-21T01:00:00Z
finished:    2026-11-21T01:00:09Z
host:        lab
kernel:      6.18.0
source:      agent
mmiotap:     0.1.0
settings:    maps /dev/uio*, on_full wait, latency True
events:      2
lost:        0
size:        SIZE
modules:     1

Mappings
id  path                   device        prot  pid         address   length  file offset  BAR    physical
1   /dev/uio0              0000:00:03.0  rw    100  0x7f0000000000  0x20000          0x0    0  0xfebc0000
2   anon_inode:[io_uring]                rw    100  0x7f0000100000   0x1000   0x10000000

Processes
program      pid  parent
/opt/driver  100       1

Mapped, but selected by no rule (record --map GLOB):
  /dev/null
"""


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return write_trace(
        tmp_path / "t",
        [row(0, "read", 4), row(5, "write", 4)],
        modules=[LIBRARY, LIBRARY],
        finished="2026-11-21T01:00:09Z",
        exit={"status": None, "signal": 9},
    )


def test_text(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    used = sum(file.stat().st_blocks * 512 for file in trace.rglob("*"))
    assert main(["info", str(trace)]) == 0
    size = f"{used / 1024:.1f} KiB, {used / 2:.1f} bytes an event"
    assert capsys.readouterr().out.splitlines() == TEXT.replace("SIZE", size).splitlines()


def test_json(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(trace), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["state"], found["events"], found["lost"], found["modules"]) == ("finished", 2, 0, 1)
    assert found["mappings"] == [UIO.to_json(), RING.to_json()]
    assert found["processes"] == [{"pid": DRIVER.pid, "ppid": DRIVER.ppid, "executable": DRIVER.executable}]
    assert found["exit"] == {"status": None, "signal": 9}
    assert found["not_selected"] == ["/dev/null"]


def test_states_in_words() -> None:
    assert state_text("recording", "t") == "recording (still running)"
    assert state_text("incomplete", "dir/t") == "incomplete: the recorder ended too early; run mmiotap recover dir/t"


def test_exit_status(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(trace), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for end, said in (
        ({"status": 3, "signal": None}, "exit:        status 3"),
        ({"status": None, "signal": 99}, "exit:        killed by signal 99"),
        ({"status": None, "signal": 35}, "exit:        killed by signal 35"),
    ):
        write_text(found | {"exit": end})
        assert said in capsys.readouterr().out.splitlines()
    write_text(found | {"exit": None})
    assert "exit:" not in capsys.readouterr().out


def test_an_empty_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_trace(tmp_path / "t", mappings=[], processes=[])
    assert main(["info", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "events:      0" in lines
    assert "Mappings" not in lines
