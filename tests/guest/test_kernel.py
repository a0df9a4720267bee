"""`mmiotap kernel`, a real kernel and driver, against QEMU's log, the kernel's own text, and the kernel's counts."""

import io
import json
import shlex
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from boot import ROOT, Access, boot, first_difference, logged

import e1000
import mmiotap
from mmiotap import formats

pytestmark = [pytest.mark.guest, pytest.mark.timeout(1600)]

DEVICES = ["-netdev user,id=n0", "-device e1000,netdev=n0,romfile=", "-device edu"]
#: Bytes of the e1000's BAR 0.
BAR = 128 * 1024
TRACEFS = "/sys/kernel/tracing"
#: What a machine looks like that traces nothing.
STATE = f"""
    for file in current_tracer trace_clock tracing_on options/overwrite per_cpu/cpu?/buffer_size_kb
    do grep -H . {TRACEFS}/$file; done
    echo "online $(cat /sys/devices/system/cpu/online)"
"""
#: Loads the driver, gives it something to send, and unloads it.
USE = """
    modprobe e1000
    net=$(ls /sys/bus/pci/drivers/e1000/*/net)
    ip addr add 10.0.2.15/24 dev $net
    ip link set $net up
    busybox ping -c 2 -i 0.2 -W 10 10.0.2.2
    modprobe -r e1000
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One guest for all: the recordings, and what the kernel said of them. NAME.at: how long QEMU's log was before."""
    subprocess.run(["make", "-s", "-C", ROOT / "examples", "edu"], check=True, timeout=60)
    folder = tmp_path_factory.mktemp("guest")
    (folder / "state").write_text(STATE)
    (folder / "use").write_text(USE)
    # The recorder sleeps until the kernel has printed all that it has; `trace` shows and takes nothing away.
    (folder / "compared").write_text(f"""
        kill -STOP $PPID
        timeout 60 cat {TRACEFS}/trace_pipe >header &
        until grep -q PCIDEV header; do sleep 1; done
        sleep 1; kill $!; wait $!  # it would take the mark, too
        echo 'a mark of somebody else' >{TRACEFS}/trace_marker
        sh use
        echo 0 >{TRACEFS}/tracing_on
        cat {TRACEFS}/trace >kernel.txt
        kill -CONT $PPID""")
    (folder / "overflowing").write_text(f"""
        modprobe e1000
        until grep -q '^entries: 0$' {TRACEFS}/per_cpu/cpu0/stats; do sleep 0.2; done
        kill -STOP $PPID
        loads=1
        until grep -q '^overrun: [0-9][0-9][0-9][0-9]' {TRACEFS}/per_cpu/cpu0/stats
        do modprobe -r e1000; modprobe e1000; loads=$((loads + 1))
        done
        echo $loads >loads
        kill -CONT $PPID
        until grep -q '^entries: 0$' {TRACEFS}/per_cpu/cpu0/stats; do sleep 0.2; done
        modprobe -r e1000
        echo 0 >{TRACEFS}/tracing_on
        cat {TRACEFS}/per_cpu/cpu*/stats >overflow.stats""")
    # Out of the kernel's buffer, and a moment later in a file.
    (folder / "killed").write_text(f"""
        modprobe e1000
        echo 'before' >{TRACEFS}/trace_marker
        until grep -q '^entries: 0$' {TRACEFS}/per_cpu/cpu0/stats; do sleep 0.2; done
        sleep 1
        kill -KILL $PPID""")
    (folder / "both").write_text(f"""
        sh use & {ROOT / "examples/edu/edu"}
        status=$?
        wait
        exit $status""")
    kernel = "mmiotap kernel"
    at = "stat -c %s qemu.log"
    script = f"""
        cd {shlex.quote(str(folder))}
        mount -t tracefs tracefs {TRACEFS} 2>/dev/null
        echo 3000 >{TRACEFS}/buffer_size_kb
        echo boot >{TRACEFS}/trace_clock
        sh state >before
        {at} >compared.at
        {kernel} -o /dev/shm/compared.mmiotap -- sh compared; echo $? >compared.status
        sh state >after.compared
        echo unknown >unknown; mount --bind unknown {TRACEFS}/events/header_page
        {at} >text.at
        {kernel} -o /dev/shm/text.mmiotap -- sh use 2>text.message; echo $? >text.status
        umount {TRACEFS}/events/header_page
        sh state >after.text
        {at} >overflow.at
        {kernel} -o /dev/shm/overflow.mmiotap --buffer 640K -- sh overflowing; echo $? >overflow.status
        sh state >after.overflow
        {at} >both.at
        {kernel} --agent -o /dev/shm/both.mmiotap -- sh both; echo $? >both.status
        sh state >after.both
        {at} >killed.at
        {kernel} -o /dev/shm/killed.mmiotap -- sh killed &
        wait $!
        echo $? >killed.status
        while grep -qs mmio-watchdog /proc/[0-9]*/comm; do sleep 0.2; done
        sh state >after.killed
        modprobe -r e1000
        echo kernel_halt >{TRACEFS}/set_ftrace_filter
        echo function >{TRACEFS}/current_tracer; {kernel} -- true 2>busy.message; echo $? >busy.status
        echo nop >{TRACEFS}/current_tracer
        rm -f /dev/shm/*.mmiotap/live/control  # a killed recorder leaves it, and 9p knows no sockets
        cp -r /dev/shm/*.mmiotap ."""
    print(boot(script, folder, DEVICES, limit=1500, zygote=True))
    return folder


def recorded(trace: mmiotap.Trace) -> list[Access]:
    table = trace.events(columns=["kind", "offset", "width", "value"])
    return [access(row) for row in table.to_pylist() if row["kind"] in ("read", "write")]


def access(row: dict[str, Any]) -> Access:
    return Access(row["kind"], row["offset"], row["width"], row["value"])


def test_the_trace_is_what_qemu_saw(folder: Path) -> None:
    trace = mmiotap.open(folder / "compared.mmiotap")
    assert (folder / "compared.status").read_text() == "0\n"
    assert (trace.state, trace.lost) == ("finished", 0)
    got = recorded(trace)
    assert len(got) > 5_000
    assert logged(folder, "compared", "e1000-mmio", BAR) == got


def test_a_fresh_recording_has_the_right_names(folder: Path) -> None:
    found = e1000.accesses(mmiotap.open(folder / "compared.mmiotap"))
    assert len(found) > 5_000
    assert {(offset, name) for _, offset, _, name, _ in found} <= set(e1000.the_manual().items())
    assert e1000.share_with_fields(found) >= 0.95


def test_the_export_is_what_the_kernel_prints(folder: Path) -> None:
    trace = mmiotap.open(folder / "compared.mmiotap")
    out = io.BytesIO()
    formats.write("mmiotrace", trace.batches(), trace, out)
    header = (folder / "header").read_bytes()
    lines = (folder / "kernel.txt").read_bytes().splitlines(keepends=True)
    assert header.startswith(b"VERSION 20070824\nPCIDEV ")
    assert out.getvalue() == header + b"".join(line for line in lines if not line.startswith(b"#"))


def test_who_and_what_is_known(folder: Path) -> None:
    trace = mmiotap.open(folder / "compared.mmiotap")
    (mapping,) = {(one.device, one.bar, one.length) for one in trace.mappings}
    assert mapping[1:] == (0, BAR)
    device = next(one for one in trace.info["pci_devices"] if one["vendor"] == 0x8086 and one["device"] == 0x100E)
    assert mapping[0] == f"{device['domain']:04x}:{device['address']}"
    # The other recorder slept while the driver was there.
    assert mmiotap.open(folder / "overflow.mmiotap").info["drivers"] == {mapping[0]: "e1000"}
    rows = trace.events(columns=["kind", "cpu", "tid", "text", "time_ns"]).to_pylist()
    assert [row["text"] for row in rows if row["kind"] == "mark"] == ["a mark of somebody else"]
    assert {row["cpu"] for row in rows} == {0}
    assert len({row["tid"] for row in rows if row["kind"] in ("read", "write")}) > 1
    # CLOCK_MONOTONIC, as the recorder's own.
    assert trace.info["start_mono_ns"] < rows[0]["time_ns"] < trace.info["start_mono_ns"] + 600 * 10**9


def test_text_says_the_same_of_accesses(folder: Path) -> None:
    assert (folder / "text.status").read_text() == "0\n"
    assert "read as text" in (folder / "text.message").read_text()
    trace = mmiotap.open(folder / "text.mmiotap")
    got = recorded(trace)
    assert len(got) > 5_000
    assert logged(folder, "text", "e1000-mmio", BAR) == got
    assert trace.lost == 0


def test_losses_are_in_their_places_and_add_up(folder: Path) -> None:
    assert (folder / "overflow.status").read_text() == "0\n"
    stats = [line.split(": ") for line in (folder / "overflow.stats").read_text().splitlines()]
    overrun = sum(int(number) for name, number in stats if name == "overrun")
    trace = mmiotap.open(folder / "overflow.mmiotap")
    rows = trace.events().to_pylist()
    (loss,) = (place for place, row in enumerate(rows) if row["kind"] == "lost")
    assert overrun > 1000
    assert (rows[loss]["value"], trace.lost, rows[loss]["cpu"]) == (overrun, overrun, 0)
    # Mappings that are not in the trace were lost, and are not in QEMU's log.
    mapped = 2 * int((folder / "loads").read_text())
    maps = sum(row["kind"] in ("map", "unmap") for row in rows)
    log = logged(folder, "overflow", "e1000-mmio", BAR)
    got = [
        Access(row["kind"], row["offset"] % BAR, row["width"], row["value"])  # a mapping may be lost, too
        for row in rows
        if row["kind"] in ("read", "write")
    ]
    before = sum(row["kind"] in ("read", "write") for row in rows[:loss])
    after = before + overrun - (mapped - maps)
    assert before > 100
    assert log[:before] == got[:before]
    assert log[after:] == got[before:]


def test_a_program_in_user_space_is_in_the_same_trace(folder: Path) -> None:
    assert (folder / "both.status").read_text() == "0\n"
    trace = mmiotap.open(folder / "both.mmiotap")
    assert (trace.state, trace.lost) == ("finished", 0)
    table = trace.events(columns=["kind", "offset", "width", "value", "tid", "source", "time_ns"])
    rows = [row for row in table.to_pylist() if row["kind"] in ("read", "write")]
    assert [row["time_ns"] for row in rows] == sorted(row["time_ns"] for row in rows)
    kernel = [access(row) for row in rows if row["source"] == "kernel"]
    assert len(kernel) > 5_000
    assert logged(folder, "both", "e1000-mmio", BAR) == kernel
    threads: dict[int, list[Access]] = defaultdict(list)
    for row in rows:
        if row["source"] == "agent":
            threads[row["tid"]].append(access(row))
    assert len(threads) == 3
    edu = logged(folder, "both", "edu-mmio", 1024 * 1024)
    assert len(edu) > 200
    assert first_difference(edu, list(threads.values())) is None
    assert {one.path.rpartition("/")[2] for one in trace.mappings} == {"BAR0", "resource0"}
    assert not list(folder.glob("*.parts"))


@pytest.mark.parametrize("ended", ["compared", "text", "overflow", "both", "killed"])
def test_everything_is_as_before(folder: Path, ended: str) -> None:
    before = (folder / "before").read_text()
    assert "current_tracer:nop" in before
    assert "online 0-1" in before
    assert "[boot]" in before
    assert (folder / f"after.{ended}").read_text() == before


def test_a_killed_recorder_leaves_what_was_read(folder: Path) -> None:
    assert (folder / "killed.status").read_text() == "137\n"
    assert mmiotap.open(folder / "killed.mmiotap").state == "incomplete"
    subprocess.run([sys.executable, "-m", "mmiotap", "recover", folder / "killed.mmiotap"], check=True, timeout=60)
    trace = mmiotap.open(folder / "killed.mmiotap")
    assert (trace.state, trace.lost) == ("recovered", 0)
    assert trace.info["source"] == "kernel"
    rows = trace.events(columns=["kind", "text"]).to_pylist()
    (mark,) = (place for place, row in enumerate(rows) if row["kind"] == "mark")
    assert rows[mark]["text"] == "before"
    got = recorded(trace)
    assert len(got) >= sum(row["kind"] in ("read", "write") for row in rows[:mark]) > 5_000
    log = logged(folder, "killed", "e1000-mmio", BAR)
    # The driver was unloaded later.
    assert len(log) > len(got)
    assert log[: len(got)] == got


def test_a_tracer_that_is_in_use_is_named(folder: Path) -> None:
    assert (folder / "busy.status").read_text() == "1\n"
    assert "the tracer function is in use" in (folder / "busy.message").read_text()
    assert json.loads((folder / "compared.mmiotap" / "trace.json").read_text())["source"] == "kernel"
