"""What all importers share: lines and bytes out of a log, rows into a trace, and the trace itself, whole or not at all.

An importer is a function ``(log, writer) -> Ending``. It holds a bounded part of the log in memory, whatever the log
is, and raises :class:`MmiotapError`, naming a line or a byte offset, for what it cannot read.
"""

import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from mmiotap.formats.compressed import Log
from mmiotap.trace import layout, store
from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.model import Mapping
from mmiotap.trace.schema import EVENTS, KIND_TYPE, KINDS
from mmiotap.trace.writer import TraceWriter

#: Bytes of a log that are read at a time: what is made of them stays in the processor's caches.
BLOCK = 1 << 20
#: A longer line is none of any log: it would have to be held in memory.
LONGEST_LINE = 1 << 20
#: Flags of an access whose value the source does not tell.
NOT_SAID = layout.VALUE_UNKNOWN | layout.REASON_NOT_IN_SOURCE << layout.REASON_SHIFT

_ROWS = 1 << 17
_SAYS_SOMETHING = re.compile(rb"^[^#\r\n]", re.MULTILINE)
_CODE = {kind: code for code, kind in enumerate(KINDS)}
_WORDS = list(KINDS.values())


@dataclass(frozen=True)
class Ending:
    """What an importer says at its end.

    :ivar lines: lines read; 0 for what has none.
    :ivar cut: a last line or record that was cut short, and is not in the trace.
    :ivar place: what that is: `line 7: the last line`, `byte 4096: the last record`.
    :ivar notes: what else is to be said, a sentence each.
    :ivar info: what it adds to trace.json.
    """

    lines: int = 0
    cut: str | None = None
    place: str = ""
    notes: tuple[str, ...] = ()
    info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Imported:
    """What came of an import. ``cut`` and what follows it as in :class:`Ending`."""

    events: int
    lost: int
    lines: int
    cut: str | None
    place: str = ""
    notes: tuple[str, ...] = ()
    info: dict[str, Any] = field(default_factory=dict)


class Writer(Protocol):
    """What an importer needs of a :class:`mmiotap.trace.writer.TraceWriter`. Its folder may hold temporary files."""

    @property
    def dir(self) -> store.TraceDir: ...

    def append(self, table: pa.Table) -> None: ...

    def add_mappings(self, mappings: Iterable[Mapping]) -> None: ...


Importer = Callable[[Log, Writer], Ending]


def make_trace(
    name: str, path: Path, source: str, load: Callable[[Writer], Ending], *, force: bool = False
) -> Imported:
    """Make the trace ``path`` of what ``load`` reads from ``name``.

    Raises MmiotapError if the log is damaged or the trace cannot be made; there is no trace then, and what ``force``
    allows to replace is still there.
    """
    store.check_name(path, force)
    made = path.with_name(f".{path.name}.importing")
    info = {"format": 1, "state": "imported", "source": source, "log": name, "started": None, "finished": None}
    try:
        writer = TraceWriter.create(made, info, force=True)
        ending = load(writer)
        writer.finish(finished=None, **ending.info)
        store.move(made, path)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return Imported(writer.events, writer.lost, **vars(ending))


def blocks(log: Log) -> Iterator[bytes]:
    """The log's text in blocks of whole lines; the last one may lack its end."""
    rest = b""
    number = 1
    while data := log.read(BLOCK):
        whole, newline, tail = data.rpartition(b"\n")
        if newline:
            number += whole.count(b"\n") + 1
            yield rest + whole + newline
            rest = tail
        else:
            rest += tail
        if len(rest) > LONGEST_LINE:
            # Of the last line alone: those before it were handed on, and are judged first.
            raise MmiotapError(f"{log.name}, line {number}: it has no end within {LONGEST_LINE >> 20} MiB")
    if rest:
        yield rest


class Lines:
    """Those lines of a log in which a pattern is found; the others cost next to nothing, however many they are.

    :ivar count: lines read so far, the others included.
    :ivar passed_over: how many of the others say something, and are no comments (#).
    """

    def __init__(self, log: Log, wanted: re.Pattern[bytes]) -> None:
        self._log = log
        self._wanted = wanted
        self.count = 0
        self.passed_over = 0

    def __iter__(self) -> Iterator[tuple[int, bytes, bool]]:
        """Number, text without its end, and whether it has an end."""
        for block in blocks(self._log):
            at = 0
            while found := self._wanted.search(block, at):
                begin = max(at, block.rfind(b"\n", at, found.start()) + 1)
                end = block.find(b"\n", found.start())
                whole = end >= 0
                end = end if whole else len(block)
                self._pass(block, at, begin)
                self.count += 1
                yield self.count, block[begin:end].removesuffix(b"\r"), whole
                at = end + 1
            self._pass(block, at, len(block))

    def _pass(self, block: bytes, begin: int, end: int) -> None:
        if begin < end:
            self.count += block.count(b"\n", begin, end) + (block[end - 1 : end] != b"\n")
            self.passed_over += len(_SAYS_SOMETHING.findall(block, begin, end))


class Tables:
    """Tables on their way into a trace, as parts that are large enough. Call flush at the end."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._waiting: list[pa.Table] = []
        self._rows = 0

    def add(self, table: pa.Table) -> None:
        if table.num_rows:
            self._waiting.append(table)
            self._rows += table.num_rows
            if self._rows >= _ROWS:
                self.flush()

    def flush(self) -> None:
        if self._waiting:
            self._writer.append(pa.concat_tables(self._waiting))
            self._waiting.clear()
            self._rows = 0


class Rows:
    """Rows on their way into a trace: one at a time in, parts out."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._columns: dict[str, list[Any]] = {name: [] for name in EVENTS.names}
        self._mappings: list[Mapping] = []
        self._waiting = 0
        self.any = False

    def add(
        self,
        kind: int,
        time_ns: int,
        *,
        width: int = 0,
        map_id: int = 0,
        offset: int = 0,
        value: int = 0,
        data: bytes | None = None,
        pc: int = 0,
        pid: int = 0,
        tid: int = 0,
        cpu: int = -1,
        flags: int = 0,
        duration_ns: int | None = None,
        text: str | None = None,
    ) -> None:
        """``kind`` as in :mod:`mmiotap.trace.layout`; ``value`` is masked to ``width`` (at most 65,535)."""
        columns = self._columns
        columns["time_ns"].append(time_ns)
        columns["duration_ns"].append(duration_ns)
        columns["kind"].append(_CODE[kind])
        columns["width"].append(width)
        columns["map_id"].append(map_id)
        columns["offset"].append(offset)
        columns["value"].append(value & ((1 << 8 * width) - 1) if 0 < width < 8 else value)
        columns["data"].append(data)
        columns["pc"].append(pc)
        columns["pid"].append(pid)
        columns["tid"].append(tid)
        columns["cpu"].append(cpu)
        columns["flags"].append(flags)
        columns["text"].append(text)
        self.any = True
        self._waiting += 1 + (len(data or b"") + len(text or "") >> 8)
        if self._waiting >= _ROWS:
            self.flush()

    def add_mapping(self, mapping: Mapping) -> None:
        """A mapping, without an event."""
        self._mappings.append(mapping)
        self._waiting += 1
        if self._waiting >= _ROWS:
            self.flush()

    def flush(self) -> None:
        """Hand on what waits. Call it at the end."""
        self._waiting = 0
        if self._mappings:
            self._writer.add_mappings(self._mappings)
            self._mappings.clear()
        if not self._columns["kind"]:
            return
        arrays = [
            pa.DictionaryArray.from_arrays(pa.array(self._columns[column.name], pa.int8()), _WORDS).cast(KIND_TYPE)
            if column.name == "kind"
            else pa.array(self._columns[column.name], column.type)
            for column in EVENTS
        ]
        self._writer.append(pa.table(arrays, schema=EVENTS))
        for column in self._columns.values():
            column.clear()
