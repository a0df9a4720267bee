"""`mmiotap kernel`, a real kernel and driver, against QEMU's log, the kernel's own text, and the kernel's counts."""

import io
import json
import shlex
import sys
from pathlib import Path

import pytest
from boot import Access, accesses, boot

import mmiotap
from mmiotap import formats

pytestmark = [pytest.mark.guest, pytest.mark.timeout(1600)]

DEVICES = ["-netdev user,id=n0", "-device e1000,netdev=n0,romfile="]
#: Bytes of its BAR 0.
BAR = 128 * 1024
TRACEFS = "/sys/kernel/tracing"
#: What a machine looks like that traces nothing. Takes what was recorded out of the guest's memory, but for the socket
#: that a killed recorder leaves, which 9p refuses together with all that comes after it.
STATE = f"""
    rm -f /dev/shm/*.mmiotap/live/control
    cp -r /dev/shm/*.mmiotap . 2>/dev/null
    for file in current_tracer trace_clock tracing_on options/overwrite per_cpu/cpu?/buffer_size_kb
    do grep -H . {TRACEFS}/$file; done
    echo "online $(cat /sys/devices/system/cpu/online)"
"""
#: Loads the driver, gives it something to send, and unloads it.
USE = """
    modprobe e1000
    for net in /sys/bus/pci/drivers/e1000/*/net/*
    do ip link set ${net##*/} up; ip addr add 10.0.2.15/24 dev ${net##*/}
    done
    sleep 3
    busybox ping -c 2 -W 2 10.0.2.2
    modprobe -r e1000
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One guest for all: three recordings, and what the kernel said of them."""
    folder = tmp_path_factory.mktemp("guest")
    (folder / "state").write_text(STATE)
    (folder / "use").write_text(USE)
    # The recorder sleeps until the kernel has printed all that it has; `trace` shows and takes nothing away.
    (folder / "compared").write_text(f"""
        kill -STOP $PPID
        timeout 5 cat {TRACEFS}/trace_pipe >header & sleep 1; kill $!
        echo 'a mark of somebody else' >{TRACEFS}/trace_marker
        sh use
        echo 0 >{TRACEFS}/tracing_on
        cat {TRACEFS}/trace >kernel.txt
        kill -CONT $PPID""")
    (folder / "overflowing").write_text(f"""
        modprobe e1000
        until grep -q '^entries: 0$' {TRACEFS}/per_cpu/cpu0/stats; do sleep 1; done
        kill -STOP $PPID
        for again in 1 2 3 4; do modprobe -r e1000; modprobe e1000; done
        kill -CONT $PPID
        sleep 3
        modprobe -r e1000
        echo 0 >{TRACEFS}/tracing_on
        cat {TRACEFS}/per_cpu/cpu*/stats >overflow.stats""")
    kernel = f"{sys.executable} -m mmiotap kernel"
    script = f"""
        cd {shlex.quote(str(folder))}
        mount -t tracefs tracefs {TRACEFS} 2>/dev/null
        echo 3000 >{TRACEFS}/buffer_size_kb
        echo boot >{TRACEFS}/trace_clock
        sh state >before
        {kernel} -o /dev/shm/compared.mmiotap -- sh compared; echo $? >compared.status
        sh state >after.compared
        echo unknown >unknown; mount --bind unknown {TRACEFS}/events/header_page
        {kernel} -o /dev/shm/text.mmiotap -- sh use 2>text.message; echo $? >text.status
        umount {TRACEFS}/events/header_page
        sh state >after.text
        {kernel} -o /dev/shm/overflow.mmiotap --buffer 640K -- sh overflowing; echo $? >overflow.status
        sh state >after.overflow
        {kernel} -o /dev/shm/killed.mmiotap -- sh -c 'sh use; sleep 5; kill -KILL $PPID' &
        wait $!
        echo $? >killed.status
        sleep 10
        sh state >after.killed
        echo kernel_halt >{TRACEFS}/set_ftrace_filter
        echo function >{TRACEFS}/current_tracer; {kernel} -- true 2>busy.message; echo $? >busy.status
        echo nop >{TRACEFS}/current_tracer"""
    print(boot(script, folder, DEVICES, limit=1500))
    return folder


def recorded(trace: mmiotap.Trace) -> list[Access]:
    table = trace.events(columns=["kind", "offset", "width", "value"])
    return [
        Access(row["kind"], row["offset"], row["width"], row["value"])
        for row in table.to_pylist()
        if row["kind"] in ("read", "write")
    ]


def test_the_trace_is_what_qemu_saw(folder: Path) -> None:
    trace = mmiotap.open(folder / "compared.mmiotap")
    assert (folder / "compared.status").read_text() == "0\n"
    assert (trace.state, trace.lost) == ("finished", 0)
    got = recorded(trace)
    assert len(got) > 5_000
    log = accesses(folder, "e1000-mmio", BAR)
    assert log[: len(got)] == got


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
    begin = len(recorded(mmiotap.open(folder / "compared.mmiotap")))
    assert accesses(folder, "e1000-mmio", BAR)[begin : begin + len(got)] == got
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
    # The driver was loaded five times; what is not in the trace of that was lost, and is not in QEMU's log.
    maps = sum(row["kind"] in ("map", "unmap") for row in rows)
    runs = [recorded(mmiotap.open(folder / f"{name}.mmiotap")) for name in ("compared", "text")]
    log = accesses(folder, "e1000-mmio", BAR)[sum(map(len, runs)) :]
    got = [
        Access(row["kind"], row["offset"] % BAR, row["width"], row["value"])  # a mapping may be lost, too
        for row in rows
        if row["kind"] in ("read", "write")
    ]
    before = sum(row["kind"] in ("read", "write") for row in rows[:loss])
    after = before + overrun - (10 - maps)
    assert before > 100
    assert log[:before] == got[:before]
    assert log[after : after + len(got) - before] == got[before:]


@pytest.mark.parametrize("ended", ["compared", "text", "overflow", "killed"])
def test_everything_is_as_before(folder: Path, ended: str) -> None:
    before = (folder / "before").read_text()
    assert "current_tracer:nop" in before
    assert "online 0-1" in before
    assert "[boot]" in before
    assert (folder / f"after.{ended}").read_text() == before


def test_what_a_killed_recorder_leaves_is_a_trace(folder: Path) -> None:
    assert (folder / "killed.status").read_text() == "137\n"
    trace = mmiotap.open(folder / "killed.mmiotap")
    assert trace.state == "incomplete"
    assert trace.info["source"] == "kernel"


def test_a_tracer_that_is_in_use_is_named(folder: Path) -> None:
    assert (folder / "busy.status").read_text() == "1\n"
    assert "the tracer function is in use" in (folder / "busy.message").read_text()
    assert json.loads((folder / "compared.mmiotap" / "trace.json").read_text())["source"] == "kernel"
