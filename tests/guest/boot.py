"""A stock Debian kernel with real device models: boots it in QEMU, runs a script in it, reads QEMU's log of accesses.

The guest's file system is this machine's, read-only, over 9p; /tmp, /dev/shm and one folder are writable. Everything is
emulated: no hardware virtualisation is needed.
"""

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
SETUP = ROOT / "tests" / "guest" / "setup.sh"

#: One line of QEMU's ``memory_region_ops`` events: the size is the device's own.
LOG_LINE = re.compile(
    rb"memory_region_ops_(read|write) cpu -?\d+ mr 0x[0-9a-f]+ "
    rb"addr 0x([0-9a-f]+) value 0x([0-9a-f]+) size (\d) name '([^']+)'"
)

#: The emulated time stamp counters agree, but Linux does not trust them on two sockets: at every look at the clock it
#: would read the HPET, which is a device.
KERNEL_OPTIONS = "modprobe.blacklist=e1000 tsc=reliable clocksource=tsc"
#: With all that QEMU can emulate, but without promises of fast string instructions: QEMU makes them a byte at a time.
PROCESSOR = "-cpu max,-erms,-fsrm"
#: The root that vng mounts caches nothing: a page of a library at a time crosses over. What programs are made of is put
#: over itself from a mount that reads ahead; nothing changes there while the guest runs.
MOUNT = "mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose cached /mnt"
CACHED = ("/usr", sys.base_prefix, sys.prefix, ROOT)


class Access(NamedTuple):
    """One access to a device: offset in the BAR, width in bytes."""

    kind: str
    offset: int
    width: int
    value: int


def kernel() -> Path:
    """The kernel that setup.sh unpacked.

    Raises:
        FileNotFoundError: it did not run.
    """
    for image in (ROOT / ".cache" / "guest" / "root" / "boot").glob("vmlinuz-*"):
        return image
    raise FileNotFoundError(f"no guest kernel; run {SETUP} as root")


def boot(script: str, folder: Path, devices: Sequence[str], *, limit: float, qemu: Path | None = None) -> str:
    """Boot, run ``script`` (sh, as root) and power off; returns what it wrote.

    ``folder`` is writable in the guest, at the same path; QEMU's log goes to ``qemu.log`` in it. ``devices`` are QEMU's
    options. No driver is loaded for an e1000. ``qemu`` is a program to start in the place of QEMU.

    Raises:
        TimeoutError: the guest still ran after ``limit`` seconds; it was killed.
        RuntimeError: it did not come up, or the script did not come to its end.
    """
    script_file, output, console = folder / "script", folder / "output", folder / "console"
    prepare = [MOUNT, *(f"mkdir -p {place} && mount --bind /mnt{place} {place}" for place in CACHED)]
    prepare.append(f"export PYTHONPATH={ROOT / 'src'}")
    script_file.write_text("\n".join([*prepare, script, "echo ': end'\n"]))
    options = [PROCESSOR, "-vga none", *devices]
    options += ["-virtfs local,path=/,mount_tag=cached,security_model=none,readonly=on"]
    options += ["-trace memory_region_ops_*", f"-D {folder / 'qemu.log'}"]
    tools = Path(sys.executable).parent  # vng is there, and so is virtme-run, which vng looks for in PATH
    command: list[str | Path] = [tools / "vng", "--run", kernel(), f"--rwdir={folder}"]
    command += ["--disable-kvm", "--force-9p", "--disable-microvm", "--memory", "2G", "--cpus", "2"]
    command += ["--qemu", qemu] if qemu else []
    command += ["--append", KERNEL_OPTIONS, f"--qemu-opts={' '.join(options)}"]
    command += ["--", f"sh {script_file} >{output} 2>&1"]
    with console.open("wb") as stream:
        guest = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            cwd=ROOT,
            env=os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"},
            start_new_session=True,
        )
        try:
            guest.wait(limit)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"the guest still ran after {limit} s: {_text(console)}{_text(output)}") from None
        finally:
            if guest.poll() is None:
                os.killpg(guest.pid, signal.SIGKILL)
                guest.wait()
    written = _text(output)
    if not written.endswith(": end\n"):
        raise RuntimeError(f"the guest ended too early: {_text(console)}{written}")
    return written.removesuffix(": end\n")


def accesses(folder: Path, name: str, bar_size: int, *, begin: int = 0, end: int | None = None) -> list[Access]:
    """Accesses in QEMU's log to the memory region ``name``, in order. ``bar_size`` is a power of two, in bytes.

    ``begin`` and ``end`` are sizes that the log had, in bytes: what was logged between.
    """
    return list(_parse(folder / "qemu.log", name.encode(), bar_size, begin, end))


def _parse(log: Path, name: bytes, bar_size: int, begin: int, end: int | None) -> Iterator[Access]:
    with log.open("rb") as lines:
        lines.seek(begin)
        for line in io.BytesIO(lines.read() if end is None else lines.read(end - begin)):
            found = LOG_LINE.search(line) if name in line else None
            if found and found[5] == name:
                # Physical address: a BAR is aligned to its size (PCI 3.0, 6.2.5.1).
                offset = int(found[2], 16) & (bar_size - 1)
                yield Access(found[1].decode(), offset, int(found[4]), int(found[3], 16))


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
