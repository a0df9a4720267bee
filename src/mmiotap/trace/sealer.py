"""Sealing: rows of the arena become Parquet parts, and only then are their segments given back."""

import contextlib
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from mmiotap.trace import layout, rows, store
from mmiotap.trace.arena import Arena, Chunk
from mmiotap.trace.errors import DiskError
from mmiotap.trace.model import Mapping, Module, Process, Site
from mmiotap.trace.writer import TraceWriter

_R = TypeVar("_R", Mapping, Module, Process, Site)


class Sealer:
    """Moves rows from the arena of a trace to its parts. One at a time; :meth:`counts` may be asked by any thread.

    Wherever it is killed, every row is in the arena, in a part, or in both with a footer that says so: what belongs
    beside the events is written first, then the part appears, and then the segments are given back.
    """

    def __init__(
        self,
        folder: Path,
        arena: Arena,
        state: str = "finished",
        *,
        keep: bool = True,
        look: Callable[[list[Chunk]], None] | None = None,
    ) -> None:
        """``state`` is what the trace is in after :meth:`finish`.

        Without ``keep`` no row comes into a part; they are only counted. ``look`` is called with every snapshot before
        its segments are given back.
        """
        self._folder = folder
        self._arena = arena
        self._state = state
        self._keep = keep
        self._look = look
        self._lock = threading.Lock()
        self._scratch = rows.Scratch()
        self._writer: TraceWriter | None = None
        #: Events in parts so far whose instruction was run in place.
        self.stepped = 0
        self._mappings: dict[int, Mapping] = {}
        #: What is beside the events already; one before us may have written it and not come to the part.
        self._listed: set[object] = set()
        with contextlib.suppress(DiskError):  # if the folder is gone, seal() says so; what is there can be counted
            self._open()

    def _open(self) -> TraceWriter:
        if self._writer is None:
            with store.writing(self._folder):
                store.TraceDir(self._folder).info_file.stat()
            writer = TraceWriter(self._folder, self._state)
            self._mappings = {mapping.map_id: mapping for mapping in store.read_mappings(self._folder)}
            self._listed.update(self._mappings, store.read_modules(self._folder), store.read_processes(self._folder))
            self._listed.update(store.read_sites(self._folder))
            self._writer = writer
        return self._writer

    def seal(self) -> None:
        """Put all published rows into parts and give back what can be. Raises DiskError; nothing is lost then."""
        writer = self._open()
        ended = self._arena.ended()
        chunks = self._arena.snapshot(copy=False)
        over = [chunk for chunk in chunks if chunk.header.index in ended]
        self._seal(writer, chunks, over, 0)
        with self._lock:
            self._arena.recycle(ended, writer.sealed)

    def finish(self, **info: Any) -> None:
        """Seal the rest, what was lost at the end included, and complete trace.json. Nobody may write any more."""
        writer = self._open()
        chunks = self._arena.snapshot(copy=False)
        self._seal(writer, chunks, chunks, self._arena.lost_unplaced)
        writer.finish(**info)

    def counts(self) -> tuple[int, int]:
        """Events recorded (sealed or not) and events lost, so far."""
        with self._lock:
            writer = self._writer
            sealed = writer.sealed if writer else {}
            chunks = self._arena.snapshot(copy=False)
            lost = rows.losses(chunks, self._arena.lost_unplaced, sealed, 0)
            events, lost_events = rows.count([*rows.unsealed(chunks, sealed), *lost])
            return events + (writer.events if writer else 0), lost_events + (writer.lost if writer else 0)

    def _seal(self, writer: TraceWriter, chunks: list[Chunk], over: list[Chunk], lost_unplaced: int) -> None:
        """What is not in parts of these chunks, and losses in streams that are ``over``."""
        if self._look:
            self._look(chunks)
        waiting = rows.unsealed(chunks, writer.sealed)
        end_ns = max(writer.end_ns, rows.latest_ns(waiting))
        lost = rows.losses(over, lost_unplaced, writer.sealed, end_ns)
        for part in rows.in_parts([*waiting, *lost]):
            self._write(writer, part)

    def _write(self, writer: TraceWriter, part: list[Chunk]) -> None:
        found = rows.convert(part, self._mappings, self._scratch)
        self._list(found.mappings, writer.add_mappings)
        self._list(found.modules, writer.add_modules)
        self._list(found.processes, writer.add_processes)
        self._list(found.sites, writer.add_sites)
        self.stepped += rows.count_flag(found.events, layout.STEPPED)
        known = writer.info.get("not_selected", [])
        paths = list(dict.fromkeys([*known, *found.not_selected]))
        if len(paths) > len(known):
            writer.update(not_selected=paths)
        with self._lock:
            if self._keep:
                writer.append(found.events, rows.sealed_by(part))
            else:
                writer.pass_over(found.events, rows.sealed_by(part))

    def _list(self, records: Iterable[_R], add: Callable[[Iterable[_R]], None]) -> None:
        """Add those that are not there."""
        new = [record for record in dict.fromkeys(records) if _identity(record) not in self._listed]
        add(new)
        self._listed.update(map(_identity, new))


def _identity(record: object) -> object:
    """What makes two records the same. What sysfs says of a mapping may have changed when it is found again."""
    return record.map_id if isinstance(record, Mapping) else record
