"""Sealing: rows of the arena become Parquet parts, and only then are their segments given back."""

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from mmiotap.trace import rows, store
from mmiotap.trace.arena import Arena, Chunk
from mmiotap.trace.model import Mapping, Module, Process
from mmiotap.trace.writer import TraceWriter

_R = TypeVar("_R", Mapping, Module, Process)


class Sealer:
    """Moves rows from the arena of a trace to its parts. One at a time; :meth:`counts` may be asked by any thread.

    Wherever it is killed, every row is in the arena, in a part, or in both with a footer that says so: what belongs
    beside the events is written first, then the part appears, and then the segments are given back.
    """

    def __init__(self, folder: Path, arena: Arena, state: str = "finished") -> None:
        """``state`` is what the trace is in after :meth:`finish`. Raises DiskError if the folder is gone."""
        with store.writing(folder):
            store.TraceDir(folder).info_file.stat()
        self._arena = arena
        self._writer = TraceWriter(folder, state)
        self._lock = threading.Lock()
        self._scratch = rows.Scratch()
        self._mappings = {mapping.map_id: mapping for mapping in store.read_mappings(folder)}
        #: What is beside the events already; one before us may have written it and not come to the part.
        self._listed: set[object] = {*self._mappings, *store.read_modules(folder), *store.read_processes(folder)}

    def seal(self) -> None:
        """Put all published rows into parts and give back what can be. Raises DiskError; nothing is lost then."""
        ended = self._arena.ended()
        chunks = self._arena.snapshot(copy=False)
        over = [chunk for chunk in chunks if chunk.header.index in ended]
        self._seal(rows.unsealed(chunks, self._writer.sealed), over, 0)
        with self._lock:
            self._arena.recycle(ended, self._writer.sealed)

    def finish(self, **info: Any) -> None:
        """Seal the rest, what was lost at the end included, and complete trace.json. Nobody may write any more."""
        chunks = self._arena.snapshot(copy=False)
        self._seal(rows.unsealed(chunks, self._writer.sealed), chunks, self._arena.lost_unplaced)
        self._writer.finish(**info)

    def counts(self) -> tuple[int, int]:
        """Events recorded (sealed or not) and events lost, so far."""
        with self._lock:
            chunks = self._arena.snapshot(copy=False)
            waiting = rows.unsealed(chunks, self._writer.sealed)
            lost = rows.losses(chunks, self._arena.lost_unplaced, self._writer.sealed, 0)
            events, lost_events = rows.count([*waiting, *lost])
            return self._writer.events + events, self._writer.lost + lost_events

    def _seal(self, waiting: list[Chunk], over: list[Chunk], lost_unplaced: int) -> None:
        """Rows, and losses in streams that are ``over``."""
        end_ns = max(self._writer.end_ns, rows.latest_ns(waiting))
        lost = rows.losses(over, lost_unplaced, self._writer.sealed, end_ns)
        for part in rows.in_parts([*waiting, *lost]):
            self._write(part)

    def _write(self, part: list[Chunk]) -> None:
        found = rows.convert(part, self._mappings, self._scratch)
        self._list(found.mappings, self._writer.add_mappings)
        self._list(found.modules, self._writer.add_modules)
        self._list(found.processes, self._writer.add_processes)
        known = self._writer.info.get("not_selected", [])
        paths = list(dict.fromkeys([*known, *found.not_selected]))
        if len(paths) > len(known):
            self._writer.update(not_selected=paths)
        with self._lock:
            self._writer.append(found.events, rows.sealed_by(part))

    def _list(self, records: Iterable[_R], add: Callable[[Iterable[_R]], None]) -> None:
        """Add those that are not there."""
        new = [record for record in dict.fromkeys(records) if _identity(record) not in self._listed]
        add(new)
        self._listed.update(map(_identity, new))


def _identity(record: object) -> object:
    """What makes two records the same. What sysfs says of a mapping may have changed when it is found again."""
    return record.map_id if isinstance(record, Mapping) else record
