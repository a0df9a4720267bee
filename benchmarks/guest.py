"""What an access to a device costs under each way of watching, in one guest: the same BAR of an emulated e1000.

Everything is emulated, the traps too, so only the ratios tell. From user space a program drives the BAR (``patched
access``); the kernel's driver reads it when asked for its statistics, watched by the kernel's mmiotrace as ``mmiotap
kernel`` drives it.
"""

import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow.compute as pc

import mmiotap
from benchmarks.programs import HERE, TIME_LIMIT
from benchmarks.result import Result

_GUEST = HERE.parent / "tests" / "guest"
_DEVICES = ["-netdev user,id=n0", "-device e1000,netdev=n0,romfile="]
_ROUNDS = 7
_ACCESSES = 2000
_CALLS = 20
#: Offset of the register CRCERRS (82540EP software developer's manual, 13.7.1).
_CRC_ERRORS = 0x4000

_SCRIPT = f"""
cd {{folder}}
card=$(dirname $(grep -l 0x100e /sys/bus/pci/devices/*/device))
echo 1 >$card/enable
access="./patched access $card/resource0 {_ROUNDS} {_ACCESSES}"
record="{{mmiotap}} record -q -o /dev/shm"
$access >alone.out
$record/trapped --patch off -- $access >trapped.out
$record/patched -- $access >patched.out
echo 0 >$card/enable
cat >stats <<'end'
modprobe e1000
interface=$(ls /sys/bus/pci/drivers/e1000/*/net)
ip link set $interface up
until grep -q 1 /sys/class/net/$interface/carrier; do sleep 1; done
sleep 3
./guest_stats $interface {_ROUNDS} {_CALLS}
modprobe -r e1000
end
sh stats >driver.out
{{mmiotap}} kernel -q -o /dev/shm/kernel -- sh stats >mmiotrace.out
cp -r /dev/shm/kernel kernel.mmiotap
"""


def run() -> list[Result]:
    sys.path.insert(0, str(_GUEST))
    from boot import boot

    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        for name in ("patched", "guest_stats"):
            compile_ = ["gcc", "-O2", "-pthread", "-o", str(here / name), str(HERE / f"{name}.c")]
            subprocess.run(compile_, check=True, timeout=TIME_LIMIT)
        script = _SCRIPT.format(folder=shlex.quote(folder), mmiotap=f"{sys.executable} -m mmiotap")
        said = boot(script, here, _DEVICES, limit=400)
        if said:
            print(said, file=sys.stderr)
        alone, trapped, patched = (_nanoseconds(here / f"{way}.out") / 1000 for way in ("alone", "trapped", "patched"))
        accesses = _accesses_of_a_call(here / "kernel.mmiotap")
        driver, kernel = (_nanoseconds(here / f"{way}.out") / accesses for way in ("driver", "mmiotrace"))
    return [
        Result(name, "", measured, unit, True)
        for name, measured, unit in (
            ("user space: an access, trapped / untraced", trapped / alone, ""),
            ("user space: an access, patched / untraced", patched / alone, ""),
            ("kernel: an access under its mmiotrace / untraced", kernel / driver, ""),
            ("what an access costs more: mmiotrace / trapped", (kernel - driver) / (trapped - alone), ""),
            ("what an access costs more: mmiotrace / patched", (kernel - driver) / (patched - alone), ""),
            ("an access from user space, untraced and emulated", alone, "ns"),
            ("an access from the kernel, untraced and emulated", driver, "ns"),
        )
    ]


def _nanoseconds(file: Path) -> float:
    """Each line's first number is what a round took."""
    return median(float(line.split()[0]) for line in file.read_text().splitlines())


def _accesses_of_a_call(trace: Path) -> float:
    """How many registers the driver reads for its statistics. The first of them is read for nothing else."""
    accesses = mmiotap.open(trace).events(["offset"], pc.field("kind").isin(["read", "write"]))
    first = np.flatnonzero(accesses["offset"].to_numpy() == _CRC_ERRORS)
    return float(np.median(np.diff(first)))
