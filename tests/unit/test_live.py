"""``mmiotap live``: registers as they are now, and the screen that shows them, at three sizes."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from rich.segment import Segment

from conftest import Run
from mmiotap.analysis.filters import compiled
from mmiotap.analysis.stats import statistics
from mmiotap.analysis.watch import Look, Register, Watch
from mmiotap.registers import choose
from mmiotap.trace import layout
from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.reader import Trace, open_trace
from mmiotap.trace.sealer import Sealer
from mmiotap.views.monitor import Monitor, Registers, rate_text, value_segments
from recordings import Producer, abandon, new_recording
from synthetic import row, write_trace

REGISTERS = """addrmap device { default regwidth = 32;
    reg { field { sw = rw; } EN[1]; field { sw = rw; } MODE[7:4]; } CONTROL @ 0x8;
    reg { field { sw = rw; } VALUE[31:0]; } COUNTER @ 0x10; };"""


def watch(path: Path, filter: str | None = None, regs: Path | None = None) -> Watch:
    def narrow(trace: Trace) -> object:
        return None if filter is None else compiled(filter, trace, lambda: None)

    def decoder(trace: Trace) -> object:
        return choose.decoder(trace, [f"{regs}@uio0"]) if regs else None

    return Watch(path, narrow, decoder)  # type: ignore[arg-type]


def counts(look: Look) -> dict[tuple[int, int, int], tuple[int, int, int, int | None]]:
    return {one.place: (one.reads, one.writes, one.others, one.value) for one in look.registers}


def told(path: Path) -> dict[tuple[int, int, int], tuple[int, int, int, int | None]]:
    """The same, as stats counts it."""
    rows = statistics(open_trace(path)).registers.to_pylist()
    return {
        (one["map_id"], one["offset"], one["width"]): (one["reads"], one["writes"], one["others"], one["last_value"])
        for one in rows
    }


def test_nothing_is_missed_or_counted_twice_while_it_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    arena = new_recording(tmp_path / "t", segments=8)
    sealer = Sealer(tmp_path / "t", arena)
    threads = [Producer(arena, range(first, 8, 2), pid=os.getpid(), tid=os.getpid()) for first in range(2)]
    watched = watch(tmp_path / "t")
    assert watched.look().registers == []
    number = 0
    for turn in range(6):
        for _ in range(700):
            thread = threads[number % 2]
            kind = layout.READ if number % 3 else layout.WRITE
            offset = 4 * (number % 5)
            assert thread.write(kind, time_ns=number + 1, value=number, offset=offset, width=4, map_id=1)
            number += 1
        if turn % 2:
            sealer.seal()
        now += 0.5
        look = watched.look()
        assert counts(look) == told(tmp_path / "t")
        assert look.events == number
        assert look.rate == (0 if turn == 0 and number == 0 else 1400)
        assert sum(register.rate for register in look.registers) == pytest.approx(
            1400 if turn else 140 * 0 + 0, abs=1400
        )
    sealer.finish(state="finished")
    assert counts(watched.look()) == told(tmp_path / "t") == counts(watch(tmp_path / "t").look())


def test_changed_bits_stay_until_the_next_change(tmp_path: Path) -> None:
    arena = new_recording(tmp_path / "t")
    thread = Producer(arena, range(4), pid=os.getpid(), tid=os.getpid())
    one = watch(tmp_path / "t")
    seen = []
    for moment, value in enumerate((0x00, 0x81, 0x81, 0x80), 1):
        thread.write(layout.WRITE, time_ns=moment, value=value, offset=8, width=4, map_id=1)
        [register] = one.look().registers
        seen.append((register.value, register.changed))
    assert seen == [(0x00, 0), (0x81, 0x81), (0x81, 0x81), (0x80, 0x01)]
    abandon(tmp_path / "t")
    assert one.look().state == "incomplete"


def test_a_filter_chooses(tmp_path: Path) -> None:
    path = write_trace(tmp_path / "t", [row(i, "write" if i % 2 else "read", 4, 8 * (i % 3), i) for i in range(60)])
    assert {place[1]: found[:2] for place, found in counts(watch(path, "write and offset == 8").look()).items()} == {
        8: (0, 10)
    }
    with pytest.raises(MmiotapError, match="valu"):
        watch(path, "valu == 1").look()


def test_digits_that_changed_stand_out() -> None:
    register = Register((1, 0, 4), "", "", 0x1234, 0x0F10, 0, 0, 0, 0.0)
    shown = value_segments(register)
    assert "".join(one.text for one in shown) == "0x00001234"
    assert "".join(one.text for one in shown if one.style) == "23"
    assert value_segments(Register((1, 0, 4), "", "", None, 0, 0, 0, 0, 0.0)) == [Segment("?")]


@pytest.mark.parametrize(
    ("rate", "text"), [(0, "0"), (0.5, "0.5"), (12, "12"), (999, "999"), (3400, "3.4k"), (1.2e6, "1.2M"), (2e9, "2G")]
)
def test_rates(rate: float, text: str) -> None:
    assert rate_text(rate) == text


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    (tmp_path / "device.rdl").write_text(REGISTERS)
    rows = [row(0, "mark", text="begin"), row(1, "write", 4, 0x8, 0x31), row(2, "read", 4, 0x8, 0x31)]
    rows += [row(3 + i, "read", 4, 0x10, i) for i in range(300)]
    rows += [row(400 + i, "write", 4, 0x1000 + 4 * i, i) for i in range(40)]
    return write_trace(tmp_path / "t.mmiotap", rows)


def text_of(app: Monitor) -> list[str]:
    """The lines of the screen, as they are drawn."""
    strips = app.screen._compositor.render_strips()
    return ["".join(segment.text for segment in strip).rstrip() for strip in strips]


def screen(path: Path, size: tuple[int, int], *steps: str) -> list[str]:
    """What it shows after some keys."""
    current = watch(path, regs=path.parent / "device.rdl")

    def choose_filter(text: str) -> None:
        nonlocal current
        compiled(text or "access", open_trace(path), lambda: None)
        current = watch(path, text or None, path.parent / "device.rdl")

    async def shown() -> list[str]:
        app = Monitor("t.mmiotap", lambda: current.look(), choose_filter, "")
        async with app.run_test(size=size) as pilot:
            await until(lambda: bool(app.query_one(Registers).rows), pilot.pause)
            for key in steps:
                before = app._found
                await pilot.press(*key.split())
                if key == "enter" and app._asking == "filter" and not app.query_one("#note").display:
                    await until(lambda: app._found is not before, pilot.pause)  # noqa: B023
            await pilot.pause()
            return text_of(app)

    return asyncio.run(shown())


async def until(condition: Callable[[], bool], pause: Callable[[], Awaitable[None]]) -> None:
    while not condition():
        await pause()
        await asyncio.sleep(0.01)


def test_wide(trace: Path) -> None:
    lines = screen(trace, (120, 12))
    assert (
        lines
        == [
            "t.mmiotap  finished  343 events",
            "mapping  offset  register  last        reads       writes      per second  fields",
            "1:uio0   0x8     CONTROL   0x00000031           1           1           0  EN MODE=3",
            "1:uio0   0x10    COUNTER   0x0000012b         300           0           0",
            *(
                f"1:uio0   {0x1000 + 4 * i:#x}            0x{i:08x}           0           1           0"
                for i in range(7)
            ),
        ][:10]
        + lines[10:]
    )
    assert lines[10] == "CONTROL = 0x00000031 {EN MODE=3}; 1 reads, 1 writes"
    assert all(word in lines[11] for word in ("q Quit", "p Pause", "/ Search", "f Filter", "s Sort"))


def test_of_a_usual_size(trace: Path) -> None:
    lines = screen(trace, (80, 24))
    assert lines[1:4] == [
        "mapping  offset  register  last        reads       writes      per second",
        "1:uio0   0x8     CONTROL   0x00000031           1           1           0",
        "1:uio0   0x10    COUNTER   0x0000012b         300           0           0",
    ]
    assert len(lines) == 24
    assert all(len(line) <= 80 for line in lines)


def test_narrow(trace: Path) -> None:
    lines = screen(trace, (40, 8))
    assert lines[:4] == [
        "t.mmiotap  finished  343 events",
        "mapping  offset  register  last",
        "1:uio0   0x8     CONTROL   0x00000031",
        "1:uio0   0x10    COUNTER   0x0000012b",
    ]
    assert lines[6].startswith("CONTROL = 0x00000031 {EN MODE=3}")


def test_moving_searching_sorting(trace: Path) -> None:
    assert screen(trace, (80, 12), "down")[-2].startswith("COUNTER = ")
    end = screen(trace, (80, 12), "end")
    assert end[1].startswith("mapping"), "the head stays"
    assert end[-2].startswith("0x109c = 0x00000027;")
    assert "0x109c" in end[-3]
    assert screen(trace, (80, 12), "slash", "1 0 9 c", "enter")[-2].startswith("0x109c = ")
    assert screen(trace, (80, 12), "slash", "c o u n", "enter")[-2].startswith("COUNTER = ")
    assert "no register has 'zzz'" in screen(trace, (80, 12), "slash", "z z z", "enter")[-2]
    by_count = screen(trace, (80, 12), "s", "s")
    assert by_count[0].endswith("by count")
    assert by_count[2].startswith("1:uio0   0x10 ")


def test_pause_and_filter(trace: Path) -> None:
    assert screen(trace, (80, 12), "p")[0].endswith("PAUSED")
    assert not screen(trace, (80, 12), "p", "p")[0].endswith("PAUSED")
    chosen = screen(trace, (80, 12), "f", "w r i t e", "enter")
    assert chosen[0].endswith("filter: write")
    assert chosen[2].split()[:6] == ["1:uio0", "0x8", "CONTROL", "0x00000031", "0", "1"]
    assert not any("COUNTER" in line for line in chosen)
    wrong = screen(trace, (80, 12), "f", "w r i t", "enter")
    assert "writ" in wrong[-2]
    assert "filter" not in wrong[0]
    assert any("COUNTER" in line for line in wrong)


def test_without_a_terminal_it_is_one_line(mmiotap: Run, trace: Path) -> None:
    refused = mmiotap("live", trace)
    assert (refused.status, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert "terminal" in refused.stderr
