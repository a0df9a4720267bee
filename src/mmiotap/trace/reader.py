"""Reading a trace: finished, running, left by a crash, recovered or imported, all the same way."""

import copy
import errno
import functools
import itertools
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as fs
import pyarrow.parquet as pq

from mmiotap.trace import rows, store
from mmiotap.trace.arena import Arena, Chunk
from mmiotap.trace.errors import DiskError, MmiotapError
from mmiotap.trace.merge import Source, merge
from mmiotap.trace.model import Mapping, Module, Process, Site
from mmiotap.trace.schema import EVENTS, MERGED
from mmiotap.trace.writer import damaged, lost_in, read_footer, sealed_in, time_range

#: Rows that are in memory at once, of each part that is being merged.
BATCH_ROWS = 1 << 16

_DICTIONARIES = ["kind", "source"]
_PARQUET = ds.ParquetFileFormat(read_options=ds.ParquetReadOptions(dictionary_columns=_DICTIONARIES))


def open_trace(path: str | os.PathLike[str]) -> "Trace":
    """The trace in this folder, as it is now; open it again to see more of one that is being recorded.

    Raises MmiotapError if it is none, or damaged.
    """
    return Trace(Path(path))


class Narrowing(Protocol):
    """Some of the events of a trace: those that ``where`` selects, and of these what ``keep`` does."""

    where: pc.Expression | None
    columns: tuple[str, ...]  #: that ``keep`` needs

    def keep(self, table: pa.Table) -> pa.Table: ...

    def parts(self, paths: Sequence[Path]) -> Sequence[Path]:
        """Those parts that can have such events."""
        ...


class Trace:
    """A trace: its events, and what belongs beside them. Made by :func:`open_trace`.

    Every method raises MmiotapError for a damaged file, naming it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.narrowing: Narrowing | None = None
        info, self._state = store.current(path)
        # First the arena, then the parts: what is sealed between the two is in both, and the footers tell.
        waiting: list[Chunk] = []
        lost_unplaced = 0
        if self._state in ("recording", "incomplete"):
            waiting, lost_unplaced = _copy_arena(store.TraceDir(path))
        self._parts = [_Part.read(part) for part in store.TraceDir(path).parts()]
        sealed: dict[int, int] = {}
        for part in self._parts:
            for stream, upto in part.sealed.items():
                sealed[stream] = max(upto, sealed.get(stream, 0))
        published = rows.unsealed(waiting, sealed)
        end_ns = max([rows.latest_ns(published), *(part.last_ns for part in self._parts)])
        published += rows.losses(waiting, lost_unplaced, sealed, end_ns)
        self._mappings = {mapping.map_id: mapping for mapping in store.read_mappings(path)}
        self._live = rows.convert(published, self._mappings, rows.Scratch())
        paths = dict.fromkeys([*info.get("not_selected", []), *self._live.not_selected])
        self._info = info | {"not_selected": list(paths)}
        self._lost = rows.count(published)[1] + sum(part.lost for part in self._parts)

    @property
    def info(self) -> dict[str, Any]:
        """trace.json (docs/trace-format.md)."""
        return self._info

    @property
    def schema(self) -> pa.Schema:
        """Columns of the events: those of docs/architecture.md, and ``source`` if the trace was merged."""
        return MERGED if "sources" in self._info else EVENTS

    @property
    def sources(self) -> list[str]:
        """Names of what a merged trace was made of; none for other traces."""
        return [source["name"] for source in self._info.get("sources", [])]

    @property
    def state(self) -> str:
        """finished, recording, incomplete (its recorder died), recovered or imported."""
        return self._state

    @property
    def count(self) -> int:
        """Number of events."""
        return self._live.events.num_rows + sum(part.events for part in self._parts)

    @property
    def lost(self) -> int:
        """Number of events that happened and are not in the trace."""
        told = self._info.get("lost") if self._state in ("finished", "recovered") else None
        return told if isinstance(told, int) else self._lost

    @property
    def parts(self) -> list[Path]:
        """The Parquet files that hold events."""
        return [part.path for part in self._parts]

    @property
    def live(self) -> pa.Table:
        """The events that are in none of them: those of a recording that runs or has crashed."""
        return self._live.events

    @property
    def mappings(self) -> list[Mapping]:
        return list(self._mappings.values())

    @functools.cached_property
    def modules(self) -> list[Module]:
        return list(dict.fromkeys([*store.read_modules(self.path), *self._live.modules]))

    @functools.cached_property
    def processes(self) -> list[Process]:
        return list(dict.fromkeys([*store.read_processes(self.path), *self._live.processes]))

    @functools.cached_property
    def site_changes(self) -> list[Site]:
        """Every site when it was first seen and each time its state changed, in time order."""
        found = dict.fromkeys([*store.read_sites(self.path), *self._live.sites])
        return sorted(found, key=lambda site: site.time_ns)

    @property
    def sites(self) -> list[Site]:
        """Every site, one for each process and address, in its last state."""
        return list({(site.pid, site.pc): site for site in self.site_changes}.values())

    def only(self, narrowing: "Narrowing | None") -> "Trace":
        """The same trace, with those events only that are chosen, or (None) with all; :attr:`count` counts all."""
        chosen = copy.copy(self)
        chosen.narrowing = narrowing
        return chosen

    def events(self, columns: Sequence[str] | None = None, where: pc.Expression | None = None) -> pa.Table:
        """All events in time order, with the columns of docs/architecture.md or some of them.

        ``where`` selects rows, for example ``pc.field("kind") == "write"``; it may use any column.
        """
        names = self._checked(columns)
        return pa.concat_tables([self.schema.empty_table().select(names), *self.batches(names, where)])

    def batches(self, columns: Sequence[str] | None = None, where: pc.Expression | None = None) -> Iterator[pa.Table]:
        """The same rows as :meth:`events`, a table of some at a time: for traces that are larger than the memory."""
        names = self._checked(columns)
        return (self._kept(table, names) for table in merge(self._sources(names, where)))

    def streams(self, columns: Sequence[str], rows: int) -> list[Iterator[pa.Table]]:
        """The rows of :meth:`batches`, not merged: for each part an iterator of tables of so many at most, and the last
        one for what is in none of them.

        In each they are in time order; at the same time, those of an earlier iterator come first. Several threads may
        read at once, each its own.
        """
        names = self._checked(columns)
        sources = self._sources(names, None, rows, threads=False)
        return [(self._kept(table, names) for table in source.tables) for source in sources]

    def pieces(self, columns: Sequence[str], known: Collection[Path]) -> Iterator[tuple[Path | None, pa.Table]]:
        """Tables of the parts that are not known, each with its part, and then of what is in none of them.

        For those who open a trace again and again while it is recorded: a part does not change any more.
        """
        names = self._checked(columns)
        read, narrowing = self._read_schema(names), self.narrowing
        where = narrowing.where if narrowing else None
        fresh = [part for part in _in_time(self._chosen_parts(), self.schema, where) if part.path not in known]
        tables = ((part.path, table) for part in fresh for table in part.tables(read, where))
        for path, table in itertools.chain(tables, ((None, table) for table in self._live_tables(read.names, where))):
            yield path, self._kept(table, names)

    def _sources(
        self, names: Sequence[str], where: pc.Expression | None, rows: int = BATCH_ROWS, *, threads: bool = True
    ) -> list[Source]:
        read = self._read_schema(names)
        if self.narrowing and self.narrowing.where is not None:
            where = self.narrowing.where if where is None else where & self.narrowing.where
        sources = [
            Source(part.first_ns, part.tables(read, where, rows, threads=threads)) for part in self._chosen_parts()
        ]
        if self._live.events.num_rows:
            sources.append(Source(int(self._live.events["time_ns"][0].as_py()), self._live_tables(read.names, where)))
        return sources

    def _kept(self, table: pa.Table, names: Sequence[str]) -> pa.Table:
        return (self.narrowing.keep(table) if self.narrowing else table).select(names)

    def _read_schema(self, names: Sequence[str]) -> pa.Schema:
        """The columns that must be read for those that are asked for."""
        needed = {"time_ns", *names, *(self.narrowing.columns if self.narrowing else ())}
        return pa.schema([field for field in self.schema if field.name in needed])

    def _chosen_parts(self) -> "list[_Part]":
        chosen = self.narrowing.parts(self.parts) if self.narrowing else self.parts
        return [part for part in self._parts if part.events and part.path in chosen]

    def _checked(self, columns: Sequence[str] | None) -> list[str]:
        """The columns that are asked for."""
        for name in columns or ():
            if name not in self.schema.names:
                raise MmiotapError(f"events have no column {name!r}; there are {', '.join(self.schema.names)}")
        return self.schema.names if columns is None else list(columns)

    def _live_tables(self, columns: list[str], where: pc.Expression | None) -> Iterator[pa.Table]:
        events = self._live.events if where is None else self._live.events.filter(where)
        for first in range(0, events.num_rows, BATCH_ROWS):
            yield events.select(columns).slice(first, BATCH_ROWS)


@dataclass(frozen=True)
class _Part:
    path: Path
    events: int
    lost: int
    sealed: dict[int, int]
    first_ns: int
    last_ns: int

    @classmethod
    def read(cls, path: Path) -> "_Part":
        footer = read_footer(path)
        return cls(path, footer.num_rows, lost_in(footer), sealed_in(footer), *time_range(footer))

    def tables(
        self, schema: pa.Schema, where: pc.Expression | None, rows: int = BATCH_ROWS, *, threads: bool = True
    ) -> Iterator[pa.Table]:
        """Some columns of the rows that ``where`` selects, in tables of so many at most; by many threads or one."""
        try:
            for batch in self._batches(schema.names, where, rows, threads):
                if batch.num_rows:
                    yield pa.Table.from_batches([batch]).cast(schema)
        except (OSError, pa.ArrowInvalid) as error:
            raise damaged(self.path, error) from error

    def _batches(
        self, columns: list[str], where: pc.Expression | None, rows: int, threads: bool
    ) -> Iterator[pa.RecordBatch]:
        if where is None and not threads:
            file = pq.ParquetFile(self.path, read_dictionary=[name for name in _DICTIONARIES if name in columns])
            return file.iter_batches(rows, columns=columns, use_threads=False)
        fragment = _PARQUET.make_fragment(str(self.path), fs.LocalFileSystem())
        return fragment.to_batches(
            columns=columns, filter=where, batch_size=rows, batch_readahead=1, use_threads=threads
        )


def _in_time(parts: "list[_Part]", schema: pa.Schema, where: pc.Expression | None) -> "list[_Part]":
    """Those parts that can have such events, as far as their first and last times tell."""
    if where is None or not parts:
        return parts
    files = fs.LocalFileSystem()
    time = pc.field("time_ns")
    fragments = [
        _PARQUET.make_fragment(str(part.path), files, (time >= part.first_ns) & (time <= part.last_ns))
        for part in parts
    ]
    found = ds.FileSystemDataset(fragments, schema, _PARQUET, files).get_fragments(where)
    paths = {fragment.path for fragment in found}
    return [part for part in parts if str(part.path) in paths]


def _copy_arena(folder: store.TraceDir) -> tuple[list[Chunk], int]:
    """The rows in the arena, and how many events are lost without a place. An arena that is gone has none."""
    try:
        arena = Arena.open(folder.arena)
    except DiskError as error:
        if error.errno == errno.ENOENT:
            return [], 0
        raise MmiotapError(f"{folder.arena}: {error.strerror}") from error
    return arena.snapshot(), arena.lost_unplaced
