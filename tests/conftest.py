"""Fixtures that start real programs: each gets a time limit and is killed by its process group."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

#: How a test starts the command line.
MMIOTAP = [sys.executable, "-m", "mmiotap"]
#: Where mmiotap.h is.
INCLUDE = Path(__file__).parent.parent / "src" / "mmiotap" / "include"
#: Seconds that a program may take; only a hang takes so long.
TIME_LIMIT = 60.0

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # As a shell starts what is to run in the background; all that tests start would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
# As Ctrl-C, so that what tests have started does not outlive them.
signal.signal(signal.SIGTERM, signal.default_int_handler)


@dataclass(frozen=True)
class Result:
    """How a program ended; ``status`` is negative for a signal, as in subprocess."""

    status: int
    stdout: str
    stderr: str


class Started:
    """A program that runs in a session (and so a process group) of its own."""

    def __init__(self, command: Sequence[str | Path], *, cwd: Path, env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [os.fspath(word) for word in command],
            cwd=cwd,
            env=os.environ | (env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait(self, limit: float = TIME_LIMIT) -> Result:
        """Its end and all it wrote. Fails the test if that takes longer than ``limit`` seconds."""
        try:
            stdout, stderr = self.process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            self.kill()
            stdout, stderr = self.process.communicate()
            pytest.fail(f"still running after {limit} s; it wrote {stdout!r} and {stderr!r}")
        return Result(self.process.returncode, stdout, stderr)

    def kill(self) -> None:
        """End it and everything it started, whatever became of the leader."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return


#: --patch of the two ways in which recording tests run: each access a trap, or each site patched after its first.
WAYS = {"trapped": "off", "patched": "1"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test of integration/ and guest/ that starts programs runs both ways, unless it says what it wants."""
    is_recording = {"integration", "guest"} & set(metafunc.definition.path.parts)
    chosen = any("patching" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "patching" in metafunc.fixturenames and is_recording and not chosen:
        metafunc.parametrize("patching", WAYS.values(), ids=WAYS, indirect=True, scope="module")


@pytest.fixture(scope="module")
def patching(request: pytest.FixtureRequest) -> str:
    """What ``mmiotap record`` and ``attach`` get as --patch from ``start``, ``run`` and ``mmiotap``."""
    way: str = getattr(request, "param", "auto")
    return way


def with_patching(command: Sequence[str | Path], patching: str) -> list[str | Path]:
    """The same command; if it is ``mmiotap record`` or ``attach`` and has no --patch, with this one."""
    words = list(command)
    verb = next((word for word in words if word in ("record", "attach")), None)
    if verb and "--patch" not in words:
        at = words.index(verb) + 1
        if words[at - len(MMIOTAP) - 1 : at - 1] == MMIOTAP:
            words[at:at] = ["--patch", patching]
    return words


def until(condition: Callable[[], object]) -> None:
    """Wait for this to be so. Fails the test only for a hang."""
    end = time.monotonic() + TIME_LIMIT
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.01)


Start = Callable[..., Started]
Run = Callable[..., Result]
Compile = Callable[..., Path]


@pytest.fixture
def start(tmp_path: Path, patching: str) -> Iterator[Start]:
    """Start a command in the test's folder; it is killed at the end of the test."""
    all_started: list[Started] = []

    def start_one(*command: str | Path, cwd: Path = tmp_path, env: dict[str, str] | None = None) -> Started:
        started = Started(with_patching(command, patching), cwd=cwd, env=env)
        all_started.append(started)
        return started

    yield start_one
    for started in all_started:
        started.kill()
        started.process.wait()


@pytest.fixture
def run(start: Start) -> Run:
    """Run a command in the test's folder to its end."""

    def run_one(
        *command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None, limit: float = TIME_LIMIT
    ) -> Result:
        where = {} if cwd is None else {"cwd": cwd}
        return start(*command, env=env, **where).wait(limit)

    return run_one


@pytest.fixture
def mmiotap(run: Run) -> Run:
    """Run ``mmiotap`` with these arguments in the test's folder to its end."""

    def run_mmiotap(
        *arguments: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None, limit: float = TIME_LIMIT
    ) -> Result:
        return run(*MMIOTAP, *arguments, cwd=cwd, env=env, limit=limit)

    return run_mmiotap


@pytest.fixture
def compile_c(tmp_path: Path) -> Compile:
    """Compile C source text to a program in the test's folder and return its path."""

    def compile_one(source: str, name: str = "program", *flags: str) -> Path:
        program = tmp_path / name
        file = tmp_path / f"{name}.c"
        file.write_text(source)
        command = ["gcc", "-O2", "-g", "-pthread", "-Wall", f"-I{INCLUDE}", "-o", str(program), str(file), *flags]
        subprocess.run(command, check=True, timeout=TIME_LIMIT)
        return program

    return compile_one
