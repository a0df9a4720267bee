"""A recording: the folder of its trace, the arena that rows go to, and what is done with them while a program runs.

The same for every engine. All that is done here is to copy rows from shared memory into Parquet parts; whatever goes
wrong with that (disk full, folder removed), the program runs on.
"""

import contextlib
import itertools
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mmiotap.sources import control
from mmiotap.sources.futex import Futex
from mmiotap.trace import layout, store
from mmiotap.trace.arena import PROTOCOLS, SMP_WAYS, Arena, ArenaWriter
from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.model import Mapping
from mmiotap.version import VERSION

if TYPE_CHECKING:
    from mmiotap.sources.observers import Observers
    from mmiotap.trace.sealer import Sealer

#: Bytes of events that may wait to be sealed.
DEFAULT_BUFFER = 64 << 20
#: Segments that a buffer has at least: a few threads, and one that is being sealed.
MIN_SEGMENTS = 4

#: Sealing takes a core that the program may be using. It starts when one segment in so many is full, so that parts have
#: a good size: in a pause, in which none is filled; and without one while there is still room left.
PAUSE_SEAL_SHARE = 4
BUSY_SEAL_SHARE = 2

#: Segments kept in memory ahead of those in use: what a fast program fills between two looks.
WARM_SEGMENTS = 64

BUSY_PAUSE_MS = 5
IDLE_PAUSE_MS = 50
HEARTBEAT_SECONDS = 0.05
PROGRESS_SECONDS = 0.2
#: After ``closed`` a thread that still runs may be in the middle of one last row.
LAST_ROW_SECONDS = 0.02


class Traced(Protocol):
    """The program that is recorded, as a recording sees it."""

    @property
    def pid(self) -> int: ...

    @property
    def exit_code(self) -> int | None:
        """Once it has ended: its status, or minus the signal that it died of."""

    def wait(self, milliseconds: int, /) -> bool:
        """Is the recording over, now or within this time?"""


@dataclass(frozen=True)
class Progress:
    """A running recording, so far."""

    events: int
    lost: int
    seconds: float


@dataclass(frozen=True)
class RecordResult:
    """A recording that is over."""

    path: Path
    events: int
    lost: int
    mappings: int
    threads: int
    seconds: float
    status: int | None  #: the program's exit status; None if it died of a signal, or runs on
    signal: int | None  #: that signal
    not_selected: list[str]  #: files that were mapped, and that no rule selects
    still_running: list[int]  #: recorded processes that outlive the program
    trouble: str | None  #: why the trace is not whole, with the way out
    stepped: int = 0  #: events of instructions that were run in place, with the page open


def default_folder(program: str) -> Path:
    name = f"{Path(program).name}.{os.getpid()}"
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(folder for folder in (Path(f"{name}.mmiotap") for name in names) if not folder.exists())


class Recording:
    """A running recording: the trace, its arena, and what went wrong so far.

    Invariant: what goes wrong with the trace is noted in ``_trouble`` and never raised while the program runs.
    """

    def __init__(
        self,
        folder: Path,
        command: list[str],
        settings: dict[str, Any],
        source: str,
        *,
        enabled: bool,
        buffer: int,
        force: bool,
        keep: bool = True,
        observers: "Observers | None" = None,
    ) -> None:
        """Without ``keep`` there is no event in the trace, and ``observers`` are all that it is made for."""
        self.trace = store.TraceDir(folder)
        self._folder = folder
        self._started = time.monotonic_ns()
        self._keep = keep
        self._observers = observers
        self._sealer: Sealer | None = None
        self._sealing = threading.Lock()
        self._trouble: str | None = None
        self._full = 0  # segments, when we last looked
        self._threads: set[tuple[int, int]] = set()
        #: Called after recording was enabled or disabled, in a thread of its own, for those who do not see the arena.
        self.on_switch: Callable[[], None] = lambda: None
        #: What trace.json is to say beside the rest when the recording is over.
        self.notes: dict[str, Any] = {}
        self._info = start_info(command, settings, source, self._started)
        store.create(folder, force)
        try:
            store.write_info(folder, self._info)
            self.arena = Arena.create(
                self.trace.arena,
                segments=max(MIN_SEGMENTS, buffer // layout.SEGMENT_SIZE),
                rules=settings["maps"],
                on_full=settings["on_full"],
                latency=settings["latency"],
                enabled=enabled,
                recorder_pid=self._info["recorder_pid"],
                recorder_start=self._info["recorder_start"],
                patch=settings.get("patch", 0),
                protocol=settings.get("protocol", PROTOCOLS[0]),
                smp=settings.get("smp", SMP_WAYS[0]),
            )
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise MmiotapError(
                f"{folder}: {error.strerror}: make room, use -o elsewhere or a smaller --buffer"
            ) from error
        self._switch = Futex(self.trace.arena, layout.H_ENABLED)
        self._marks = ArenaWriter(self.arena, pid=os.getpid(), tid=os.getpid())

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Keep the heart beating and answer requests; at the end the recording is closed, whatever happened."""
        over = threading.Event()
        heart = threading.Thread(target=self._beat, args=(over,), name="mmiotap-heartbeat", daemon=True)
        heart.start()
        server = control.Server(self.trace.control, self._answer)
        try:
            yield
        finally:
            server.close()
            self.arena.closed = True
            self._switch.wake_all()
            over.set()
            heart.join()

    def follow(self, program: Traced, on_progress: Callable[[Progress], None] | None) -> None:
        """Seal while the program runs; returns when it has ended."""
        shown = time.monotonic()
        pause = BUSY_PAUSE_MS
        while not program.wait(pause):
            states = Counter(self.arena.states())
            self._warm_up(states)
            if self._observers:
                self._observers.look(self.arena.snapshot(copy=False))
            pause = BUSY_PAUSE_MS if states[layout.FULL] else IDLE_PAUSE_MS
            if self._trouble is None:
                try:
                    self._keep_up(states)
                except OSError as error:
                    self._give_up(error)
            if on_progress and time.monotonic() - shown >= PROGRESS_SECONDS:
                shown = time.monotonic()
                on_progress(Progress(*self._counts(), self._seconds()))

    def finish(self, program: Traced) -> RecordResult:
        """Seal what is left, complete trace.json, and say how it went."""
        seconds = self._seconds()
        code = program.exit_code
        status, signal = (None, -code) if code is not None and code < 0 else (code, None)
        ended = None if code is None else {"status": status, "signal": signal}
        self._note_threads()
        still_running = self._still_running(program.pid)
        if still_running:
            time.sleep(LAST_ROW_SECONDS)
        try:
            self._complete(finished=_utc_now(), exit=ended, **self.notes)
        except OSError as error:
            self._give_up(error)
        events, lost = self._counts()
        if not self.trace.info_file.exists():
            events, lost = 0, events + lost
        info = self._info if self._trouble else store.read_info(self._folder)
        return RecordResult(
            path=self._folder,
            events=events,
            lost=lost,
            mappings=_lines(self.trace.mappings_file),
            threads=len(self._threads - {(os.getpid(), os.getpid())}),
            seconds=seconds,
            status=status,
            signal=signal,
            not_selected=info["not_selected"],
            still_running=still_running,
            trouble=self._trouble,
            stepped=self._sealer.stepped if self._sealer else 0,
        )

    def _warm_up(self, states: Counter[int]) -> None:
        """The program takes the first free segments: those that it comes to next are to be in memory."""
        if used := states[layout.OWNED] + states[layout.FULL]:
            self.arena.warm(used + WARM_SEGMENTS)

    def _keep_up(self, states: Counter[int]) -> None:
        """Seal when enough is full, or owned by threads that may be gone; add room when living ones own most of it."""
        if not states[layout.OWNED] + states[layout.FULL]:
            return
        with self._sealing:
            sealer = self._the_sealer()
            crowded = states[layout.OWNED] > self.arena.segment_count // 2
            share = PAUSE_SEAL_SHARE if states[layout.FULL] == self._full else BUSY_SEAL_SHARE
            self._full = states[layout.FULL]
            if crowded or self._full * share >= self.arena.segment_count:
                self._note_threads()
                sealer.seal()
            if crowded and Counter(self.arena.states())[layout.OWNED] > self.arena.segment_count // 2:
                self.arena.grow(min(2 * self.arena.segment_count, layout.MAX_SEGMENTS))

    def _complete(self, **ending: Any) -> None:
        if self._sealer is None and not any(self.arena.states()):
            info = self._info | ending | {"state": "finished", "lost": self.arena.lost_unplaced}
            store.write_info(self._folder, info)
        else:
            with self._sealing:
                sealer = self._the_sealer()
                sealer.seal()
                devices = pci_devices(store.read_mappings(self._folder))
                sealer.finish(state="finished", **({"pci_devices": devices} if devices else {}), **ending)
        shutil.rmtree(self.trace.live)

    def _the_sealer(self) -> "Sealer":
        """Made at its first use, under the lock: it imports pyarrow, which takes longer than many a program runs."""
        if self._sealer is None:
            from mmiotap.trace.sealer import Sealer

            look = self._observers.look if self._observers else None
            self._sealer = Sealer(self._folder, self.arena, keep=self._keep, look=look)
        return self._sealer

    def _give_up(self, error: OSError) -> None:
        """The trace cannot be written: the program must not wait for room that will not come."""
        self.arena.on_full = "drop"
        if self.trace.info_file.exists():
            self._trouble = (
                f"{self._folder}: {error.strerror or error}: make room, then: mmiotap recover {self._folder}"
            )
        else:
            self._trouble = f"{self._folder} was removed while it was being recorded; what it held is lost"

    def _counts(self) -> tuple[int, int]:
        """Events recorded (sealed or not) and events lost, so far."""
        if self._sealer is None and not any(self.arena.states()):
            return 0, self.arena.lost_unplaced
        with self._sealing:
            return self._the_sealer().counts()

    def _note_threads(self) -> None:
        """Segments are given back when they are sealed; whose they were is remembered."""
        self._threads.update(self.arena.owners())

    def _still_running(self, program: int) -> list[int]:
        pids = {pid for pid, _ in self._threads} - {program, os.getpid()}
        return sorted(pid for pid in pids if self._maps_the_arena(pid))

    def _maps_the_arena(self, pid: int) -> bool:
        """Tells a recorded process from one that got its pid later."""
        try:
            return str(self.trace.arena.resolve()) in Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape")
        except OSError:
            return False

    def _seconds(self) -> float:
        return (time.monotonic_ns() - self._started) / 1e9

    def _beat(self, over: threading.Event) -> None:
        while not over.wait(HEARTBEAT_SECONDS):
            self.arena.heartbeat = (self.arena.heartbeat + 1) & 0xFFFFFFFF

    def _answer(self, request: control.Request) -> control.Reply:
        """Runs in the server's thread; ``_marks`` is used nowhere else."""
        match request.get("do"):
            case "mark":
                if not self._marks.mark(str(request.get("text", ""))):
                    raise MmiotapError("no room for the mark: the buffer is full")
            case "enable" | "disable" as word:
                self.arena.enabled = word == "enable"
                self._switch.wake_all()
                self.on_switch()
            case "status":
                events, lost = self._counts()
                return {"events": events, "lost": lost, "enabled": self.arena.enabled}
            case other:
                raise MmiotapError(f"a recorder does not know the request {other!r}")
        return {}


def start_info(command: list[str], settings: dict[str, Any], source: str, started: int) -> dict[str, Any]:
    """trace.json of a recording that begins (docs/trace-format.md)."""
    return {
        "format": 1,
        "state": "recording",
        "command": command,
        "host": os.uname().nodename,
        "kernel": os.uname().release,
        "boot_id": store.boot_id(),
        "mmiotap": VERSION,
        "started": _utc_now(),
        "start_mono_ns": started,
        "start_unix_ns": time.time_ns(),
        "finished": None,
        "recorder_pid": os.getpid(),
        "recorder_start": store.process_start(os.getpid()),
        "settings": settings,
        "exit": None,
        "events": 0,
        "lost": 0,
        "not_selected": [],
        "source": source,
    }


def pci_devices(mappings: Iterable[Mapping], root: Path = Path("/")) -> list[dict[str, Any]]:
    """The PCI devices of some mappings, as they stand in trace.json: descriptions of registers are found by them."""
    mapped = {one.device for one in mappings if one.device is not None}
    if not mapped:
        return []
    from mmiotap.sources.kernel import inventory  # not what a recording should wait for as it starts

    with contextlib.suppress(OSError, ValueError):  # sysfs is not as we know it
        return [one.to_json() for one in inventory.devices(root) if one.name in mapped]
    return []


def _utc_now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except OSError:
        return 0
