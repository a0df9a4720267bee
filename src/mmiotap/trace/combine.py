"""Several traces made one: on one clock, with ids of its own, and a column that says where each event is from."""

import itertools
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmiotap.trace import clocks, merge, store
from mmiotap.trace.clocks import Mark, Offset
from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.model import Mapping, Process
from mmiotap.trace.reader import Trace
from mmiotap.trace.schema import MERGED
from mmiotap.trace.writer import TraceWriter

#: Events of a part.
PART_ROWS = 1 << 19

#: Process and thread ids of one machine are below this (PID_MAX_LIMIT, 2^22); those of the next one are set off by it.
PID_STRIDE = 1 << 23

#: Machines whose ids fit into a column.
_MACHINES = 1 << 8


@dataclass(frozen=True)
class Combined:
    """What came of it."""

    events: int
    lost: int
    offsets: dict[str, Offset]  #: of each source, by its name
    map_ids: list[dict[int, int]]  #: of each source: what became of the ids of its mappings


def combine(
    traces: Sequence[Trace],
    path: Path,
    given: dict[Path, int],
    *,
    force: bool = False,
    one_machine: bool = False,
) -> Combined:
    """Make the trace ``path`` of several; its clock is that of the first one.

    ``given`` are offsets in nanoseconds, by the trace's path. Of the others, those of the same boot have the same
    clock, and the rest are placed by their marks. ``one_machine`` says that a pid is the same process in all; otherwise
    that is found out. Memory holds some tables of each trace.

    Raises MmiotapError if nothing tells how far a clock is off, and if the trace cannot be made; there is none then,
    and what ``force`` allows to replace is still there.
    """
    store.check_name(path, force)
    if any(trace.path.resolve() == path.resolve() for trace in traces):
        raise MmiotapError(f"{path} is one of the traces that are merged; choose another name")
    sources = _sources(traces, _offsets(traces, given), one_machine)
    made = path.with_name(f".{path.name}.merging")
    try:
        writer = TraceWriter.create(made, _info(traces, sources), force=True)
        for table in _parts(merge.merge([source.stream() for source in sources])):
            writer.append(table)
        named = {source.pid(one.pid) for source in sources for one in _named(source.trace)}
        for source in sources:
            source.write_rest(writer, named)
        writer.finish(lost=sum(trace.lost for trace in traces))
        store.move(made, path)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return Combined(
        writer.events,
        writer.info["lost"],
        {source.name: source.offset for source in sources},
        [source.map_ids for source in sources],
    )


def _offsets(traces: Sequence[Trace], given: dict[Path, int]) -> list[Offset]:
    """Of each trace; one without another hint is placed by the marks it has in common with one that has its place."""
    found = {number: Offset(given[one.path], "given") for number, one in enumerate(traces) if one.path in given}
    found.setdefault(0, Offset(0, "boot"))
    marks: dict[int, list[Mark]] = {}

    def by_marks(number: int) -> Offset | None:
        for one in (number, *found):
            if one not in marks:
                marks[one] = clocks.marks_of(traces[one])
        told = [
            replace(offset, ns=offset.ns + place.ns)
            for one, place in found.items()
            if (offset := clocks.by_marks(marks[one], marks[number]))
        ]
        return max(told, key=lambda offset: (offset.marks, -offset.spread_ns), default=None)

    while left := [number for number in range(len(traces)) if number not in found]:
        for number in left:
            same = (place for one, place in found.items() if clocks.same_boot(traces[one].info, traces[number].info))
            offset = next((replace(place, how="boot") for place in same), None) or by_marks(number)
            if offset is not None:
                found[number] = offset
                break
        else:
            names = ", ".join(str(traces[number].path) for number in left)
            raise MmiotapError(
                f"nothing tells how far the clock of {names} is from that of the others: they are not known to be of "
                "one boot, and no mark is in both; say it with --offset, or set marks with the same text"
            )
    return [found[number] for number in range(len(traces))]


@dataclass
class _Source:
    """A trace, and what becomes of its ids."""

    trace: Trace
    name: str
    offset: Offset
    pid_base: int  #: added to ids of processes and threads that are known
    next_map_id: "itertools.count[int]"  #: shared by all sources: the next id that is free
    map_ids: dict[int, int] = field(default_factory=dict)

    def stream(self) -> merge.Source:
        """Its events, as they will be."""
        tables = (self._translated(table) for table in self.trace.batches())
        first = next(tables, None)
        if first is None:
            return merge.Source(0, iter(()))
        return merge.Source(int(first["time_ns"][0].as_py()), itertools.chain([first], tables))

    def write_rest(self, writer: TraceWriter, named: set[int]) -> None:
        """What it knows beside its events. Of processes in ``named`` one trace at least knows the program."""
        trace = self.trace
        known = [one for one in trace.processes if one.executable or self.pid(one.pid) not in named]
        writer.add_mappings(self._mapping(mapping) for mapping in trace.mappings)
        writer.add_modules(replace(one, pid=self.pid(one.pid)) for one in trace.modules)
        writer.add_processes(replace(one, pid=self.pid(one.pid), ppid=self.pid(one.ppid)) for one in known)
        writer.add_sites(
            replace(one, pid=self.pid(one.pid), time_ns=one.time_ns + self.offset.ns) for one in trace.site_changes
        )

    def _translated(self, table: pa.Table) -> pa.Table:
        columns = {name: table[name] for name in table.schema.names}
        columns["time_ns"] = pa.chunked_array([table["time_ns"].to_numpy() + self.offset.ns])
        for name in ("pid", "tid"):
            ids = table[name].to_numpy()
            columns[name] = pa.chunked_array([np.where(ids > 0, ids + np.int32(self.pid_base), ids)])
        columns["map_id"] = pa.chunked_array([self._new_map_ids(table["map_id"].to_numpy())])
        columns["text"] = self._texts(table)
        columns["source"] = self._source_column(table)
        return pa.table([columns[name] for name in MERGED.names], schema=MERGED)

    def _source_column(self, table: pa.Table) -> Any:
        if "source" in table.schema.names:
            names = [f"{self.name}/{name}" for name in table["source"].to_pylist()]
            return pa.chunked_array([pa.array(names).dictionary_encode().cast(MERGED.field("source").type)])
        one: Any = pa.DictionaryArray.from_arrays(np.zeros(table.num_rows, np.int16), [self.name])
        return pa.chunked_array([one])

    def _new_map_ids(self, map_ids: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        distinct, index = np.unique(map_ids, return_inverse=True)
        return np.array([self._map_id(one) for one in distinct.tolist()], np.int32)[index]

    def _map_id(self, map_id: int) -> int:
        """A number of its own for each id; those that are none (0, −1) stay."""
        if map_id <= 0:
            return map_id
        if map_id not in self.map_ids:
            self.map_ids[map_id] = next(self.next_map_id)
        return self.map_ids[map_id]

    def pid(self, pid: int) -> int:
        return pid + self.pid_base if pid > 0 else pid

    def _mapping(self, mapping: Mapping) -> Mapping:
        time_ns = mapping.time_ns + self.offset.ns if mapping.time_ns else 0
        return replace(mapping, map_id=self._map_id(mapping.map_id), pid=self.pid(mapping.pid), time_ns=time_ns)

    def _texts(self, table: pa.Table) -> Any:
        """Mappings that are told of in events change as the others do."""
        texts = table["text"]
        if texts.null_count == len(texts):
            return texts
        kinds = table["kind"].to_pylist()
        return pa.array(
            [
                self._mapping_text(text) if text and kind in ("map", "unmap") else text
                for kind, text in zip(kinds, texts.to_pylist(), strict=True)
            ],
            pa.string(),
        )

    def _mapping_text(self, text: str) -> str:
        try:
            mapping = Mapping.from_json(json.loads(text))
        except (ValueError, TypeError):
            return text
        return json.dumps(self._mapping(mapping).to_json())


def _sources(traces: Sequence[Trace], offsets: Sequence[Offset], one_machine: bool) -> list[_Source]:
    machines: list[list[Trace]] = []
    names: set[str] = set()
    map_ids = itertools.count(1)
    sources = []
    for trace, offset in zip(traces, offsets, strict=True):
        same = (number for number, others in enumerate(machines) if one_machine or _one_machine(others, trace))
        machine = next(same, len(machines))
        if machine == len(machines):
            machines.append([])
        machines[machine].append(trace)
        name = next(name for name in _names(trace.path) if name not in names)
        names.add(name)
        sources.append(_Source(trace, name, offset, machine * PID_STRIDE, map_ids))
    if len(machines) > _MACHINES:
        raise MmiotapError(f"traces of {len(machines)} machines: at most {_MACHINES} can be merged")
    for source in sources:  # in the order of the sources, whichever event comes first
        for mapping in source.trace.mappings:
            source._map_id(mapping.map_id)
    return sources


def _one_machine(others: Sequence[Trace], trace: Trace) -> bool:
    """Whether the same id is the same process in all of them, as far as they know."""
    if not clocks.same_boot(others[0].info, trace.info):
        return False
    programs = {one.pid: _program(one.executable) for other in others for one in _named(other)}
    return all(programs.get(one.pid, _program(one.executable)) == _program(one.executable) for one in _named(trace))


def _named(trace: Trace) -> list[Process]:
    """The kernel does not know the program of a task that has ended."""
    return [one for one in trace.processes if one.executable]


def _program(executable: str) -> str:
    """As the kernel calls its task: 15 characters, without folders (TASK_COMM_LEN, include/linux/sched.h)."""
    return executable.rpartition("/")[2][:15]


def _names(path: Path) -> Iterator[str]:
    """What a source may be called: as its folder, or that with a number."""
    name = path.resolve().name.removesuffix(".mmiotap")
    return itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))


def _parts(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    rows = 0
    for table in tables:
        waiting.append(table)
        rows += table.num_rows
        if rows >= PART_ROWS:
            yield pa.concat_tables(waiting).unify_dictionaries()
            waiting, rows = [], 0
    if waiting:
        yield pa.concat_tables(waiting).unify_dictionaries()


def _info(traces: Sequence[Trace], sources: Sequence[_Source]) -> dict[str, Any]:
    """trace.json of the merged trace, whose clock is the first one's."""
    first = traces[0].info
    starts = [
        start + source.offset.ns
        for source in sources
        if isinstance(start := source.trace.info.get("start_mono_ns"), int) and start > 0
    ]
    return {
        "format": store.FORMAT,
        "state": "recording",
        "source": "merge",
        "host": first.get("host"),
        "kernel": first.get("kernel"),
        "boot_id": first.get("boot_id"),
        "started": first.get("started"),
        "start_mono_ns": min(starts, default=0),
        "not_selected": list(dict.fromkeys(path for one in traces for path in one.info.get("not_selected", []))),
        "pci_devices": _distinct(device for one in traces for device in one.info.get("pci_devices", [])),
        "sources": [line for source in sources for line in _lines(source)],
    }


def _distinct(devices: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({json.dumps(device, sort_keys=True): device for device in devices}.values())


def _lines(source: _Source) -> list[dict[str, Any]]:
    """What trace.json says of a source; of a merged one, of each of its own."""
    trace, offset = source.trace, source.offset
    facts = {name: trace.info.get(name) for name in ("source", "command", "host", "kernel", "started")}
    own = {
        "name": source.name,
        "path": str(trace.path),
        **facts,
        "state": trace.state,
        "events": trace.count,
        "lost": trace.lost,
        "offset_ns": offset.ns,
        "offset_from": offset.how,
        "marks": offset.marks,
        "spread_ns": offset.spread_ns,
        "pid_base": source.pid_base,
    }
    inner = trace.info.get("sources")
    if inner is None:
        return [own]
    return [
        one
        | {
            "name": f"{source.name}/{one['name']}",
            "offset_ns": one["offset_ns"] + offset.ns,
            "pid_base": one["pid_base"] + source.pid_base,
        }
        for one in inner
    ]
