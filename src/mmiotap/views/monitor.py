"""A terminal screen with the registers of a trace, which changes as the driver works."""

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import on, work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widgets import Footer, Input, Static

from mmiotap.analysis.watch import Look, Register
from mmiotap.trace.errors import MmiotapError
from mmiotap.views.lines import map_label
from mmiotap.views.words import printable

#: Seconds between two looks, at least; and as much rest as a look takes work.
PAUSE = 0.25

ORDERS: dict[str, Callable[[Register], object]] = {
    "address": lambda one: one.place,
    "rate": lambda one: (-one.rate, one.place),
    "count": lambda one: (-(one.reads + one.writes + one.others), one.place),
}

STATES = {"recording": "recording", "incomplete": "incomplete: its recorder has ended too early"}


class Registers(ScrollView, can_focus=True):
    """The table. Only lines that are seen are drawn, so it may have any number of them."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "up", show=False),
        Binding("down,j", "move(1)", "down", show=False),
        Binding("pageup", "page(-1)", "page up", show=False),
        Binding("pagedown", "page(1)", "page down", show=False),
        Binding("home,g", "move(-1000000000)", "first", show=False),
        Binding("end,G", "move(1000000000)", "last", show=False),
    ]
    at: reactive[int] = reactive(0)

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Register] = []
        self._labels: dict[int, str] = {}

    def show(self, rows: list[Register], labels: dict[int, str]) -> None:
        """These lines; the cursor stays on its register."""
        place = self.rows[self.at].place if self.rows else None
        self.rows, self._labels = rows, labels
        self.virtual_size = Size(0, len(rows) + 1)
        found = next((number for number, row in enumerate(rows) if row.place == place), None)
        self.at = min(self.at, max(len(rows) - 1, 0)) if found is None else found
        self.refresh()

    @property
    def chosen(self) -> Register | None:
        return self.rows[self.at] if self.rows else None

    def watch_at(self) -> None:
        self.scroll_to_region_of_cursor()
        self.refresh()

    def scroll_to_region_of_cursor(self) -> None:
        """The head of the table takes the first line of what is seen."""
        top, height = self.scroll_offset.y, max(self.size.height - 1, 1)
        if self.at < top:
            self.scroll_to(y=self.at, animate=False)
        elif self.at >= top + height:
            self.scroll_to(y=self.at - height + 1, animate=False)

    def action_move(self, lines: int) -> None:
        self.at = min(max(self.at + lines, 0), max(len(self.rows) - 1, 0))

    def action_page(self, pages: int) -> None:
        self.action_move(pages * max(self.size.height - 2, 1))

    def render_line(self, y: int) -> Strip:
        columns = self._columns()
        if y == 0:
            texts = [Segment(_fit(head, width), Style(bold=True)) for head, width in columns]
            return Strip(_spaced(texts)).crop_extend(0, self.scrollable_content_region.width, None)
        number = self.scroll_offset.y + y - 1
        if number >= len(self.rows):
            return Strip.blank(self.scrollable_content_region.width)
        row = self.rows[number]
        ground = Style(reverse=True) if number == self.at else Style()
        cells = self._cells(row)
        segments = [_fitted(cells[head], width, right=head in _NUMBERS) for head, width in columns]
        line = Strip(_spaced([segment for cell in segments for segment in [*cell, _GAP]], gap=False))
        return line.crop_extend(0, self.scrollable_content_region.width, None).apply_style(ground)

    def _columns(self) -> list[tuple[str, int]]:
        """Heads and widths of the columns that there is room for; the most important ones first."""
        named = any(row.name for row in self.rows)
        widths = {
            "offset": max([len(f"{row.place[1]:#x}") for row in self.rows[:_MEASURED]], default=6),
            "register": min(max([len(row.name) for row in self.rows[:_MEASURED]], default=8), 24) if named else 0,
            "last": max([len(value_text(row)) for row in self.rows[:_MEASURED]], default=10),
            "per second": 10,
            "reads": 10,
            "writes": 10,
            "mapping": max([len(self._label(row)) for row in self.rows[:_MEASURED]], default=7),
            "fields": 30 if any(row.fields for row in self.rows) else 0,
        }
        room = self.scrollable_content_region.width
        chosen = set()
        for head, width in widths.items():
            if width and (needed := max(width, len(head)) + 2) <= room + 2:
                chosen.add(head)
                room -= needed
        order = ("mapping", "offset", "register", "last", "reads", "writes", "per second", "fields")
        found = [(head, max(widths[head], len(head))) for head in order if head in chosen]
        return [(head, width + (max(room, 0) if head == "fields" else 0)) for head, width in found]

    def _label(self, row: Register) -> str:
        return self._labels.get(row.place[0], f"{row.place[0]}:?")

    def _cells(self, row: Register) -> dict[str, list[Segment]]:
        return {
            "mapping": [Segment(self._label(row))],
            "offset": [Segment(f"{row.place[1]:#x}")],
            "register": [Segment(printable(row.name))],
            "last": value_segments(row),
            "reads": [Segment(str(row.reads))],
            "writes": [Segment(str(row.writes))],
            "per second": [Segment(rate_text(row.rate))],
            "fields": [Segment(printable(row.fields))],
        }


#: Rows by which the widths of columns go.
_MEASURED = 2000
_NUMBERS = ("reads", "writes", "per second")
_GAP = Segment("  ")
_CHANGED = Style(bold=True, color="yellow")


def value_text(row: Register) -> str:
    return "?" if row.value is None else f"0x{row.value:0{2 * min(max(row.place[2], 1), 8)}x}"


def value_segments(row: Register) -> list[Segment]:
    """The digits in which bits have changed stand out."""
    text = value_text(row)
    if row.value is None or not row.changed:
        return [Segment(text)]
    digits = text[2:]
    changed = f"{row.changed:0{len(digits)}x}"[-len(digits) :]
    marked = [Segment(digit, _CHANGED if bits != "0" else None) for digit, bits in zip(digits, changed, strict=True)]
    return [Segment("0x"), *marked]


def rate_text(rate: float) -> str:
    """``0``, ``12``, ``3.4k``, ``1.2M``."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if rate >= size:
            return f"{rate / size:.3g}{unit}"
    return f"{rate:.3g}"


def _fit(text: str, width: int) -> str:
    return text[:width].ljust(width)


def _fitted(segments: Sequence[Segment], width: int, *, right: bool) -> list[Segment]:
    """Segments cut, or filled up, to a width."""
    length = sum(len(segment.text) for segment in segments)
    blank = [Segment(" " * max(width - length, 0))]
    return [*blank, *segments] if right else [*Strip([*segments, *blank]).crop(0, width)]


def _spaced(segments: Sequence[Segment], *, gap: bool = True) -> list[Segment]:
    return [one for segment in segments for one in (segment, _GAP)] if gap else list(segments)


@dataclass
class Found(Message):
    """There was a look."""

    look: Look


@dataclass
class Trouble(Message):
    """There was none, and why."""

    text: str


class Monitor(App[None]):
    """The screen. It asks ``look`` for what there is, in a thread of its own, until it ends."""

    CSS = """
    Screen { layout: vertical; }
    #head, #detail, #note { height: 1; width: 100%; }
    #head { background: $panel; }
    #note { color: $error; display: none; }
    Registers { height: 1fr; scrollbar-size-vertical: 1; }
    #detail { background: $panel; }
    Input { display: none; height: 1; border: none; padding: 0; }
    """
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,ctrl+c,ctrl+q", "quit", "Quit", key_display="q"),
        Binding("p,space", "pause", "Pause"),
        Binding("slash", "ask('search')", "Search", key_display="/"),
        Binding("n", "next", "Next", show=False),
        Binding("f", "ask('filter')", "Filter"),
        Binding("s", "order", "Sort"),
    ]

    def __init__(self, title: str, look: Callable[[], Look], choose: Callable[[str], None], chosen: str) -> None:
        """``choose`` sets the filter ("": none), ``chosen`` at first; it raises MmiotapError if it is wrong."""
        super().__init__()
        self._title, self._look, self._choose = title, look, choose
        self._filter, self._search = chosen, ""
        self._asking = ""
        self._order = "address"
        self._paused = False
        self._found: Look | None = None
        self._over = False
        self._wake = threading.Event()

    def compose(self) -> ComposeResult:
        yield Static(id="head", markup=False)
        yield Registers()
        yield Static(id="detail", markup=False)
        yield Static(id="note", markup=False)
        yield Input(compact=True)
        yield Footer()

    def on_mount(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self.exit)
        self.query_one(Registers).focus()
        self._watch()
        self.watch(self.query_one(Registers), "at", self._tell, init=False)

    @work(thread=True)
    def _watch(self) -> None:
        """Messages, and no calls: a call would wait for a screen that may be closing."""
        while not self._over:
            began = time.monotonic()
            try:
                found = self._look()
            except MmiotapError as error:
                self.post_message(Trouble(str(error)))
            else:
                self.post_message(Found(found))
                if found.state not in ("recording", "incomplete"):
                    self._wake.wait()
            self._wake.wait(max(PAUSE, time.monotonic() - began))
            self._wake.clear()

    def on_unmount(self) -> None:
        self._over = True
        self._wake.set()

    def on_found(self, message: "Found") -> None:
        self._found = message.look
        if not self._paused:
            self._show()

    def on_trouble(self, message: "Trouble") -> None:
        self._say(message.text)

    def _show(self) -> None:
        if self._found is None:
            return
        labels = {mapping.map_id: map_label(mapping) for mapping in self._found.mappings}
        self.query_one(Registers).show(sorted(self._found.registers, key=ORDERS[self._order]), labels)  # type: ignore[arg-type]
        self._tell()

    def _tell(self) -> None:
        """The lines above and below the table."""
        found = self._found
        if found is None:
            return
        words = [self._title, STATES.get(found.state, found.state), f"{found.events} events"]
        words += [f"{rate_text(found.rate)}/s"] if found.state == "recording" else []
        words += [f"lost: {found.lost}"] if found.lost else []
        words += [f"by {self._order}"] if self._order != "address" else []
        words += [f"filter: {self._filter}"] if self._filter else []
        words += ["PAUSED"] if self._paused else []
        self.query_one("#head", Static).update(printable("  ".join(words)))
        row = self.query_one(Registers).chosen
        if row is None:
            self.query_one("#detail", Static).update("no accesses yet" if found.state == "recording" else "no accesses")
            return
        changed = f", changed: {row.changed:#x}" if row.changed else ""
        fields = f" {{{row.fields}}}" if row.fields else ""
        others = f", {row.others} of unknown direction" if row.others else ""
        name = row.name or f"{row.place[1]:#x}"
        counts = f"{row.reads} reads, {row.writes} writes{others}"
        self.query_one("#detail", Static).update(printable(f"{name} = {value_text(row)}{fields}{changed}; {counts}"))

    def _say(self, text: str) -> None:
        note = self.query_one("#note", Static)
        note.display = bool(text)
        note.update(printable(text))

    def action_pause(self) -> None:
        self._paused = not self._paused
        self._show() if not self._paused else self._tell()

    def action_order(self) -> None:
        names = list(ORDERS)
        self._order = names[(names.index(self._order) + 1) % len(names)]
        self._show()

    def action_ask(self, what: str) -> None:
        self._asking = what
        line = self.query_one(Input)
        line.value = self._filter if what == "filter" else ""
        line.placeholder = "a filter, as mmiotap fields lists it; empty: all" if what == "filter" else "name or offset"
        line.display = True
        line.focus()

    def on_key(self, event: object) -> None:
        if getattr(event, "key", "") == "escape":
            self._done()

    def _done(self) -> None:
        self.query_one(Input).display = False
        self.query_one(Registers).focus()

    @on(Input.Submitted)
    def _answered(self, event: Input.Submitted) -> None:
        self._done()
        self._say("")
        if self._asking == "search":
            self._search = event.value.lower()
            self.action_next()
            return
        try:
            self._choose(event.value)
        except MmiotapError as error:
            self._say(str(error))
            return
        self._filter = event.value
        self._wake.set()

    def action_next(self) -> None:
        """To the next register whose name or offset has what is searched for."""
        table = self.query_one(Registers)
        count = len(table.rows)
        for step in range(count):
            number = (table.at + 1 + step) % count
            row = table.rows[number]
            if self._search and self._search in f"{row.name} {row.place[1]:#x}".lower():
                table.at = number
                self._say("")
                return
        if self._search:
            self._say(f"no register has {self._search!r} in its name or offset")
