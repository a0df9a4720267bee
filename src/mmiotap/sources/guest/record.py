"""Record what a virtual machine's processors say to its devices."""

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmiotap.sources import control, recording
from mmiotap.sources.child import Signals
from mmiotap.sources.guest.machine import FOLDER, PIPE, Log, Running, Started, log_file, sweep
from mmiotap.sources.recording import Progress
from mmiotap.trace import store
from mmiotap.trace.errors import MmiotapError

if TYPE_CHECKING:
    from mmiotap.sources.guest.rows import Rows

LOOK_SECONDS = 0.1
PROGRESS_SECONDS = 0.2


@dataclass(frozen=True)
class GuestResult:
    """A recording that is over."""

    path: Path
    events: int
    mappings: int
    cpus: int
    seconds: float
    status: int | None  #: QEMU's exit status; None if it died of a signal, or runs on
    signal: int | None  #: that signal
    not_selected: list[str]  #: regions that were accessed, and that no pattern selects
    trouble: str | None  #: why the trace is not whole, with the way out


def record(
    command: Sequence[str] = (),
    *,
    qmp: str | None = None,
    devices: Sequence[str] = (),
    path: str | os.PathLike[str] | None = None,
    disabled: bool = False,
    force: bool = False,
    until: threading.Event | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    say: Callable[[bytes], None] = lambda line: None,
) -> GuestResult:
    """Record a QEMU that ``command`` starts until it ends, or one that runs and has ``qmp`` until that or ``until``.

    :param devices: globs; a region is recorded if one of them is its name, its PCI device's address or ``id=``.
    :param disabled: start switched off.
    :param say: gets each line of QEMU's log that is no access, if the command has no ``-D`` of its own.
    :raises MmiotapError: it cannot be recorded; NotStartedError where the program cannot be started.
    """
    from mmiotap.sources.guest.rows import Rows

    folder = Path(path) if path is not None else recording.default_folder(command[0] if command else "guest")
    settings = {"devices": list(devices), "enabled": not disabled}
    info = recording.start_info(list(command), settings, "guest", time.monotonic_ns()) | {"clock": "monotonic"}
    store.check_name(folder, force)
    own = log_file(list(command))
    with contextlib.ExitStack() as stack:
        sweep()
        pipes = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=FOLDER)))
        log = Log(pipes / PIPE, copy_to=Path(own) if own else None)
        stack.callback(log.finish)
        machine: Running | Started
        if qmp is not None:
            machine = Running(qmp, log.path)
        else:
            signals = stack.enter_context(Signals())
            machine = Started(list(command), log.path)
            signals.forward_to(machine.child)
        stack.callback(machine.close)
        stack.callback(machine.leave)
        answers = machine.meet()
        session = _Session(Rows(folder, info, machine, devices, force=force), machine, log, None if own else say)
        if answers:
            session.begin(not disabled)
        with session.serving():
            if answers:
                session.go()
            session.follow(until or threading.Event(), on_progress)
        return session.finish()


class _Session:
    """A running recording.

    Invariant: what goes wrong with the trace is noted in ``_trouble`` and never ends the machine.
    """

    def __init__(self, rows: "Rows", machine: Running | Started, log: Log, say: Callable[[bytes], None] | None) -> None:
        self._rows = rows
        self._machine = machine
        self._log = log
        self._say = say
        self._enabled = False
        self._marks: deque[tuple[int, str]] = deque()
        self._trouble: str | None = None
        self._started = time.monotonic()

    def begin(self, enabled: bool) -> None:
        self._rows.start()
        self._enabled = enabled
        if enabled:
            with self._unless_it_ended():
                self._machine.switch(True)

    def go(self) -> None:
        with self._unless_it_ended():
            self._machine.go()

    @contextlib.contextmanager
    def _unless_it_ended(self) -> Iterator[None]:
        try:
            yield
        except MmiotapError:
            if not self._machine.wait(1000):
                raise

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Answer requests on the trace's control socket."""
        server = control.Server(self._rows.writer.dir.control, self._answer)
        try:
            yield
        finally:
            server.close()

    def follow(self, until: threading.Event, on_progress: Callable[[Progress], None] | None) -> None:
        """Read the log until the machine has ended, or ``until``."""
        shown = time.monotonic()
        while not self._machine.wait(0) and not until.is_set():
            self._take(self._log.read(LOOK_SECONDS))
            if on_progress and time.monotonic() - shown >= PROGRESS_SECONDS:
                shown = time.monotonic()
                on_progress(Progress(self._rows.events, 0, shown - self._started))

    def finish(self) -> GuestResult:
        """Read what is left, complete the trace, and say how it went."""
        left = self._machine.leave()
        # While it can still be asked where its regions are.
        self._take(self._log.finish())
        self._machine.close()
        seconds = time.monotonic() - self._started
        code = self._machine.exit_code
        status, number = (None, -code) if code is not None and code < 0 else (code, None)
        rows = self._rows
        if self._trouble is None:
            try:
                rows.flush()
                rows.writer.finish(
                    not_selected=list(rows.not_selected),
                    exit=None if code is None else {"status": status, "signal": number},
                )
                shutil.rmtree(rows.writer.dir.live)
            except OSError as error:
                self._give_up(error)
        unread = f"{rows.unread} lines of QEMU's log tell of an access and cannot be read" if rows.unread else None
        return GuestResult(
            path=rows.writer.dir.path,
            events=rows.writer.events,
            mappings=rows.mappings,
            cpus=len(rows.cpus - {-1}),
            seconds=seconds,
            status=status,
            signal=number,
            not_selected=list(rows.not_selected),
            trouble=self._trouble or left or unread,
        )

    def _take(self, data: bytes) -> None:
        if self._trouble is not None:
            return
        try:
            while self._marks:
                self._rows.mark(*self._marks.popleft())
            self._rows.add(data, self._say)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        folder = self._rows.writer.dir.path
        self._trouble = f"{folder}: {error.strerror or error}: make room, then: mmiotap recover {folder}"

    def _answer(self, request: control.Request) -> control.Reply:
        """Runs in the server's thread."""
        match request.get("do"):
            case "mark":
                self._marks.append((time.monotonic_ns(), str(request.get("text", ""))))
            case "enable" | "disable" as word:
                self._machine.switch(word == "enable")
                self._enabled = word == "enable"
            case "status":
                return {"events": self._rows.events, "lost": 0, "enabled": self._enabled}
            case other:
                raise MmiotapError(f"a recorder does not know the request {other!r}")
        return {}
