"""In a guest: takes such events from the kernel's buffer by ``cat trace_pipe`` and as `mmiotap kernel` does, in turn.

Prints a JSON list: for each round and way the seconds until the kernel's buffer is empty, until all is written, and
those of processor time. The events are what the e1000's
driver reads to tell its registers; as many each time, and nothing else is traced meanwhile.
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
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from mmiotap.sources.kernel import checks, inventory
from mmiotap.sources.kernel.pipes import Pages
from mmiotap.sources.kernel.trace import KernelTrace
from mmiotap.sources.kernel.tracefs import Tracefs
from mmiotap.sources.recording import start_info
from mmiotap.trace.reader import open_trace

#: linux/sockios.h, linux/ethtool.h: have a driver tell its registers.
_SIOCETHTOOL, _GET_REGISTERS, _DUMP_BYTES = 0x8946, 0x4, 4096
_AT_A_TIME = 100
_BUFFER_KB = 64 << 10
#: In the guest's memory; nobody else is there.
_TEXT, _TRACE = Path("/dev/shm/text"), Path("/dev/shm/kernel.mmiotap")


#: Has all out of the kernel's buffer; makes a trace of it.
_Way = tuple[Callable[[], object], Callable[[], object]]


def main(events: int, rounds: int) -> None:
    tracefs = checks.check()
    tracefs.write("trace_clock", "mono")
    tracefs.write("current_tracer", checks.TRACER)
    tracefs.write("per_cpu/cpu0/buffer_size_kb", str(_BUFFER_KB))
    subprocess.run(["modprobe", "e1000"], check=True)
    tracefs.write("tracing_on", "0")
    found: list[dict[str, dict[str, float]]] = []
    for _ in range(rounds):
        found.append({})
        for name, way in WAYS.items():
            made = _fill(tracefs, events)
            with way(tracefs) as (drain, write):
                clock, used = time.perf_counter(), _cpu_seconds()
                drain()
                seconds = time.perf_counter() - clock
                write()
                whole = time.perf_counter() - clock
                found[-1][name] = {"seconds": seconds, "whole": whole, "cpu": _cpu_seconds() - used}
            if (got := COUNTS[name]()) != made:
                sys.exit(f"{name}: {got} events of {made}")
    tracefs.write("current_tracer", "nop")
    print(json.dumps(found))


def _fill(tracefs: Tracefs, events: int) -> int:
    """Have the driver read registers until there are so many events in the buffer; returns how many there are."""
    (net,) = Path("/sys/bus/pci/drivers/e1000").glob("*/net/*")
    dump = array.array("B", struct.pack("<III", _GET_REGISTERS, 0, _DUMP_BYTES) + bytes(_DUMP_BYTES))
    request = struct.pack("16sQ16x", net.name.encode(), dump.buffer_info()[0])
    tracefs.write("trace", "")
    tracefs.write("tracing_on", "1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        while _entries(tracefs) < events:
            for _ in range(_AT_A_TIME):
                fcntl.ioctl(any_socket, _SIOCETHTOOL, request)
    tracefs.write("tracing_on", "0")
    return _entries(tracefs)


def _entries(tracefs: Tracefs) -> int:
    return int(tracefs.read("per_cpu/cpu0/stats").split("entries: ")[1].split()[0])


@contextmanager
def _cat(tracefs: Tracefs) -> Iterator[_Way]:
    """Ends by itself: nothing is left, and nothing is traced."""
    with _TEXT.open("wb") as out:
        yield partial(subprocess.run, ["cat", tracefs.path / "trace_pipe"], stdout=out, check=True), lambda: None


def _lines() -> int:
    with _TEXT.open("rb") as lines:
        return sum(line.startswith((b"R ", b"W ")) for line in lines)


@contextmanager
def _mmiotap(tracefs: Tracefs) -> Iterator[_Way]:
    """What a recording does once, at its beginning and its end, is not counted."""
    devices = inventory.devices()
    info = start_info([], {}, "kernel", time.monotonic_ns())
    with closing(Pages(tracefs, devices)) as pipe:
        trace = KernelTrace(tracefs, pipe, _TRACE, info, devices, force=True)
        with trace.controlled():
            yield pipe.empty, trace.drain
        trace.finish(None, 0)


def _rows() -> int:
    return open_trace(_TRACE).count


def _cpu_seconds() -> float:
    """Of this process and those that it has waited for."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in spent)


WAYS = {"cat": _cat, "mmiotap": _mmiotap}
COUNTS = {"cat": _lines, "mmiotap": _rows}

if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
