"""In a guest: drains the same kind of events from the kernel's buffer by ``cat trace_pipe`` and as `mmiotap kernel` does.

Prints a JSON object: for each its events, seconds, and seconds of CPU time. The events are register reads of an e1000.
"""

import array
import fcntl
import json
import resource
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

from mmiotap.sources.kernel import checks, inventory
from mmiotap.sources.kernel.pipes import Pages
from mmiotap.sources.kernel.trace import KernelTrace
from mmiotap.sources.kernel.tracefs import Tracefs

#: linux/sockios.h, linux/ethtool.h: a driver's register dump; an ioctl that reads some registers.
_SIOCETHTOOL, _GET_REGISTERS, _DUMP_BYTES = 0x8946, 0x4, 4096
_FOLDER = Path("/dev/shm")  # noqa: S108 - the guest's memory, nobody else is there


def main(events: int) -> None:
    tracefs = checks.check()
    tracefs.write("trace_clock", "mono")
    tracefs.write("current_tracer", checks.TRACER)
    tracefs.write("per_cpu/cpu0/buffer_size_kb", str(64 << 10))
    subprocess.run(["modprobe", "e1000"], check=True)
    time.sleep(1)
    found = {}
    for name, drain in {"cat": _cat, "mmiotap": _mmiotap}.items():
        made = _fill(tracefs, events)
        clock, used = time.perf_counter(), _cpu_seconds()
        drain(tracefs)
        found[name] = {
            "events": made,
            "seconds": time.perf_counter() - clock,
            "cpu": _cpu_seconds() - used,
        }
    tracefs.write("current_tracer", "nop")
    print(json.dumps(found))


def _fill(tracefs: Tracefs, events: int) -> int:
    """Have the driver read registers until there are so many events in the buffer."""
    tracefs.write("tracing_on", "1")
    (net,) = Path("/sys/bus/pci/drivers/e1000").glob("*/net/*")
    dump = array.array("B", struct.pack("<III", _GET_REGISTERS, 0, _DUMP_BYTES) + bytes(_DUMP_BYTES))
    request = struct.pack("16sQ16x", net.name.encode(), dump.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        while _entries(tracefs) < events:
            for _ in range(100):
                fcntl.ioctl(any_socket, _SIOCETHTOOL, request)
    tracefs.write("tracing_on", "0")
    return _entries(tracefs)


def _entries(tracefs: Tracefs) -> int:
    return int(tracefs.read("per_cpu/cpu0/stats").split("entries: ")[1].split()[0])


def _cat(tracefs: Tracefs) -> None:
    """Ends by itself: nothing is left, and nothing is traced."""
    with (_FOLDER / "text").open("wb") as out:
        subprocess.run(["cat", tracefs.path / "trace_pipe"], stdout=out, check=True)


def _mmiotap(tracefs: Tracefs) -> None:
    devices = inventory.devices()
    pipe = Pages(tracefs, devices)
    trace = KernelTrace(tracefs, pipe, _FOLDER / "kernel.mmiotap", {"format": 1}, devices, force=True)
    trace.drain()
    trace.finish(None, 0)
    pipe.close()


def _cpu_seconds() -> float:
    """Of this process and those that it has waited for."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in spent)


if __name__ == "__main__":
    main(int(sys.argv[1]))
