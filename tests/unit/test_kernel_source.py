"""What `mmiotap kernel` reads of a machine, and what it says where it cannot work. The rest is tested in a guest."""

import errno
import io
import lzma
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from mmiotap import formats
from mmiotap.formats.pci import PciDevice, place
from mmiotap.sources import control
from mmiotap.sources.kernel import checks, inventory, spool
from mmiotap.sources.kernel.pipes import Pages, Text
from mmiotap.sources.kernel.trace import KernelTrace
from mmiotap.sources.kernel.tracefs import Tracefs
from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.reader import open_trace
from mmiotap.trace.recover import recover

DATA = Path(__file__).parent.parent / "data"

#: An e1000, as sysfs has it.
RESOURCE = """\
0x00000000feba0000 0x00000000febbffff 0x0000000000040200
0x000000000000c201 0x000000000000c23f 0x0000000000040101
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x00000000feb80000 0x00000000feb9ffff 0x0000000000046200
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    folder = tmp_path / "sys/bus/pci/devices/0001:00:0a.0"
    folder.mkdir(parents=True)
    for name, text in {"vendor": "0x8086\n", "device": "0x100e\n", "irq": "22\n", "resource": RESOURCE}.items():
        (folder / name).write_text(text)
    (tmp_path / "e1000").mkdir()
    (folder / "driver").symlink_to(tmp_path / "e1000")
    return tmp_path


def test_devices_are_those_of_sysfs(machine: Path) -> None:
    (device,) = inventory.devices(machine)
    assert device.name == "0001:00:0a.0"
    assert device.driver == "e1000"
    assert device.to_line() == ("PCIDEV 0050 8086100e 16 feba0000 c201 0 0 0 0 feb80000 20000 3f 0 0 0 0 20000 e1000")
    assert PciDevice.from_json(device.to_json()) == device
    assert place(0xFEBA0100, [device]) == ("0001:00:0a.0/BAR0+0x100", "0001:00:0a.0", 0)
    assert place(0xC210, [device]) == ("0xc210", None, None)


def test_only_root_may() -> None:
    script = "import os; from mmiotap.sources.kernel.checks import check; os.geteuid() or os.setuid(65534); check()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert "only root may trace the kernel" in done.stderr


def test_a_kernel_that_was_booted_without_is_named(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cmdline").write_text("quiet mmiotrace.trace_pc=1\n")
    checks.check_trace_pc(tmp_path)
    (tmp_path / "proc/cmdline").write_text("quiet mmiotrace.trace_pc=0\n")
    with pytest.raises(MmiotapError, match=r"booted with mmiotrace.trace_pc=1$"):
        checks.check_trace_pc(tmp_path)


def test_lockdown_is_named(tmp_path: Path) -> None:
    refused = PermissionError(errno.EPERM, "Operation not permitted", "current_tracer")
    assert "container" in checks.refusal(refused, tmp_path)
    folder = tmp_path / "sys/kernel/security"
    folder.mkdir(parents=True)
    (folder / "lockdown").write_text("[none] integrity confidentiality\n")
    assert "container" in checks.refusal(refused, tmp_path)
    (folder / "lockdown").write_text("none integrity [confidentiality]\n")
    assert "locked down (confidentiality)" in checks.refusal(refused, tmp_path)
    assert "trace_pipe" in checks.refusal(OSError(errno.EBUSY, "busy", "current_tracer"), tmp_path)


def test_losses_and_sizes_are_those_of_all_cpus(tmp_path: Path) -> None:
    for cpu, lost in enumerate((3, 40)):
        folder = tmp_path / f"per_cpu/cpu{cpu}"
        folder.mkdir(parents=True)
        (folder / "stats").write_text(
            f"entries: 9\noverrun: {lost}\ncommit overrun: 100\nbytes: 7\ndropped events: 1000\n"
        )
        (folder / "buffer_size_kb").write_text(("3000\n", "7 (expanded: 1408)\n")[cpu])
    tracefs = Tracefs(tmp_path)
    assert tracefs.cpus() == [0, 1]
    assert tracefs.lost() == 2243
    assert [tracefs.buffer_kb(cpu) for cpu in (0, 1)] == [3000, 1408]


@pytest.fixture
def tracefs(tmp_path: Path) -> Tracefs:
    """Files of a tracefs whose one CPU has the pages of a real kernel waiting."""
    header, *events = (DATA / "ftrace-formats.txt").read_text().split("name: ")
    cpu = tmp_path / "per_cpu/cpu0"
    cpu.mkdir(parents=True)
    for event in events:
        folder = tmp_path / "events/ftrace" / event.split()[0]
        folder.mkdir(parents=True)
        (folder / "format").write_text(f"name: {event}")
    (tmp_path / "events/header_page").write_text(header)
    (cpu / "trace_pipe_raw").write_bytes(lzma.decompress((DATA / "ftrace-e1000.raw.xz").read_bytes()))
    (cpu / "stats").write_text("entries: 0\noverrun: 7\n")
    (cpu / "buffer_size_kb").write_text("4096\n")
    (tmp_path / "tracing_on").write_text("1\n")
    return Tracefs(tmp_path)


def test_recording_leaves_pandas_alone() -> None:
    """Who imports it takes half a second of a core while the driver already works (test_record.py has the same)."""
    script = "import sys, mmiotap.sources.kernel.trace; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 0


def test_what_is_drained_is_exported_as_the_kernel_prints_it(tracefs: Tracefs, tmp_path: Path) -> None:
    folder = tmp_path / "trace"
    with closing(Pages(tracefs, [])) as pipe:
        recording = KernelTrace(tracefs, pipe, folder, {"format": 1, "source": "kernel"}, [], force=False)
        with recording.controlled():
            assert control.request(str(folder), {"do": "status"})["enabled"]
            control.request(str(folder), {"do": "mark", "text": "hello"})
            recording.drain()
        result = recording.finish(0, 1.0)
    assert tracefs.read("tracing_on") == "0"
    assert tracefs.read("trace_marker") == "hello"
    assert (result.events, result.mappings, result.lost) == (11956, 1, 7)
    trace = open_trace(folder)
    assert (trace.state, trace.count, trace.lost, len(trace.mappings)) == ("finished", 11956, 7, 1)
    out = io.BytesIO()
    formats.write("mmiotrace", trace.batches(), trace, out)
    printed = lzma.decompress((DATA / "ftrace-e1000.txt.xz").read_bytes()).splitlines(keepends=True)
    lines = [line for line in printed if not line.startswith(b"#")]
    # What the kernel counted and has no place for is at the end.
    assert out.getvalue() == b"VERSION 20070824\n" + b"".join(lines) + b"MARK 0.000000 Lost 7 events.\n"


#: A recorder that has emptied the kernel's buffers, and is killed before it has decoded all: ``TRACEFS FOLDER``.
KILLED = """
import os, sys
from pathlib import Path
from mmiotap.sources.kernel import spool
from mmiotap.sources.kernel.pipes import Pages
from mmiotap.sources.kernel.trace import KernelTrace
from mmiotap.sources.kernel.tracefs import Tracefs
spool._FILE = spool._PIPE = 64 << 10  # so that there are several files
tracefs = Tracefs(Path(sys.argv[1]))
info = {"format": 1, "source": "kernel"}
recording = KernelTrace(tracefs, pipe := Pages(tracefs, []), Path(sys.argv[2]), info, [], force=False)
with recording.controlled():
    pipe.empty()
    for _ in range(2):
        recording.read()
        recording._write()
    recording.read()
    os.kill(os.getpid(), 9)
"""


def test_what_a_killed_recorder_has_read_is_recovered(tracefs: Tracefs, tmp_path: Path) -> None:
    folder = tmp_path / "trace"
    command = [sys.executable, "-c", KILLED, str(tracefs.path), str(folder)]
    assert subprocess.run(command, timeout=60, check=False).returncode == -9
    trace = open_trace(folder)
    assert (trace.state, len(trace.mappings)) == ("incomplete", 1)
    assert 0 < trace.count < 11955
    left = sorted((folder / "live" / spool.FOLDER).glob("*.cpu0"))
    last = left[-1].read_bytes()
    left[-1].write_bytes(last + last[:100])  # killed within a page
    recovered = recover(folder, spool.complete)
    assert recovered is not None
    assert recovered.events == 11955
    trace = open_trace(folder)
    assert (trace.state, trace.count, len(trace.mappings)) == ("recovered", 11955, 1)
    assert not (folder / "live").exists()
    out = io.BytesIO()
    formats.write("mmiotrace", trace.batches(), trace, out)
    printed = lzma.decompress((DATA / "ftrace-e1000.txt.xz").read_bytes()).splitlines(keepends=True)
    assert out.getvalue() == b"VERSION 20070824\n" + b"".join(line for line in printed if not line.startswith(b"#"))


def test_pages_that_the_disk_has_no_room_for_are_not_lost(
    tracefs: Tracefs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are kept in memory. Each file is full in the middle of a page."""
    raw = (tracefs.path / "per_cpu/cpu0/trace_pipe_raw").read_bytes()
    monkeypatch.setattr(spool, "_PIPE", 16 * 4096)
    file = os.open(tracefs.path / "per_cpu/cpu0/trace_pipe_raw", os.O_RDONLY)
    found = spool.Spool({0: file}, 4096)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))
        with found.moving(tmp_path / "pages", tracefs.path):
            while found.move():
                pass
            taken = [pages.read() for _ in range(99) for pages in found.take()]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
        found.close()
        os.close(file)
    assert len(taken) > 2
    assert all(len(data) % 4096 == 0 for data in taken)
    assert b"".join(taken) == raw


def test_a_trace_that_is_removed_does_not_end_the_recording(tracefs: Tracefs, tmp_path: Path) -> None:
    folder = tmp_path / "trace"
    with closing(Pages(tracefs, [])) as pipe:
        recording = KernelTrace(tracefs, pipe, folder, {"format": 1}, [], force=False)
        with recording.controlled():
            pipe.empty()
            for pages in (folder / "live" / spool.FOLDER).glob("*.cpu*"):
                pages.unlink()
            recording.drain()
        assert "No such file" in (recording.finish(0, 1.0).trouble or "")


def test_a_kernel_that_cannot_be_read_any_more_is_named(tracefs: Tracefs, tmp_path: Path) -> None:
    folder = tmp_path / "trace"
    with closing(Pages(tracefs, [])) as pipe:
        recording = KernelTrace(tracefs, pipe, folder, {"format": 1}, [], force=False)
        os.dup2(nowhere := os.open(tmp_path, os.O_RDONLY), pipe._files[0])  # a folder cannot be read
        os.close(nowhere)

        def read_on() -> None:
            while True:
                recording.read()

        with recording.controlled(), pytest.raises(MmiotapError, match="read any more: Is a directory"):
            read_on()


def test_text_has_the_same_events(tracefs: Tracefs, tmp_path: Path) -> None:
    text = lzma.decompress((DATA / "ftrace-e1000.txt.xz").read_bytes())
    # As trace_pipe has it: a loss where it was, and once more in a sum.
    lines = text.split(b"\n")
    at = len(lines) // 2
    lost = [b"CPU:0 [LOST 7 EVENTS]", b"MARK 0.000000 Lost 7 events."]
    (tracefs.path / "trace_pipe").write_bytes(b"VERSION 20070824\n" + b"\n".join([*lines[:at], *lost, *lines[at:]]))
    with closing(Text(tracefs, [])) as pipe:
        recording = KernelTrace(tracefs, pipe, tmp_path / "trace", {"format": 1}, [], force=False)
        recording.drain()
        result = recording.finish(0, 1.0)
    assert (result.events, result.mappings, result.lost) == (11956, 1, 7)


def test_pages_that_are_not_known_are_not_read(tracefs: Tracefs) -> None:
    (tracefs.path / "events/header_page").write_text("unknown\n")
    with pytest.raises(MmiotapError, match="no description of a page"):
        Pages(tracefs, [])


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "dog.restore()"])
def test_everything_is_put_back_however_the_recorder_ends(tracefs: Tracefs, end: str) -> None:
    """The watchdog is a process of its own; it is asked for nothing when the recorder dies of SIGKILL."""
    (tracefs.path / "options").mkdir()
    script = f"""
import os
from mmiotap.sources.kernel.before import Before
from mmiotap.sources.kernel.tracefs import Tracefs
from mmiotap.sources.kernel.watchdog import Watchdog
tracefs = Tracefs(__import__("pathlib").Path({str(tracefs.path)!r}))
dog = Watchdog(Before("boot", {{0: 3000}}, {{"options/overwrite": "0", "tracing_on": "1"}}, []), tracefs)
for name in ("current_tracer", "trace_clock", "per_cpu/cpu0/buffer_size_kb", "options/overwrite", "tracing_on"):
    tracefs.write(name, "changed")
{end}
"""
    done = subprocess.run([sys.executable, "-c", script], timeout=60, check=False)
    assert done.returncode in (0, -9)
    until = time.monotonic() + 30
    while tracefs.read("tracing_on") != "1" and time.monotonic() < until:  # what is put back last
        time.sleep(0.05)
    names = ("current_tracer", "trace_clock", "per_cpu/cpu0/buffer_size_kb", "options/overwrite", "tracing_on")
    assert [tracefs.read(name) for name in names] == ["nop", "boot", "3000", "0", "1"]
