"""Marks from inside and outside, switching a running recording off and on, and who may not."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import MMIOTAP, Compile, Run, Start, Started
from mmiotap.trace.reader import open_trace

#: Copies commands (numbers) from a pipe to a register, and answers on stdout: one line when it is done.
ECHO = r"""
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
#include "mmiotap.h"

int main(int argc, char **argv)
{
    int fd = open(argv[1], O_RDWR);
    volatile uint32_t *base = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    FILE *commands = fopen(argv[2], "r"), *answers = fopen(argv[3], "w");
    unsigned number;
    char text[32];
    fprintf(answers, "%d\n", getpid());
    fflush(answers);
    while (fscanf(commands, "%u", &number) == 1) {
        base[0] = number;
        snprintf(text, sizeof text, "wrote %u", number);
        mmiotap_mark(text);
        fprintf(answers, "%u\n", number);
        fflush(answers);
    }
    return 0;
}
"""


class Echo:
    """A recorded ECHO, with a way to make it write one register value at a time."""

    def __init__(self, start: Start, program: Path, folder: Path, *options: str) -> None:
        registers = folder / "registers"
        registers.write_bytes(bytes(4096))
        commands, answers = folder / "commands", folder / "answers"
        os.mkfifo(commands)
        os.mkfifo(answers)
        self.trace = folder / "t"
        self.recorder: Started = start(
            *MMIOTAP,
            "record",
            "-o",
            self.trace,
            "--map",
            registers,
            *options,
            "--",
            program,
            registers,
            commands,
            answers,
        )
        self._commands = commands.open("w", buffering=1)
        self._answers = answers.open()
        self.pid = int(self._answers.readline())

    def write(self, number: int) -> None:
        """The program has written this number to its register, and marked it, when this returns."""
        self._commands.write(f"{number}\n")
        assert self._answers.readline() == f"{number}\n"

    def end(self) -> None:
        self._commands.close()
        self._answers.close()
        assert self.recorder.wait().status == 0

    def rows(self) -> list[tuple[str, int | str]]:
        """Writes (their value) and marks (their text) in time order."""
        events = open_trace(self.trace).events(["kind", "value", "text"]).to_pylist()
        return [
            ("mark", row["text"]) if row["kind"] == "mark" else ("write", row["value"])
            for row in events
            if row["kind"] in ("write", "mark")
        ]


@pytest.fixture
def echo(start: Start, compile_c: Compile, tmp_path: Path) -> Echo:
    return Echo(start, compile_c(ECHO), tmp_path)


def test_marks_from_inside_and_outside_stand_in_time_order(echo: Echo, mmiotap: Run) -> None:
    echo.write(1)
    for target, text in ((echo.pid, "by program"), (echo.recorder.pid, "by recorder"), (echo.trace, "by trace: ✓")):
        result = mmiotap("mark", str(target), text)
        assert (result.status, result.stdout, result.stderr) == (0, "", "")
    echo.write(2)
    expected = [
        ("write", 1),
        ("mark", "wrote 1"),
        ("mark", "by program"),
        ("mark", "by recorder"),
        ("mark", "by trace: ✓"),
        ("write", 2),
        ("mark", "wrote 2"),
    ]
    assert echo.rows() == expected  # while it runs
    echo.end()
    assert echo.rows() == expected


def test_marks_of_a_program_that_maps_nothing(mmiotap: Run, compile_c: Compile, tmp_path: Path) -> None:
    program = compile_c('#include "mmiotap.h"\nint main(void) { mmiotap_mark("alone"); return 0; }\n')
    assert mmiotap("record", "-o", "t", program).status == 0
    assert open_trace(tmp_path / "t").events(["kind", "text"]).to_pylist() == [{"kind": "mark", "text": "alone"}]


def wait_for_switch(echo: Echo, number: int, logged: bool) -> int:
    """Write rising numbers until one is logged, or not: threads follow the switch in a moment, not at once."""
    while True:
        number += 1
        echo.write(number)
        if (("write", number) in echo.rows()) == logged:
            return number


def test_disable_and_enable(echo: Echo, mmiotap: Run) -> None:
    echo.write(1)
    assert mmiotap("disable", str(echo.pid)).status == 0
    off = wait_for_switch(echo, 1, logged=False)
    echo.write(off + 1)
    assert mmiotap("enable", str(echo.trace)).status == 0
    on = wait_for_switch(echo, off + 1, logged=True)
    echo.write(on + 1)
    echo.end()
    written = [value for kind, value in echo.rows() if kind == "write"]
    assert written == [*range(1, off), *range(on, on + 2)]


def test_started_disabled(start: Start, compile_c: Compile, mmiotap: Run, tmp_path: Path) -> None:
    echo = Echo(start, compile_c(ECHO), tmp_path, "--disabled")
    echo.write(1)
    assert mmiotap("enable", str(echo.recorder.pid)).status == 0
    on = wait_for_switch(echo, 1, logged=True)
    echo.end()
    assert [value for kind, value in echo.rows() if kind == "write"] == [on]


def test_status_over_the_socket(echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    echo.write(1)
    monkeypatch.chdir(echo.trace / "live")
    assert Path("control").stat().st_mode & 0o777 == 0o600
    replies = []
    for line in (b'{"do": "status"}\n', b'{"do": "dance"}\n', b"[]\n", b"gibberish\n"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect("control")
            connection.sendall(line)
            replies.append(json.loads(connection.makefile().readline()))
    assert replies[0]["ok"] is True
    assert replies[0]["enabled"] is True
    assert replies[0]["lost"] == 0
    assert replies[0]["events"] > 0
    assert "'dance'" in replies[1]["error"]
    assert all("error" in reply for reply in replies[2:])


def test_a_client_that_says_nothing_does_not_block_the_others(echo: Echo, mmiotap: Run) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        folder = os.open(echo.trace / "live", os.O_PATH)
        silent.connect(f"/proc/self/fd/{folder}/control")
        os.close(folder)
        assert mmiotap("mark", str(echo.pid), "here").status == 0
    assert ("mark", "here") in echo.rows()


def refused(mmiotap: Run, target: str | Path) -> str:
    """The one line that every command gives for this target."""
    lines = set()
    for command in (["mark", str(target), "text"], ["enable", str(target)], ["disable", str(target)]):
        result = mmiotap(*command)
        assert result.status == 1
        assert re.fullmatch(r"mmiotap: .+\n", result.stderr)
        lines.add(result.stderr)
    assert len(lines) == 1
    return lines.pop()


def test_no_such_process(mmiotap: Run) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert refused(mmiotap, str(gone.pid)) == f"mmiotap: there is no process {gone.pid}\n"


def test_a_process_that_is_not_recorded(mmiotap: Run) -> None:
    assert f"process {os.getpid()} is not being recorded" in refused(mmiotap, str(os.getpid()))


def test_a_recording_that_is_over(mmiotap: Run, tmp_path: Path) -> None:
    assert mmiotap("record", "-q", "-o", "t", "true").status == 0
    assert "t: this recording is over (finished)" in refused(mmiotap, "t")


def test_a_folder_that_is_no_trace(mmiotap: Run, tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    assert "t" in refused(mmiotap, "t")


def test_a_recorder_that_died(echo: Echo, mmiotap: Run) -> None:
    echo.write(1)
    echo.recorder.process.kill()
    echo.recorder.process.wait()
    assert f"its recorder (process {echo.recorder.pid}) is gone: mmiotap recover" in refused(mmiotap, echo.trace)


AS_NOBODY = """
import os, sys
from mmiotap.cli import build_parser, main
import mmiotap.sources.control
build_parser()  # loads every command, for nobody may not be able to read this interpreter's folder
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
sys.exit(main(sys.argv[1:]))
"""


def test_somebody_else_may_not(echo: Echo) -> None:
    """As a user without privileges, who may not even look into the trace."""
    result = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, "mark", str(echo.pid), "text"], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 1
    assert "no permission" in result.stderr
