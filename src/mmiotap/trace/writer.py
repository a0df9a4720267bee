"""Writing a trace: Parquet parts that appear complete, and what belongs beside them."""

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmiotap.trace import store
from mmiotap.trace.arrays import numbers, values
from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.model import Mapping, Module, Process, Site
from mmiotap.trace.schema import EVENTS, MERGED

#: Footer key of a part: a JSON object, for each stream id the sequence number up to which its rows are in parts.
SEALED_KEY = "mmiotap.sealed"
#: Footer key of a part: how many events its ``lost`` rows count.
LOST_KEY = "mmiotap.lost"

#: How a part is stored, column by column as measured on a recorded e1000 driver: what is smallest there, and of what is
#: about as small the fastest. Only encodings that every reader of Parquet knows (so no BYTE_STREAM_SPLIT of integers).
#: Columns that hardly change are not worth a dictionary: zstd sees to them. Statistics are for the reader, which merges
#: parts by time; nothing else looks at them.
PARQUET: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 3,
    "use_dictionary": ["kind", "width", "offset", "value", "pc", "tid", "flags", "source"],
    "column_encoding": {"time_ns": "DELTA_BINARY_PACKED"},
    "write_statistics": ["time_ns"],
    "store_schema": False,
}


class TraceWriter:
    """Adds to a trace folder. One writer at a time.

    Every method raises DiskError when the disk is full or the folder is gone, and then has added nothing.
    """

    def __init__(self, path: Path, state: str = "finished") -> None:
        """Goes on where the trace in this folder ends; ``state`` is what it is in when :meth:`finish` is done."""
        self._state = state
        self.dir = store.TraceDir(path)
        self.info = store.read_info(path)
        self.sealed: dict[int, int] = {}  #: as the footers say, see SEALED_KEY
        self.events = 0
        self.lost = 0
        self.end_ns = 0  #: time of the last event
        self.schema = MERGED if "sources" in self.info else EVENTS
        self._next_part = 0
        for part in self.dir.parts():
            footer = read_footer(part)
            self._next_part = store.part_number(part) + 1
            self._note(footer.num_rows, lost_in(footer), sealed_in(footer), time_range(footer)[1])

    @classmethod
    def create(cls, path: Path, info: dict[str, Any], *, force: bool = False) -> Self:
        """A new trace; ``info`` becomes its trace.json.

        Until :meth:`finish` the state is "recording": if this process ends before, the trace is incomplete.
        """
        store.create(path, force)
        here = {"recorder_pid": os.getpid(), "recorder_start": store.process_start(os.getpid())}
        store.write_info(path, here | info | {"state": "recording"})
        state = info.get("state", "recording")
        return cls(path, "finished" if state == "recording" else state)

    def append(self, table: pa.Table, sealed: dict[int, int] | None = None) -> None:
        """One part with these events (:attr:`schema`), in the order of their time, and otherwise as they come."""
        if table.schema != self.schema:
            table = table.select(self.schema.names).cast(self.schema)
        times = values(table["time_ns"])
        if np.any(times[1:] < times[:-1]):
            table = table.take(numbers(np.argsort(times, kind="stable")))
        lost = count_lost(table)
        part = self.dir.part(self._next_part)
        with store.new_file(part) as file, pq.ParquetWriter(file, self.schema, **PARQUET) as parquet:
            parquet.write_table(table, row_group_size=max(table.num_rows, 1))
            parquet.add_key_value_metadata({SEALED_KEY: json.dumps(sealed or {}), LOST_KEY: str(lost)})
        self._next_part += 1
        self._note(table.num_rows, lost, sealed or {}, int(times.max(initial=0)))

    def pass_over(self, table: pa.Table, sealed: dict[int, int]) -> None:
        """Count these events as if they were in a part."""
        self._note(table.num_rows, count_lost(table), sealed, int(values(table["time_ns"]).max(initial=0)))

    def add_mappings(self, mappings: Iterable[Mapping]) -> None:
        self._add(self.dir.mappings_file, mappings)

    def add_modules(self, modules: Iterable[Module]) -> None:
        self._add(self.dir.modules_file, modules)

    def add_processes(self, processes: Iterable[Process]) -> None:
        self._add(self.dir.processes_file, processes)

    def add_sites(self, sites: Iterable[Site]) -> None:
        self._add(self.dir.sites_file, sites)

    def update(self, **updates: Any) -> None:
        """Change trace.json."""
        info = self.info | updates
        store.write_info(self.dir.path, info)
        self.info = info

    def finish(self, **updates: Any) -> None:
        """Complete trace.json; ``updates`` win over what is known."""
        known = {"state": self._state, "finished": utc_now(), "events": self.events, "lost": self.lost}
        self.update(**(known | updates))

    def _add(self, path: Path, records: Iterable[Mapping | Module | Process | Site]) -> None:
        lines = [record.to_json() for record in records]
        if lines:
            store.append_lines(path, lines)

    def _note(self, events: int, lost: int, sealed: dict[int, int], end_ns: int) -> None:
        self.events += events
        self.lost += lost
        self.end_ns = max(self.end_ns, end_ns)
        for stream, upto in sealed.items():
            self.sealed[stream] = max(upto, self.sealed.get(stream, 0))


def read_footer(part: Path) -> pq.FileMetaData:
    """Raises MmiotapError if the part is damaged, or none of ours."""
    try:
        footer = pq.read_metadata(part)
    except (OSError, pa.ArrowException) as error:
        raise damaged(part, error) from error
    if SEALED_KEY.encode() not in _metadata(footer):
        raise MmiotapError(f"{part} is no part of a trace; move it elsewhere")
    return footer


def _metadata(footer: pq.FileMetaData) -> dict[bytes, bytes]:
    return footer.metadata or {}


def damaged(part: Path, error: Exception) -> MmiotapError:
    """What to say of a part that cannot be read."""
    why = " ".join(str(error).split())
    return MmiotapError(f"{part} is damaged ({why}); without this file the rest of the trace can be read")


def sealed_in(footer: pq.FileMetaData) -> dict[int, int]:
    """For each stream, up to which sequence number its rows are in parts, as this one says."""
    return {int(stream): upto for stream, upto in json.loads(_metadata(footer)[SEALED_KEY.encode()]).items()}


def lost_in(footer: pq.FileMetaData) -> int:
    """How many events its ``lost`` rows count."""
    return int(_metadata(footer)[LOST_KEY.encode()])


def time_range(footer: pq.FileMetaData) -> tuple[int, int]:
    """Times of the first and the last event of a part; of one without events there is none: 0, 0."""
    column = footer.schema.names.index("time_ns")
    groups = [footer.row_group(index).column(column).statistics for index in range(footer.num_row_groups)]
    ends = [
        int(end) for group in groups if group and group.has_min_max for end in (group.min, group.max) if end is not None
    ]
    return min(ends, default=0), max(ends, default=0)


def count_lost(table: pa.Table) -> int:
    """How many events the ``lost`` rows of a table count."""
    if "lost" not in pc.unique(table["kind"]).to_pylist():
        return 0
    return int(pc.sum(table.filter(pc.field("kind") == "lost")["value"]).as_py() or 0)


def utc_now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
