"""Mappings and handlers that are made by raw system calls, past libc's functions for them."""

from pathlib import Path

import pytest

from conftest import Compile, Run
from mmiotap.trace.reader import open_trace

RAW = Path(__file__).parents[1] / "data" / "raw_calls.c"
PAGE = 4096

#: How the program makes a system call.
FORMS = {"function": "syscall(n, a, b, c, d, e, f)"}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_they_are_seen(form: str, run: Run, mmiotap: Run, compile_c: Compile, tmp_path: Path) -> None:
    raw = compile_c(RAW.read_text(), "raw", f"-DSYSCALL(n,a,b,c,d,e,f)={form}", "-Wno-unused-variable")
    device = tmp_path / "device"

    def fill() -> None:
        device.write_bytes(b"\x11" * 3 * PAGE)

    fill()
    plain = run(raw, device)
    assert plain.status == 0, plain.stderr
    fill()
    traced = mmiotap("record", "--map", "**/device", "-o", "trace", "--", raw, device)
    assert (traced.status, traced.stdout) == (0, plain.stdout), traced.stderr
    trace = open_trace(tmp_path / "trace")
    assert trace.lost == 0
    made = [(one.file_offset, one.length, one.prot) for one in trace.mappings]
    assert made == [(PAGE, 2 * PAGE, "rw"), (PAGE, PAGE, "r")]
    events = trace.events().to_pylist()
    written = [(event["offset"] // 4, event["value"]) for event in events if event["kind"] == "write"]
    start, offsets = 0x11111111, [at for at, _ in written]
    # The loop; the faults, whose handler touches the device; the alarm, with all signals blocked before; the child.
    assert written[:4] == [(1, start), (2, start + 1), (3, start + 2), (4, start + 3)]
    assert offsets[40:] == [20, 4, 20, 4, 20, 4, 5, 21, 6, 7]
    assert len({event["pid"] for event in events}) == 2
