"""How large the kernel's buffers are: enough for the machine, from the start.

They do not grow while the kernel is traced: it records nothing meanwhile, and does not count what it leaves out
(__tracing_resize_ring_buffer in kernel/trace/trace.c stops the tracer, in Linux 6.7 and in stable releases since).
"""

import re
from pathlib import Path

from mmiotap.sources.kernel.tracefs import Tracefs

#: Share of the available memory that a CPU's buffer has, and its bounds in bytes.
_SHARE = 32
_LEAST, _MOST = 4 << 20, 256 << 20


def available() -> int:
    """Bytes that are free, or can be made free."""
    found = re.search(r"^MemAvailable: *(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(found[1]) << 10 if found else _LEAST * _SHARE


def size(tracefs: Tracefs, wanted: int | None) -> None:
    """Give each CPU that is online a buffer; by default its share. The tracer takes all CPUs offline but one."""
    share = min(max(available() // _SHARE, _LEAST), _MOST)
    for cpu in _online():
        tracefs.write(f"per_cpu/cpu{cpu}/buffer_size_kb", str(max((wanted or share) >> 10, 1)))


def _online() -> list[int]:
    """Numbers of CPUs, from a list such as 0-3,6."""
    text = Path("/sys/devices/system/cpu/online").read_text().strip()
    ranges = [[int(end) for end in one.split("-")] for one in text.split(",")]
    return [cpu for ends in ranges for cpu in range(ends[0], ends[-1] + 1)]
