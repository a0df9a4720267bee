"""A stock Debian kernel with real device models: boots it in QEMU, runs a script in it, reads QEMU's log of accesses.

The guest's file system is this machine's, read-only, over 9p; /tmp, /dev/shm and one folder are writable. Everything is
emulated: no hardware virtualisation is needed.
"""

import compileall
import io
import os
import re
import shlex
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import image

import mmiotap

ROOT = Path(__file__).parent.parent.parent

#: One line of QEMU's ``memory_region_ops`` events: the size is the device's own.
LOG_LINE = re.compile(
    rb"memory_region_ops_(read|write) cpu -?\d+ mr 0x[0-9a-f]+ "
    rb"addr 0x([0-9a-f]+) value 0x([0-9a-f]+) size (\d) name '([^']+)'"
)

#: The emulated time stamp counters agree, but Linux does not trust them on two sockets: at every look at the clock it
#: would read the HPET, which is a device. The kernel's cryptography is not what is tested here.
#: The search for an AGP aperture is 16,000 accesses to other devices, all logged.
#: One processor until the script: two that share one thread's work wait for each other, and that costs them more.
KERNEL_OPTIONS = (
    "quiet loglevel=1 panic=-1 console=ttyS0 tsc=reliable clocksource=tsc cryptomgr.notests iommu=noaperture maxcpus=1"
)
#: With all that QEMU can emulate, but without promises of fast string instructions: QEMU makes them a byte at a time.
PROCESSOR = "max,-erms,-fsrm"
START_PROCESSOR = "echo 1 >/sys/devices/system/cpu/cpu1/online"


class Access(NamedTuple):
    """One access to a device: offset in the BAR, width in bytes."""

    kind: str
    offset: int
    width: int
    value: int


def boot(
    script: str,
    folder: Path,
    devices: Sequence[str],
    *,
    limit: float,
    under: Sequence[str] = (),
    zygote: bool = False,
) -> str:
    """Boot, run ``script`` (sh, as root) and power off; returns what it wrote.

    ``folder`` is writable in the guest, at the same path; QEMU's log goes to ``qemu.log`` in it. ``devices`` are QEMU's
    options. No driver is loaded for them. ``under`` is a command that QEMU is started by. With ``zygote``,
    ``mmiotap`` is a function that starts quickly.

    Raises:
        TimeoutError: the guest still ran after ``limit`` seconds; it was killed.
        RuntimeError: it did not come up, or the script did not come to its end.
    """
    script_file, output, console = folder / "script", folder / "output", folder / "console"
    begin = f"cd {ROOT}\nexport PYTHONPATH={ROOT / 'src'}\n"
    if zygote:
        begin += _start_zygote(folder)
    script_file.write_text(f"{begin}{START_PROCESSOR}\n{script}\necho ': end'\n")
    # The guest cannot keep what it compiles, and would be slow at it.
    compileall.compile_dir(ROOT / "src" / "mmiotap", quiet=1)
    packed = image.kernel()
    image.make_initramfs(folder / "initramfs", packed)
    visible = ":".join(map(str, dict.fromkeys([sys.base_prefix, sys.prefix, ROOT])))
    command: list[str | Path] = [*under, "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none"]
    command += ["-machine", "pc", "-cpu", PROCESSOR, "-smp", "2", "-m", "2G", "-no-reboot"]
    command += ["-kernel", image.unpacked(packed), "-initrd", folder / "initramfs", "-serial", f"file:{console}"]
    command += ["-append", f"{KERNEL_OPTIONS} folder={folder} visible={visible}"]
    shared = "local,security_model=none"
    command += ["-virtfs", f"{shared},path=/,mount_tag=host,readonly=on,multidevs=remap"]
    command += ["-virtfs", f"{shared},path={folder},mount_tag=folder,multidevs=remap"]
    command += ["-trace", "memory_region_ops_*", "-D", folder / "qemu.log", *shlex.split(" ".join(devices))]
    with (folder / "said").open("wb") as said:
        guest = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd=ROOT, start_new_session=True
        )
        try:
            guest.wait(limit)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"the guest still ran after {limit} s: {_said(folder)}") from None
        finally:
            if guest.poll() is None:
                os.killpg(guest.pid, signal.SIGKILL)
                guest.wait()
    written = _text(output)
    if not written.endswith(": end\n"):
        raise RuntimeError(f"the guest ended too early: {_said(folder)}")
    return written.removesuffix(": end\n")


def accesses(folder: Path, name: str, bar_size: int, *, begin: int = 0, end: int | None = None) -> list[Access]:
    """Accesses in QEMU's log to the memory region ``name``, in order. ``bar_size`` is a power of two, in bytes.

    ``begin`` and ``end`` are sizes that the log had, in bytes: what was logged between.
    """
    return list(_parse(folder / "qemu.log", name.encode(), bar_size, begin, end))


def logged(folder: Path, name: str, region: str, bar_size: int) -> list[Access]:
    """The same, while NAME was recorded. NAME.at in ``folder`` has the size of the log before, for all recordings."""
    begin = int((folder / f"{name}.at").read_text())
    later = [at for file in folder.glob("*.at") if (at := int(file.read_text())) > begin]
    return accesses(folder, region, bar_size, begin=begin, end=min(later, default=None))


def recorded(trace: mmiotap.Trace) -> list[list[Access]]:
    """What each thread did, in its order."""
    streams: dict[int, list[Access]] = defaultdict(list)
    table = trace.events(columns=["kind", "offset", "width", "value", "tid"])
    for row in table.to_pylist():
        if row["kind"] in ("read", "write"):
            streams[row["tid"]].append(Access(row["kind"], row["offset"], row["width"], row["value"]))
    return list(streams.values())


def _parse(log: Path, name: bytes, bar_size: int, begin: int, end: int | None) -> Iterator[Access]:
    with log.open("rb") as lines:
        lines.seek(begin)
        for line in io.BytesIO(lines.read() if end is None else lines.read(end - begin)):
            found = LOG_LINE.search(line) if name in line else None
            if found and found[5] == name:
                # Physical address: a BAR is aligned to its size (PCI 3.0, 6.2.5.1).
                offset = int(found[2], 16) & (bar_size - 1)
                yield Access(found[1].decode(), offset, int(found[4]), int(found[3], 16))


def _start_zygote(folder: Path) -> str:
    """Makes ``mmiotap`` a function of the script."""
    here, ask = Path(__file__).parent, folder / "ask"
    subprocess.run(["gcc", "-O1", "-Wall", "-Werror", "-o", ask, here / "ask.c"], check=True, timeout=60)
    return f"""
        {shlex.quote(sys.executable)} {here}/zygote.py &
        until [ -S /run/zygote ]; do kill -0 $! || exit; sleep 0.2; done
        mmiotap() {{ {shlex.quote(str(ask))} "$@"; }}
    """


def _said(folder: Path) -> str:
    return "".join(_text(folder / name) for name in ("said", "console", "output"))


def _text(file: Path) -> str:
    return file.read_text(errors="replace") if file.exists() else ""


def first_difference(log: Sequence[Access], streams: Sequence[Sequence[Access]]) -> str | None:
    """None if ``log`` is an interleaving of the threads' streams that uses up all of them; else where it is not.

    An access that several threads may have made next (a register they share, with the same value) leaves it open whose
    it was, so all positions that are possible are carried along.
    """
    possible = {(0,) * len(streams)}
    for line, access in enumerate(log):
        following = {
            (*at[:i], at[i] + 1, *at[i + 1 :])
            for at in possible
            for i, stream in enumerate(streams)
            if at[i] < len(stream) and stream[at[i]] == access
        }
        if not following:
            at = max(possible)
            due = [stream[i] if i < len(stream) else None for i, stream in zip(at, streams, strict=True)]
            return f"access {line} is {access} in QEMU's log; the threads' next are {due}"
        possible = following
    if tuple(map(len, streams)) not in possible:
        return f"QEMU saw {len(log)} accesses, the threads made {sum(map(len, streams))}"
    return None
