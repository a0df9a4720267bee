"""What the machine was like before it was traced, and putting it back.

Used in the watchdog, between fork and exit: no threads, nothing that has to be imported later.
"""

import errno
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from mmiotap.sources.kernel.tracefs import Tracefs

_CPUS = Path("/sys/devices/system/cpu")
#: A recorder that is killed closes its files one by one; until then the tracer is busy.
_BUSY_SECONDS = 30
_PAUSE = 0.05
_SWITCHES = ("tracing_on", "options/overwrite")


@dataclass(frozen=True)
class Before:
    """Settings of a machine that traces nothing.

    :ivar sizes: of each CPU's buffer, in KiB.
    """

    clock: str
    sizes: dict[int, int]
    switches: dict[str, str]
    online: list[Path]

    @classmethod
    def now(cls, tracefs: Tracefs) -> Self:
        """As it is."""
        clocks = tracefs.read("trace_clock").split()
        return cls(
            clock=next(clock.strip("[]") for clock in clocks if clock.startswith("[")),
            sizes={cpu: tracefs.buffer_kb(cpu) for cpu in tracefs.cpus()},
            switches={name: tracefs.read(name) for name in _SWITCHES},
            online=[file for file in sorted(_CPUS.glob("cpu[0-9]*/online")) if file.read_text().strip() == "1"],
        )

    def restore(self, tracefs: Tracefs) -> list[str]:
        """Put everything back, as far as it goes. Returns what did not."""
        failed = []
        steps = [(tracefs.path / "current_tracer", "nop"), (tracefs.path / "trace_clock", self.clock)]
        steps += [(tracefs.path / f"per_cpu/cpu{cpu}/buffer_size_kb", str(size)) for cpu, size in self.sizes.items()]
        steps += [(tracefs.path / name, value) for name, value in self.switches.items()]
        # The kernel brings CPUs back itself, when the tracer goes; what it did not manage is tried again.
        steps += [(file, "1") for file in self.online]
        until = time.monotonic() + _BUSY_SECONDS
        for file, value in steps:
            while True:
                try:
                    if file.parent.parent != _CPUS or file.read_text().strip() != value:
                        file.write_text(value)
                    break
                except OSError as error:
                    if error.errno != errno.EBUSY or time.monotonic() > until:
                        failed.append(f"{file} is not {value} again ({error.strerror})")
                        break
                time.sleep(_PAUSE)
        return failed
