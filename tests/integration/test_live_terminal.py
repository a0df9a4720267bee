"""``mmiotap live`` in a real terminal, driven by keys: tmux, with programs that are recorded meanwhile."""

import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import MMIOTAP, TIME_LIMIT, Compile, Start, with_patching
from mmiotap.trace.reader import open_trace

DRIVER = """
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
static volatile sig_atomic_t over;
static void end(int number) { over = number; }
int main(void)
{
    signal(SIGINT, end);
    int file = open("device", O_RDWR | O_CREAT, 0600);
    if (ftruncate(file, 4096))
        return 1;
    volatile uint32_t *device = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    puts("the driver begins");
    fflush(stdout);
    for (uint32_t i = 0; !over; i++) {
        device[2] = i;
        device[4] ^= 0x80;
        usleep(1000);
    }
    puts("the driver ends");
    return 7;
}
"""


#: What a terminal shows does not depend on it.
one_way = pytest.mark.parametrize("patching", ["auto"], indirect=True)


class Terminal:
    """A terminal of 90 × 20 characters with a shell in it, which says how each command ended."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._socket = folder / "tmux"
        shell = "PS1='ready> ' exec bash --norc --noprofile"
        self._tmux("new-session", "-d", "-x", "90", "-y", "20", f"cd {shlex.quote(str(folder))}; {shell}")
        self.wait_for("ready>")

    def _tmux(self, *words: str) -> str:
        command = ["tmux", "-S", str(self._socket), "-f", "/dev/null", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIME_LIMIT).stdout

    def run(self, command: list[str]) -> None:
        """Let the shell run it, and say how it ended; what stty says before and after is kept."""
        lines = ["clear", "stty -g > before", shlex.join(command), "echo ended with $?", "stty -g > after"]
        (self._folder / "go").write_text("\n".join(lines))
        self.type(". ./go")
        self.press("Enter")

    def type(self, text: str) -> None:
        self._tmux("send-keys", "-l", text)

    def press(self, *keys: str) -> None:
        self._tmux("send-keys", *keys)

    @property
    def text(self) -> str:
        return self._tmux("capture-pane", "-p")

    @property
    def is_on_its_other_screen(self) -> bool:
        return self._tmux("display-message", "-p", "#{alternate_on}").strip() == "1"

    def wait_for(self, pattern: str, of: Callable[[re.Match[str]], bool] = lambda _: True) -> re.Match[str]:
        deadline = time.monotonic() + TIME_LIMIT
        while not ((found := re.search(pattern, self.text, re.MULTILINE)) and of(found)):
            assert time.monotonic() < deadline, f"{pattern!r} does not come:\n{self.text}"
            time.sleep(0.05)
        return found

    def close(self) -> None:
        self._tmux("kill-server")


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    one = Terminal(tmp_path)
    yield one
    one.close()


@pytest.fixture
def driver(compile_c: Compile) -> Path:
    return compile_c(DRIVER, "driver")


def live(terminal: Terminal, *words: str | Path) -> None:
    """Begin, and wait for registers that change."""
    terminal.run([*MMIOTAP, "live", *map(str, words)])
    first = terminal.wait_for(r"0x8 +0x([0-9a-f]{8})")[1]
    terminal.wait_for(r"0x8 +0x([0-9a-f]{8})", lambda found: found[1] != first)
    assert terminal.is_on_its_other_screen


def is_restored(terminal: Terminal, folder: Path) -> None:
    terminal.wait_for(r"^ready>$")
    assert not terminal.is_on_its_other_screen
    assert (folder / "before").read_text() == (folder / "after").read_text() != ""


def test_a_program(terminal: Terminal, driver: Path, tmp_path: Path) -> None:
    live(terminal, "-o", "t.mmiotap", "--map", "**/device", "--", driver)
    terminal.press("p")
    terminal.wait_for("PAUSED")
    paused = terminal.wait_for(r"0x8 +0x([0-9a-f]{8})")[1]
    count = open_trace(tmp_path / "t.mmiotap").count
    deadline = time.monotonic() + TIME_LIMIT
    while open_trace(tmp_path / "t.mmiotap").count == count:
        assert time.monotonic() < deadline
    assert terminal.wait_for(r"0x8 +0x([0-9a-f]{8})")[1] == paused, "recording goes on, the screen does not"
    terminal.press("p")
    terminal.wait_for(r"0x8 +0x([0-9a-f]{8})", lambda found: found[1] != paused)
    terminal.press("f")
    terminal.type("read")
    terminal.press("Enter")
    terminal.wait_for(r"filter: read")
    terminal.wait_for(r"^1:device +0x10 .*[1-9][0-9]* +0 ")
    assert "0x8 " not in terminal.text
    terminal.press("q")
    terminal.wait_for("the driver begins\nthe driver ends\n(.*\n)*ended with 7")
    is_restored(terminal, tmp_path)
    trace = open_trace(tmp_path / "t.mmiotap")
    assert (trace.state, trace.lost) == ("finished", 0)
    assert trace.info["exit"] == {"status": 7, "signal": None}


@one_way
def test_a_process_runs_on(terminal: Terminal, driver: Path, start: Start, tmp_path: Path) -> None:
    program = start(driver)
    while not (tmp_path / "device").exists():
        assert program.process.poll() is None
        time.sleep(0.01)
    live(terminal, "-o", "t.mmiotap", "--map", "**/device", str(program.pid))
    terminal.press("C-c")
    terminal.wait_for("ended with 0")
    is_restored(terminal, tmp_path)
    assert open_trace(tmp_path / "t.mmiotap").state == "finished"
    assert program.process.poll() is None
    assert "live/arena" not in Path(f"/proc/{program.pid}/maps").read_text()


@one_way
def test_a_recording_of_somebody_else_goes_on(
    terminal: Terminal, driver: Path, start: Start, tmp_path: Path, patching: str
) -> None:
    words = with_patching([*MMIOTAP, "record", "-o", "t.mmiotap", "--map", "**/device", "--", driver], patching)
    recorder = start(*words)
    while not (tmp_path / "t.mmiotap" / "trace.json").exists():
        assert recorder.process.poll() is None
        time.sleep(0.01)
    live(terminal, "t.mmiotap")
    terminal.press("q")
    terminal.wait_for("ended with 0")
    is_restored(terminal, tmp_path)
    assert recorder.process.poll() is None
    assert open_trace(tmp_path / "t.mmiotap").state == "recording"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["99999999"], "there is no process 99999999"),
        (["--", "no-such-program"], "no-such-program"),
        (["-o", "/proc/no", "--", "true"], "/proc/no"),
        (["."], "trace"),
    ],
)
def test_what_cannot_be_watched(terminal: Terminal, tmp_path: Path, words: list[str], says: str) -> None:
    terminal.run([*MMIOTAP, "live", *words])
    terminal.wait_for(r"^ended with [1-9]")
    assert says in terminal.text.replace("\n", "")
    assert "Traceback" not in terminal.text
    is_restored(terminal, tmp_path)
