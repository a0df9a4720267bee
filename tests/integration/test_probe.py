"""mmiotap probe: accesses printed and answered, by both engines; and what becomes of a program whose handlers fail."""

import re
import signal
import subprocess
from pathlib import Path

import pytest

from conftest import MMIOTAP, TIME_LIMIT, Compile, Run, Started

EDU = Path(__file__).parents[2] / "examples" / "edu"

#: Writes 1, 2 and 3 to three registers and reads the first two; its exit status is what it has read, as two digits.
DRIVER = r"""
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    int fd = open(argv[1], O_RDWR);
    volatile uint32_t *base = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (argc > 2)
        read(0, &(char){0}, 1);
    base[4] = 1;
    base[5] = 2;
    base[1026] = 3;
    return base[4] * 10 + base[5];
}
"""
FIRST, SECOND = 0x10, 0x14

#: There is no --patch to choose, and most of these programs make too few accesses for it.
pytestmark = pytest.mark.parametrize("patching", ["auto"], indirect=True)


@pytest.fixture(autouse=True)
def _once(patching: str) -> None:
    """Every test runs once."""


@pytest.fixture
def registers(tmp_path: Path) -> Path:
    path = tmp_path / "registers"
    path.write_bytes(bytes(8192))
    return path


@pytest.fixture
def driver(compile_c: Compile) -> Path:
    return compile_c(DRIVER, "driver")


@pytest.fixture(params=["agent", "ptrace"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def script(folder: Path, text: str) -> Path:
    path = folder / "script.py"
    path.write_text(text)
    return path


def accesses(stdout: str) -> list[tuple[str, ...]]:
    """Kind, offset and value of each line."""
    return re.findall(r"(read|write) +4 \S+ +(0x\w+) \S\S (0x\w+) ", stdout)


def word(registers: Path, offset: int) -> int:
    return int.from_bytes(registers.read_bytes()[offset : offset + 4], "little")


def test_each_access_is_printed_and_nothing_else(mmiotap: Run, driver: Path, registers: Path, engine: str) -> None:
    result = mmiotap("probe", "--engine", engine, "--at", f"{registers}:{FIRST}+4", "--", driver, registers)
    assert result.status == 12
    assert accesses(result.stdout) == [("write", "0x0010", "0x00000001"), ("read", "0x0010", "0x00000001")]
    assert "main+0x" in result.stdout
    assert result.stderr == ""


def test_places_need_not_be_aligned_and_may_be_many(mmiotap: Run, driver: Path, registers: Path, engine: str) -> None:
    places = ["--at", f"{registers}:0x17+1", "--at", f"{registers}:0x1000+0x20"]
    result = mmiotap("probe", "--engine", engine, *places, "--", driver, registers)
    assert [access[:2] for access in accesses(result.stdout)] == [
        ("write", "0x0014"), ("write", "0x1008"), ("read", "0x0014"),
    ]  # fmt: skip


ANSWERS = """\
def pre(access):
    if access.kind == "write" and access.offset == 0x10:
        access.value += 3
    elif access.kind == "write":
        access.swallow()
    elif access.offset == 0x14:
        access.answer(7)

def post(access):
    if access.kind == "read" and access.offset == 0x10:
        access.value += 1
"""


def test_a_script_answers(mmiotap: Run, driver: Path, registers: Path, tmp_path: Path, engine: str) -> None:
    answers = script(tmp_path, ANSWERS)
    result = mmiotap(
        "probe", "--engine", engine, "--at", f"{registers}:0+0x1000", "--script", answers, "--", driver, registers
    )
    assert (result.status, result.stderr) == (57, "")
    assert [word(registers, offset) for offset in (FIRST, SECOND, 0x1008)] == [4, 0, 3]


TELLS = """\
def post(access):
    print(access.kind, access.offset, access.width, access.value, access.address % 4096, access.symbol.split("+")[0],
          access.pid == access.tid, access.path.rpartition("/")[2], sorted(access.registers)[:2], flush=True)
"""


def test_what_a_script_is_told(mmiotap: Run, driver: Path, registers: Path, tmp_path: Path, engine: str) -> None:
    result = mmiotap(
        "probe", "--engine", engine, "--at", f"{registers}:0x10+1", "--script", script(tmp_path, TELLS), "--", driver,
        registers,
    )  # fmt: skip
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        f"{kind} 16 4 1 16 main True registers ['r10', 'r11']" for kind in ("write", "read")
    ]


def test_a_script_that_only_observes(mmiotap: Run, driver: Path, registers: Path, tmp_path: Path) -> None:
    watches = script(tmp_path, "def post(access):\n    print(access.kind, access.offset, access.value, flush=True)\n")
    result = mmiotap("probe", "--observe", "--at", f"{registers}:0x14+4", "--script", watches, "--", driver, registers)
    assert (result.status, result.stdout, result.stderr) == (12, "write 20 2\nread 20 2\n", "")


def test_the_trace_is_kept_where_that_is_asked_for(
    mmiotap: Run, driver: Path, registers: Path, tmp_path: Path, engine: str
) -> None:
    trace = tmp_path / "kept"
    place = f"{registers}:0x10+4"
    result = mmiotap("probe", "--engine", engine, "--at", place, "-o", trace, "--", driver, registers)
    assert result.stderr == f"mmiotap: next: mmiotap show {trace}\n"
    assert ("read", "0x0010", "0x00000001") in accesses(mmiotap("show", trace).stdout)


def test_a_handler_that_raises(mmiotap: Run, driver: Path, registers: Path, tmp_path: Path, engine: str) -> None:
    broken = script(tmp_path, "def pre(access):\n    {}[access.offset]\n")
    arguments = ["--engine", engine, "--at", f"{registers}:0x10+4", "--script", broken]
    result = mmiotap("probe", *arguments, "--", driver, registers)
    assert result.status == 12
    reports = result.stderr.splitlines()
    assert len(reports) == 2
    assert re.fullmatch(
        rf"mmiotap: pre of <write 4 at {registers}:0x10, value 0x00000001, pc 0x[0-9a-f]+>: "
        rf"KeyError: 16 \({broken}:2\)",
        reports[0],
    )


def test_a_handler_that_raises_stops_the_program_where_that_is_asked_for(
    mmiotap: Run, driver: Path, registers: Path, tmp_path: Path, engine: str
) -> None:
    broken = script(tmp_path, "def pre(access):\n    {}[access.offset]\n")
    arguments = ["--engine", engine, "--on-hook-failure", "stop", "--at", f"{registers}:0x10+4", "--script", broken]
    result = mmiotap("probe", *arguments, "--", driver, registers)
    assert result.status == -signal.SIGKILL
    assert "KeyError: 16" in result.stderr


SLOW = """\
import time
def pre(access):
    if access.kind == "write":
        time.sleep(2)
        access.swallow()
"""


@pytest.mark.parametrize(("policy", "status"), [("device", 12), ("stop", -signal.SIGKILL)])
def test_a_handler_that_is_too_slow(
    mmiotap: Run, driver: Path, registers: Path, tmp_path: Path, policy: str, status: int, engine: str
) -> None:
    arguments = ["--engine", engine, "--limit", "0.05", "--on-hook-failure", policy]
    arguments += ["--script", str(script(tmp_path, SLOW))]
    result = mmiotap("probe", *arguments, "--at", f"{registers}:0x10+4", "--", driver, registers)
    assert result.status == status
    assert "went on without an answer" in result.stderr


def test_the_prober_is_killed_and_the_program_gets_the_device(
    driver: Path, registers: Path, tmp_path: Path, engine: str
) -> None:
    """Killed in the middle of an answer."""
    dies = script(tmp_path, "import os\ndef pre(access):\n    os.kill(os.getpid(), 9)\n")
    status = tmp_path / "status"
    shell = f"{driver} {registers}; echo $? >{status}.new; mv {status}.new {status}"
    command: list[str | Path] = ["probe", "--engine", engine, "--at", f"{registers}:0x10+4", "--script", dies]
    started = Started([*MMIOTAP, *command, "--", "sh", "-c", shell], cwd=tmp_path)
    assert started.wait().status == -signal.SIGKILL  # whose output is read to its end, which is the shell's
    assert status.read_text() == "12\n"


def test_a_script_that_changes_is_in_force_at_once(driver: Path, registers: Path, tmp_path: Path, engine: str) -> None:
    answers = script(tmp_path, "def pre(access): access.kind == 'read' and access.answer(3)\n")
    command: list[str | Path] = [
        *MMIOTAP, "probe", "--engine", engine, "--at", f"{registers}:0+0x1000", "--script", answers, "--", driver,
        registers, "wait",
    ]  # fmt: skip
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=tmp_path) as program:
        assert program.stdin is not None
        until_mapped(program.pid, registers)
        script(tmp_path, "def pre(access): access.kind == 'read' and access.answer(6)\n")
        program.stdin.write(b"\n")
        program.stdin.close()
        assert program.wait(TIME_LIMIT) == 66


def until_mapped(parent: int, registers: Path) -> None:
    """Until some descendant of this process has mapped the file."""
    for _ in range(int(TIME_LIMIT * 100)):
        for pid in children(parent):
            try:
                if str(registers) in Path(f"/proc/{pid}/maps").read_text():
                    return
            except OSError:
                continue
        subprocess.run(["sleep", "0.01"], check=True)
    pytest.fail(f"nobody has mapped {registers}")


def children(pid: int) -> list[int]:
    found = [int(child) for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()]
    return [*found, *(grandchild for child in found for grandchild in children(child))]


def test_a_process_that_runs_already(driver: Path, registers: Path, tmp_path: Path) -> None:
    with subprocess.Popen([driver, registers, "wait"], stdin=subprocess.PIPE) as program:
        assert program.stdin is not None
        answers = script(tmp_path, "print('ready', flush=True)\n" + ANSWERS)
        prober = Started(
            [*MMIOTAP, "probe", str(program.pid), "--at", f"{registers}:0+0x1000", "--script", answers], cwd=tmp_path
        )
        until_traced(program.pid)
        program.stdin.write(b"\n")
        program.stdin.close()
        assert program.wait(TIME_LIMIT) == 57
        assert prober.wait().status == 0


def until_traced(pid: int) -> None:
    """Until the probes are armed: the prober seizes a process, places them, and lets it run."""
    for _ in range(int(TIME_LIMIT * 100)):
        if re.search(r" ---s .*/registers$", Path(f"/proc/{pid}/maps").read_text(), re.MULTILINE):
            return
        subprocess.run(["sleep", "0.01"], check=True)
    pytest.fail(f"nothing is armed in {pid}")


def test_a_static_program_is_probed_from_outside(
    mmiotap: Run, compile_c: Compile, registers: Path, tmp_path: Path
) -> None:
    static = compile_c(DRIVER, "static", "-static")
    answers = script(tmp_path, ANSWERS)
    result = mmiotap("probe", "--at", f"{registers}:0+0x1000", "--script", answers, "--", static, registers)
    assert result.status == 57
    assert "statically linked" in result.stderr


@pytest.mark.parametrize("engine", ["agent", "ptrace"])
def test_the_edu_device_in_python(run: Run, engine: str) -> None:
    result = run(EDU / "run-hooked", "--engine", engine, env={"MMIOTAP": " ".join(MMIOTAP)})
    assert (result.status, result.stderr) == (0, "")
    assert [int(number) for number in re.findall(r"! = (\d+)", result.stdout)][-1] == 479001600
    assert "64 liveness checks, 0 wrong factorials, 0 wrong identifications" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        ([], 2, "what shall be probed, and where"),
        (["--at", "x:0+4"], 2, "what shall be probed, and where"),
        (["true"], 2, "what shall be probed, and where"),
        (["--at", "nonsense", "true"], 1, "'nonsense' is no place for a probe"),
        (["--at", "x:0+4", "--script", "none.py", "true"], 1, "none.py: No such file"),
        (["--at", "x:0+4", "--observe", "true"], 1, "--observe says how a script is called"),
        (["--at", "x:0+4", "no-such-program"], 127, "no such program"),
        (["--at", "x:0+4", "999999999"], 1, "there is no process 999999999"),
        (["--at", "x:0+4", "--engine", "agent", "1"], 1, "the agent cannot get into a process that runs"),
        (["--at", "/x:0+4", "true"], 0, "none of these places was there"),
    ],
)
def test_what_goes_wrong_is_one_line(
    mmiotap: Run, tmp_path: Path, arguments: list[str], status: int, text: str
) -> None:
    result = mmiotap("probe", *arguments, cwd=tmp_path)
    assert (result.status, result.stdout) == (status, "")
    assert text in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_observing_a_pre_is_refused(mmiotap: Run, tmp_path: Path) -> None:
    result = mmiotap(
        "probe", "--at", "x:0+4", "--observe", "--script", script(tmp_path, "def pre(access): pass\n"), "true"
    )
    assert (result.status, result.stdout) == (1, "")
    assert "has a pre, which cannot be called when an access is over" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_signals_are_the_programs(
    compile_c: Compile, registers: Path, tmp_path: Path, number: signal.Signals, engine: str
) -> None:
    killed = compile_c(f"#include <signal.h>\nint main(void) {{ raise({int(number)}); return 0; }}\n", "killed")
    started = Started([*MMIOTAP, "probe", "--engine", engine, "--at", "/x:0+4", "--", killed], cwd=tmp_path)
    assert started.wait().status == -number
