"""How large the kernel's buffers are: enough for the machine, and more before they overflow."""

import re
from contextlib import suppress
from pathlib import Path

from mmiotap.sources.kernel.tracefs import Tracefs

#: Share of the available memory that a CPU's buffer begins with, its bounds in bytes, and the share it may grow to.
_SHARE = 32
_LEAST, _MOST = 4 << 20, 256 << 20
_GROWN_SHARE = 4
#: A buffer is doubled if a look finds this share of it used.
_CROWDED_SHARE = 2


def available() -> int:
    """Bytes that are free, or can be made free."""
    found = re.search(r"^MemAvailable: *(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(found[1]) << 10 if found else _LEAST * _SHARE


def size(tracefs: Tracefs, wanted: int | None) -> None:
    """Give each CPU that is online a buffer; by default its share. The tracer takes all CPUs offline but one."""
    share = min(max(available() // _SHARE, _LEAST), _MOST)
    for cpu in _online():
        tracefs.write(f"per_cpu/cpu{cpu}/buffer_size_kb", str(max((wanted or share) >> 10, 1)))


def grow(tracefs: Tracefs, cpu: int, unread: int) -> None:
    """Double a CPU's buffer if what was unread in it is more than half, while there is memory for that."""
    now = tracefs.buffer_kb(cpu) << 10
    if unread * _CROWDED_SHARE > now and now * 2 <= available() // _GROWN_SHARE:
        with suppress(OSError):  # no memory after all: the buffer stays as it is
            tracefs.write(f"per_cpu/cpu{cpu}/buffer_size_kb", str(now >> 9))


def _online() -> list[int]:
    """Numbers of CPUs, from a list such as 0-3,6."""
    text = Path("/sys/devices/system/cpu/online").read_text().strip()
    ranges = [[int(end) for end in one.split("-")] for one in text.split(",")]
    return [cpu for ends in ranges for cpu in range(ends[0], ends[-1] + 1)]
