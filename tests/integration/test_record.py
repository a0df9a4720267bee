"""``mmiotap record``: real programs, from the command line to the rows of the trace."""

import importlib.util
import os
import pty
import re
import shlex
import signal
import sys
from pathlib import Path

import pytest

from conftest import MMIOTAP, Compile, Run, Start
from mmiotap.trace.reader import open_trace

#: Maps a file shared and touches it with every plain width, then exits with status 7.
DEVICE = r"""
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    int fd = open(argv[1], O_RDWR);
    volatile char *base = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return 1;
    *(volatile uint8_t *)(base + 1) = 0x11;
    *(volatile uint16_t *)(base + 2) = 0x2222;
    *(volatile uint32_t *)(base + 4) = 0x33333333;
    *(volatile uint64_t *)(base + 4096) = 0x4444444444444444;
    if (*(volatile uint8_t *)(base + 1) != 0x11 || *(volatile uint16_t *)(base + 2) != 0x2222)
        return 2;
    if (*(volatile uint32_t *)(base + 4) != 0x33333333 || *(volatile uint64_t *)(base + 4096) != 0x4444444444444444)
        return 3;
    munmap((void *)base, 8192);
    return 7;
}
"""

DEVICE_EVENTS = [
    ("map", 0, 0, None),
    ("write", 1, 1, 0x11),
    ("write", 2, 2, 0x2222),
    ("write", 4, 4, 0x33333333),
    ("write", 8, 4096, 0x4444444444444444),
    ("read", 1, 1, 0x11),
    ("read", 2, 2, 0x2222),
    ("read", 4, 4, 0x33333333),
    ("read", 8, 4096, 0x4444444444444444),
    ("unmap", 0, 0, 8192),
]


@pytest.fixture
def registers(tmp_path: Path) -> Path:
    """A file that stands for a device."""
    path = tmp_path / "registers"
    path.write_bytes(bytes(8192))
    return path


def rows(trace: Path) -> list[tuple[str, int, int, int | None]]:
    """Kind, width, offset, value of every event; the value of a map row is an address, and not compared."""
    table = open_trace(trace).events(["kind", "width", "offset", "value"])
    return [
        (row["kind"], row["width"], row["offset"], None if row["kind"] == "map" else row["value"])
        for row in table.to_pylist()
    ]


def test_what_was_stepped_is_counted(compile_c: Compile, mmiotap: Run, registers: Path, tmp_path: Path) -> None:
    source = r"""
    #include <fcntl.h>
    #include <stdint.h>
    #include <sys/mman.h>
    int main(int argc, char **argv)
    {
        uint16_t *base = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, open(argv[argc - 1], O_RDWR), 0);
        base[8] = 5;
        for (int i = 0; i < 3; i++)
            __asm__ volatile("movw %0, %%gs" : : "m"(*base));
        return 0;
    }
    """
    result = mmiotap("record", "-o", "trace", "--map", registers, "--", compile_c(source), registers)
    assert result.status == 0
    assert "5 events, 1 mapping, 1 thread, stepped: 3, lost: 0, " in result.stderr
    assert "1 trapped (25.0%), 3 stepped (75.0%)" in mmiotap("stats", "trace").stdout


def test_every_access_of_a_small_driver(compile_c: Compile, mmiotap: Run, registers: Path, tmp_path: Path) -> None:
    program = compile_c(DEVICE)
    result = mmiotap("record", "-o", "trace", "--map", f"{tmp_path}/reg*", "--", program, registers)
    assert result.status == 7
    assert result.stdout == ""
    assert re.fullmatch(
        r"mmiotap: 10 events, 1 mapping, 1 thread, lost: 0, \d+\.\d\d s\nmmiotap: next: mmiotap show trace\n",
        result.stderr,
    )
    trace = open_trace(tmp_path / "trace")
    assert rows(tmp_path / "trace") == DEVICE_EVENTS
    assert trace.count == len(DEVICE_EVENTS)
    assert trace.lost == 0
    assert trace.state == "finished"
    assert trace.info["exit"] == {"status": 7, "signal": None}
    assert trace.info["command"] == [str(program), str(registers)]
    assert [(mapping.path, mapping.length) for mapping in trace.mappings] == [(str(registers), 8192)]
    assert str(program) in [module.path for module in trace.modules]
    table = trace.events(["pid", "tid", "pc", "map_id"])
    assert set(table["pid"].to_pylist()) == {trace.mappings[0].pid}
    assert table["tid"] == table["pid"]
    assert set(table["map_id"].to_pylist()) == {1}
    assert not (tmp_path / "trace" / "live").exists()
    assert (tmp_path / "trace").stat().st_mode & 0o777 == 0o700


def test_recording_leaves_pandas_alone(
    compile_c: Compile, mmiotap: Run, registers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert importlib.util.find_spec("pandas")  # pyarrow imports it at the first occasion: half a second
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    result = mmiotap("record", "-q", "-o", "t", "--map", registers, "--", compile_c(DEVICE, "device"), registers)
    assert result.status == 7
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "pyarrow.lib" in imported
    assert "pandas" not in imported


def test_the_next_command_that_is_named_works(compile_c: Compile, run: Run, registers: Path, tmp_path: Path) -> None:
    program = compile_c(DEVICE)
    result = run(*MMIOTAP, "record", "-o", "a trace", "--map", registers, program, registers)
    words = shlex.split(result.stderr.splitlines()[-1].removeprefix("mmiotap: next: "))
    assert words == ["mmiotap", "show", "a trace"]
    assert run(*MMIOTAP, *words[1:]).status == 0


def test_default_name_is_of_program_and_pid(compile_c: Compile, start: Start, registers: Path, tmp_path: Path) -> None:
    program = compile_c(DEVICE)
    started = start(*MMIOTAP, "record", "--map", registers, program, registers)
    assert started.wait().status == 7
    assert [path.name for path in tmp_path.glob("*.mmiotap")] == [f"program.{started.pid}.mmiotap"]


def test_options_after_the_command_are_its_own(mmiotap: Run, tmp_path: Path) -> None:
    code = "import sys; print(sys.argv[1:])"
    result = mmiotap("record", "-q", "-o", "t", sys.executable, "-c", code, "-o", "--map", "--", "-f", "--help")
    assert result.stdout == "['-o', '--map', '--', '-f', '--help']\n"
    assert (result.status, result.stderr) == (0, "")


def test_record_true(mmiotap: Run, tmp_path: Path) -> None:
    result = mmiotap("record", "-o", "t", "--", "true")
    assert result.status == 0
    assert "mmiotap: 0 events, 0 mappings, 0 threads, lost: 0" in result.stderr
    assert "nothing was mapped" in result.stderr
    trace = open_trace(tmp_path / "t")
    assert (trace.count, trace.state, trace.info["exit"]) == (0, "finished", {"status": 0, "signal": None})
    assert trace.events().num_rows == 0


def test_nothing_matched_names_what_was_mapped(compile_c: Compile, run: Run, registers: Path, tmp_path: Path) -> None:
    program = compile_c(DEVICE)
    result = run(*MMIOTAP, "record", "-o", "t", "--map", "/dev/nothing*", program, registers)
    assert result.status == 7
    assert f"no rule selects what was mapped: {registers}" in result.stderr
    assert open_trace(tmp_path / "t").info["not_selected"] == [str(registers)]
    words = shlex.split(result.stderr.splitlines()[-1].removeprefix("mmiotap: next: "))
    assert words[:4] == ["mmiotap", "record", "--map", str(registers)]
    again = run(*MMIOTAP, *words[1:])
    assert again.status == 7
    assert "10 events" in again.stderr


@pytest.mark.parametrize("status", [0, 1, 2, 126, 127, 255])
def test_exit_status_is_the_programs(mmiotap: Run, tmp_path: Path, status: int) -> None:
    assert mmiotap("record", "-q", "-o", "t", "--", "sh", "-c", f"exit {status}").status == status
    assert open_trace(tmp_path / "t").info["exit"] == {"status": status, "signal": None}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGPIPE, signal.SIGINT])
def test_fatal_signal_is_the_programs(mmiotap: Run, tmp_path: Path, number: signal.Signals) -> None:
    result = mmiotap("record", "-o", "t", "--", "sh", "-c", f"kill -{number.name.removeprefix('SIG')} $$")
    assert result.status == -number
    assert "lost: 0" in result.stderr
    assert open_trace(tmp_path / "t").info["exit"] == {"status": None, "signal": number}
    assert open_trace(tmp_path / "t").state == "finished"
    assert list(tmp_path.glob("core*")) == []


def test_the_program_starts_as_a_shell_would_start_it(run: Run, tmp_path: Path) -> None:
    """Same files, signal mask, signal dispositions, process group and limits, with and without us."""
    script = (
        "import os, re, signal\n"
        "print(sorted(os.listdir('/proc/self/fd')), os.getpgrp() == os.getsid(0))\n"
        "masks = re.findall(r'Sig(?:Blk|Ign):\\s*(.*)', open('/proc/self/status').read())\n"
        "print([hex(int(mask, 16) & 0x7FFFFFFF) for mask in masks])\n"  # beyond: what glibc keeps for itself
    )
    (tmp_path / "script.py").write_text(script)
    plain = run(sys.executable, "script.py")
    recorded = run(*MMIOTAP, "record", "-q", "-o", "t", sys.executable, "script.py")
    assert plain.status == 0
    assert recorded.stdout == plain.stdout
    assert recorded.stderr == ""


def test_files_that_the_caller_opened_reach_the_program(run: Run, tmp_path: Path) -> None:
    (tmp_path / "input").write_text("hello")
    command = shlex.join([*MMIOTAP, "record", "-q", "-o", "t", "sh", "-c", "cat <&5"])
    assert run("sh", "-c", f"exec 5<input; {command}").stdout == "hello"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_to_the_recorder_are_the_programs(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    code = f"trap 'echo got it; exit 9' {name}; touch ready; while :; do sleep 0.02; done"
    started = start(*MMIOTAP, "record", "-q", "-o", "t", "sh", "-c", code)
    while not (tmp_path / "ready").exists():
        assert started.process.poll() is None
    os.kill(started.pid, number)
    result = started.wait()
    assert (result.status, result.stdout) == (9, "got it\n")
    assert open_trace(tmp_path / "t").state == "finished"


def test_ctrl_c_reaches_the_program_and_the_trace_is_finished(tmp_path: Path) -> None:
    code = "trap 'echo interrupted; exit 5' INT; echo ready; while :; do sleep 0.05; done"
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execv(MMIOTAP[0], [*MMIOTAP, "record", "-o", "t", "sh", "-c", code])
    try:
        seen = b""
        while b"ready" not in seen:
            seen += os.read(terminal, 1000)
        os.write(terminal, b"\x03")
        while b"lost: 0" not in seen:
            seen += os.read(terminal, 1000)
        assert b"interrupted" in seen
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(terminal)  # hangs up whatever still runs there
    assert os.waitstatus_to_exitcode(status) == 5
    assert open_trace(tmp_path / "t").state == "finished"


@pytest.mark.parametrize(
    ("command", "status", "text"),
    [
        (["no-such-program"], 127, "mmiotap: no-such-program: no such program in PATH\n"),
        (["./none"], 127, "mmiotap: ./none: no such file\n"),
        (["./plain"], 126, "mmiotap: ./plain is not executable (chmod +x makes it so)\n"),
    ],
)
def test_a_program_that_cannot_start(mmiotap: Run, tmp_path: Path, command: list[str], status: int, text: str) -> None:
    (tmp_path / "plain").write_text("")
    result = mmiotap("record", "-o", "t", "--", *command)
    assert (result.status, result.stderr) == (status, text)
    assert not (tmp_path / "t").exists()


def test_a_program_that_the_kernel_refuses(mmiotap: Run, tmp_path: Path) -> None:
    """Its ELF header is fine, its program headers are not."""
    program = tmp_path / "broken"
    program.write_bytes(Path(sys.executable).read_bytes()[:4096])
    program.chmod(0o755)
    result = mmiotap("record", "-o", "t", program)
    assert result.status in (126, -signal.SIGSEGV, -signal.SIGKILL)
    assert "Traceback" not in result.stderr


def test_static_program_is_one_clear_line_for_the_agent(compile_c: Compile, mmiotap: Run, tmp_path: Path) -> None:
    program = compile_c("int main(void) { return 0; }\n", "program", "-static")
    result = mmiotap("record", "-o", "t", "--engine", "agent", program)
    assert result.status == 1
    assert result.stderr.count("\n") == 1
    assert f"mmiotap: {program} is statically linked" in result.stderr
    assert not (tmp_path / "t").exists()


def test_an_existing_trace_needs_force(mmiotap: Run, tmp_path: Path) -> None:
    assert mmiotap("record", "-q", "-o", "t", "true").status == 0
    refused = mmiotap("record", "-o", "t", "sh", "-c", "exit 3")
    assert refused.status == 1
    assert refused.stderr.count("\n") == 1
    assert "-f" in refused.stderr
    assert open_trace(tmp_path / "t").info["command"] == ["true"]
    assert mmiotap("record", "-q", "-f", "-o", "t", "sh", "-c", "exit 3").status == 3
    assert open_trace(tmp_path / "t").info["command"] == ["sh", "-c", "exit 3"]


def test_a_folder_that_is_no_trace_is_never_replaced(mmiotap: Run, tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "precious").write_text("keep")
    assert mmiotap("record", "-f", "-o", "t", "true").status == 1
    assert (tmp_path / "t" / "precious").read_text() == "keep"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--buffer", "lots"], "'lots' is no size: write 65536, 512K, 16M or 1G"),
        (["--on-full", "explode"], "invalid choice: 'explode'"),
        ([], "what shall be recorded?"),
    ],
)
def test_wrong_usage(mmiotap: Run, options: list[str], text: str) -> None:
    result = mmiotap("record", *options)
    assert result.status == 2
    assert text in result.stderr


def test_rules_that_do_not_fit(mmiotap: Run, tmp_path: Path) -> None:
    result = mmiotap("record", "-o", "t", "--map", "/" + "x" * 4000, "true")
    assert result.status == 1
    assert "the --map rules take 4003 bytes, more than the 3072 there is room for" in result.stderr
    assert not (tmp_path / "t").exists()


FORKS = r"""
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>
#include <stdio.h>

/* The child outlives its parent, which waits only until the child has touched the region. */
int main(int argc, char **argv)
{
    int ready[2];
    char byte;
    if (pipe(ready))
        return 1;
    if (fork()) {
        close(ready[1]);
        return read(ready[0], &byte, 1) == 1 ? 0 : 2;
    }
    int fd = open(argv[1], O_RDWR);
    volatile uint32_t *base = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    base[1] = 42;
    FILE *file = fopen("child", "w");
    fprintf(file, "%d", getpid());
    fclose(file);
    write(ready[1], "x", 1);
    while (access("stop", F_OK))
        usleep(1000);
    base[2] = 43;
    return 0;
}
"""


def test_a_child_that_outlives_the_program_is_named(
    compile_c: Compile, start: Start, registers: Path, tmp_path: Path
) -> None:
    program = compile_c(FORKS)
    started = start(*MMIOTAP, "record", "-o", "t", "--map", registers, program, registers)
    status = started.process.wait(timeout=60)
    child = (tmp_path / "child").read_text()
    trace = open_trace(tmp_path / "t")
    (tmp_path / "stop").touch()
    result = started.wait()
    assert status == 0
    assert f"still running, unrecorded: {child}\n" in result.stderr
    assert trace.state == "finished"
    assert ("write", 4, 4, 42) in rows(tmp_path / "t")
    assert registers.read_bytes()[4:12] == bytes([42, 0, 0, 0, 43, 0, 0, 0])  # it runs on, unharmed


def test_latency_is_measured_when_asked_for(compile_c: Compile, mmiotap: Run, registers: Path, tmp_path: Path) -> None:
    program = compile_c(DEVICE)
    for name, options in (("plain", []), ("timed", ["--latency"])):
        assert mmiotap("record", "-q", "-o", name, *options, "--map", registers, program, registers).status == 7
    accesses = [
        [
            row["duration_ns"]
            for row in open_trace(tmp_path / name).events().to_pylist()
            if row["kind"] in ("read", "write")
        ]
        for name in ("plain", "timed")
    ]
    assert accesses[0] == [None] * 8
    assert all(isinstance(duration, int) for duration in accesses[1])


def test_a_deep_folder(mmiotap: Run, tmp_path: Path) -> None:
    """Longer than the path of a Unix socket may be."""
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    assert mmiotap("record", "-q", "-o", deep / "t", "true").status == 0
    assert open_trace(deep / "t").state == "finished"
