"""The trace of the kernel while it is being recorded: pages from the kernel's buffers become parts."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from mmiotap.formats.ftrace.events import lost_somewhere
from mmiotap.formats.mmiotrace_lines import VERSION
from mmiotap.formats.pci import PciDevice
from mmiotap.sources import control
from mmiotap.sources.kernel import inventory
from mmiotap.sources.kernel.pipes import Pipe
from mmiotap.sources.kernel.tracefs import Tracefs
from mmiotap.sources.recording import RecordResult
from mmiotap.trace.errors import DiskError, MmiotapError
from mmiotap.trace.model import Process
from mmiotap.trace.store import TraceDir
from mmiotap.trace.writer import TraceWriter, count_lost, utc_now

#: A part has so many events, or those of so many seconds.
_PART_EVENTS = 1 << 18
_PART_SECONDS = 2.0


class KernelTrace:
    """Reads the kernel's buffers into a new trace.

    Invariant: when the trace cannot be written, that is noted in ``_trouble``, and the kernel is read on.
    """

    def __init__(
        self,
        tracefs: Tracefs,
        pipe: Pipe,
        folder: Path,
        info: dict[str, Any],
        devices: list[PciDevice],
        *,
        force: bool,
    ) -> None:
        self.lost = 0
        self.events = 0
        self._tracefs = tracefs
        self._pipe = pipe
        self._writer = TraceWriter.create(folder, info, force=force)
        self._writer.update(
            pci_devices=[device.to_json() for device in devices], mmiotrace={"version": VERSION, "lspci": []}
        )
        self._waiting: list[pa.Table] = []
        self._since = time.monotonic()
        self._mappings = 0
        self._drivers: dict[str, str] = {}
        self._tasks: dict[int, Process] = {}
        self._trouble: str | None = None

    @contextmanager
    def controlled(self) -> Iterator[None]:
        """Meanwhile ``mmiotap mark``, ``disable``, ``enable`` and ``status`` reach the kernel."""
        folder = TraceDir(self._writer.dir.path)
        folder.live.mkdir(mode=0o700)
        server = control.Server(folder.control, self._answer)
        try:
            with self._pipe.emptying(folder.live):
                yield
        finally:
            server.close()
            folder.control.unlink(missing_ok=True)
            with suppress(OSError):  # pages that were not decoded stay
                folder.live.rmdir()

    def read(self) -> bool:
        """Make events of what the kernel said. False: there was nothing."""
        try:
            table = self._pipe.read()
        except DiskError as error:  # the trace was removed
            self._trouble = str(error)
            return True
        if table is not None:
            self._note(table)
            self._waiting.append(table)
        waiting = sum(table.num_rows for table in self._waiting)
        if waiting >= _PART_EVENTS or (waiting and time.monotonic() - self._since > _PART_SECONDS):
            self._write()
        return table is not None

    def drain(self) -> None:
        """Stop the kernel, and take all that it has."""
        self._tracefs.write("tracing_on", "0")
        self._pipe.empty()
        while self.read():
            pass
        # What it lost in places that it did not count, or did not name.
        if (more := self._tracefs.lost() - self.lost) > 0:
            table = lost_somewhere(more, time.monotonic_ns())
            self._note(table)
            self._waiting.append(table)
        self._write()

    def finish(self, code: int | None, seconds: float) -> RecordResult:
        """Complete the trace, and say how it went. ``code`` is the command's, below 0 the signal it died of."""
        status, signal = (None, -code) if code is not None and code < 0 else (code, None)
        try:
            self._writer.add_processes(self._tasks.values())
            self._writer.finish(
                exit=None if code is None else {"status": status, "signal": signal},
                finished=utc_now(),
                events=self._writer.events,
                lost=self.lost,
                drivers=self._drivers,
            )
        except DiskError as error:
            self._trouble = str(error)
        return RecordResult(
            path=self._writer.dir.path,
            events=self._writer.events,
            lost=self.lost,
            mappings=len(self._pipe.mappings),
            threads=len(self._tasks),
            seconds=seconds,
            status=status,
            signal=signal,
            not_selected=[],
            still_running=[],
            trouble=self._trouble,
        )

    def _note(self, table: pa.Table) -> None:
        """Count, and ask now for what may be gone later: who they are, and which driver it is that maps a device."""
        self.events += table.num_rows
        self.lost += count_lost(table)
        for tid in table["tid"].unique().to_pylist():
            if tid and tid not in self._tasks:
                self._tasks[tid] = _task(tid)
        mapped = {one.device for one in self._pipe.mappings[self._mappings :]} - {None, *self._drivers}
        if mapped:
            self._drivers |= {one.name: one.driver for one in inventory.devices() if one.name in mapped and one.driver}

    def _write(self) -> None:
        tables, self._waiting, self._since = self._waiting, [], time.monotonic()
        if not tables:
            return
        sealed = self._pipe.sealed
        new = self._pipe.mappings[self._mappings :]
        self._mappings += len(new)
        table = pa.concat_tables(tables)
        if self._trouble is None:
            try:
                self._writer.add_mappings(new)
                self._writer.append(table, sealed)
            except DiskError as error:
                self._trouble = str(error)
        if self._trouble is not None:
            self.lost += table.num_rows
        self._pipe.written()

    def _answer(self, request: control.Request) -> control.Reply:
        """Runs in the server's thread; touches the kernel's files only."""
        match request.get("do"):
            case "mark":
                with suppress(OSError):
                    self._tracefs.write("trace_marker", f"{request.get('text', '')}\n")
            case "enable" | "disable" as word:
                self._tracefs.write("tracing_on", "1" if word == "enable" else "0")
            case "status":
                enabled = self._tracefs.read("tracing_on") == "1"
                return {"events": self.events, "lost": self.lost, "enabled": enabled}
            case other:
                raise MmiotapError(f"a recorder does not know the request {other!r}")
        return {}


def _task(tid: int) -> Process:
    """A thread that the kernel names by its number only. One that is gone already has no name."""
    try:
        name = Path(f"/proc/{tid}/comm").read_text(errors="backslashreplace").strip()
        parent = int(Path(f"/proc/{tid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except OSError:
        return Process(tid, 0, "")
    return Process(tid, parent, name)
