"""Running the C programs of the benchmarks, alone and recorded."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
TIME_LIMIT = 300


class Program:
    """A compiled program in a folder of its own, with a file ``device`` beside it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.trace = folder / "trace"  #: of the last recording
        self._program = folder / name
        self.device = folder / "device"
        self.device.write_bytes(bytes(4096))
        source = HERE / f"{name}.c"
        subprocess.run(["gcc", "-O2", "-pthread", "-o", self._program, source], check=True, timeout=TIME_LIMIT)

    def command(self, *arguments: object) -> list[str]:
        return [str(self._program), *map(str, arguments)]

    def alone(self, *arguments: object) -> list[int]:
        """What it prints: numbers."""
        return numbers(self.command(*arguments))

    def recorded(self, *arguments: object, options: Sequence[str] = ()) -> list[int]:
        """The same, under ``mmiotap record`` with these options."""
        record = [sys.executable, "-m", "mmiotap", "record", "-q", "-f", "-o", str(self.trace), *options]
        return numbers([*record, "--map", str(self.device), "--", *self.command(*arguments)])


@contextmanager
def program(name: str) -> Iterator[Program]:
    """Compile benchmarks/NAME.c."""
    with tempfile.TemporaryDirectory(prefix="mmiotap-bench-") as folder:
        yield Program(name, Path(folder))


def numbers(command: list[str]) -> list[int]:
    """What a command prints: numbers."""
    result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIME_LIMIT)
    return [int(number) for number in result.stdout.split()]
