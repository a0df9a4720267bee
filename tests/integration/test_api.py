"""The Python API: record a program, open a trace, mark from inside a traced program."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

import mmiotap as api
from conftest import TIME_LIMIT, Compile, Run

DEVICE = r"""
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

int main(int argc, char **argv)
{
    int fd = open(argv[1], O_RDWR);
    volatile uint32_t *base = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    base[1] = 42;
    if (argc > 2)
        abort();
    return base[1];
}
"""


@pytest.fixture
def registers(tmp_path: Path) -> Path:
    path = tmp_path / "registers"
    path.write_bytes(bytes(4096))
    return path


def test_record(compile_c: Compile, registers: Path, tmp_path: Path, patching: str) -> None:
    trace = api.record(
        [compile_c(DEVICE), registers],
        maps=[str(registers)],
        path=tmp_path / "t",
        patch=1 if patching == "1" else "off",
    )
    assert isinstance(trace, api.Trace)
    assert trace.info["exit"] == {"status": 42, "signal": None}
    rows = trace.events(["kind", "width", "offset", "value"]).to_pylist()
    assert [tuple(row.values()) for row in rows if row["kind"] in ("read", "write")] == [
        ("write", 4, 4, 42),
        ("read", 4, 4, 42),
    ]
    assert api.open(tmp_path / "t").events().equals(trace.events())


def test_fatal_signal_is_in_the_info_and_we_live_on(compile_c: Compile, registers: Path, tmp_path: Path) -> None:
    trace = api.record([compile_c(DEVICE), registers, "x"], maps=[str(registers)], path=tmp_path / "t")
    assert trace.info["exit"] == {"status": None, "signal": 6}


def test_default_names_do_not_collide(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    names = [api.record(["true"]).path for _ in range(3)]
    assert len(set(names)) == 3


def test_record_outside_the_main_thread(tmp_path: Path) -> None:
    traces: list[api.Trace] = []
    thread = threading.Thread(target=lambda: traces.append(api.record(["true"], path=tmp_path / "t")))
    thread.start()
    thread.join(TIME_LIMIT)
    assert traces[0].info["exit"] == {"status": 0, "signal": None}


@pytest.mark.parametrize("command", [["no-such-program"], []])
def test_errors_are_exceptions(tmp_path: Path, command: list[str]) -> None:
    with pytest.raises(api.MmiotapError):
        api.record(command, path=tmp_path / "t")


def test_no_trace(tmp_path: Path) -> None:
    with pytest.raises(api.MmiotapError):
        api.open(tmp_path)


def test_mark_in_a_program_that_is_not_traced() -> None:
    api.mark("nobody listens")


def test_mark_in_a_python_program(mmiotap: Run, tmp_path: Path) -> None:
    code = "import mmiotap; mmiotap.mark('from Python: ✓'); mmiotap.mark('twice')"
    assert mmiotap("record", "-o", "t", "--", sys.executable, "-c", code).status == 0
    events = api.open(tmp_path / "t").events(["kind", "text"]).to_pylist()
    assert [row["text"] for row in events if row["kind"] == "mark"] == ["from Python: ✓", "twice"]


def test_importing_is_light() -> None:
    """A driver that marks does not pay for the analysis."""
    code = (
        "import sys, mmiotap; mmiotap.mark('x'); print([m for m in ('numpy', 'pyarrow', 'rich') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=TIME_LIMIT
    )
    assert result.stdout == "[]\n"


HEADER = '#include "mmiotap.h"\nint main(void) { mmiotap_mark("x"); return 0; }\n'


@pytest.mark.parametrize("flags", ["-fPIE -pie", "-fno-pie -no-pie", "-fno-pie -no-pie -O0", "-x c++ -fPIE -pie"])
def test_the_header_marks_in_every_kind_of_program(
    compile_c: Compile, run: Run, mmiotap: Run, tmp_path: Path, flags: str
) -> None:
    source = tmp_path / "mark.c"
    source.write_text(HEADER)
    include = Path(api.__file__).parent / "include"
    options = ["-Wall", "-Wextra", "-Werror", "-O2", *flags.split(), f"-I{include}"]
    subprocess.run(
        ["g++" if "c++" in flags else "gcc", *options, source, "-o", tmp_path / "mark"], check=True, timeout=60
    )
    assert run(tmp_path / "mark").status == 0
    assert mmiotap("record", "-o", "t", tmp_path / "mark").status == 0
    assert [row["text"] for row in api.open(tmp_path / "t").events(["text"]).to_pylist()] == ["x"]
