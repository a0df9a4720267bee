"""tracefs: small files that say what the kernel traces, and let us say so (Documentation/trace/ftrace.rst in Linux)."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from mmiotap.trace.errors import MmiotapError

_MOUNT_POINT = Path("/sys/kernel/tracing")
#: Where older systems have it.
_PLACES = (_MOUNT_POINT, Path("/sys/kernel/debug/tracing"))
_STATISTIC = re.compile(r"^([a-z ]+): (\d+)$", re.MULTILINE)
#: What a CPU's ``stats`` counts of events that were recorded and then lost, or could not be recorded.
_LOSSES = ("overrun", "commit overrun", "dropped events")


@dataclass(frozen=True)
class Tracefs:
    """The mounted tracefs."""

    path: Path

    @classmethod
    def mounted(cls) -> Self:
        """Where it is; it is mounted where it belongs if it is not. Raises MmiotapError if it cannot be."""
        for place in _PLACES:
            if (place / "current_tracer").exists():
                return cls(place)
        mount = ["mount", "-t", "tracefs", "tracefs", str(_MOUNT_POINT)]
        done = subprocess.run(mount, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            raise MmiotapError(f"tracefs cannot be mounted ({' '.join(done.stderr.split())}): is this a container?")
        return cls(_MOUNT_POINT)

    def read(self, name: str) -> str:
        """The text of a file, without white space around it."""
        return (self.path / name).read_text(errors="replace").strip()

    def write(self, name: str, text: str) -> None:
        """Say something to the kernel in one write. Raises OSError if it does not like it."""
        with (self.path / name).open("wb", buffering=0) as file:
            file.write(text.encode(errors="surrogateescape"))

    def cpus(self) -> list[int]:
        """CPUs that have a buffer, online or not."""
        return sorted(int(folder.name.removeprefix("cpu")) for folder in (self.path / "per_cpu").glob("cpu*"))

    def lost(self) -> int:
        """How many events the kernel lost since its tracer was set, on all CPUs."""
        found = [_STATISTIC.findall(self.read(f"per_cpu/cpu{cpu}/stats")) for cpu in self.cpus()]
        return sum(int(number) for numbers in found for name, number in numbers if name in _LOSSES)

    def buffer_kb(self, cpu: int) -> int:
        """Size of a CPU's buffer. One that was never used is small, and grows to its real size when it is."""
        size = self.read(f"per_cpu/cpu{cpu}/buffer_size_kb")
        return int(size.partition("expanded: ")[2].rstrip(")") or size)
