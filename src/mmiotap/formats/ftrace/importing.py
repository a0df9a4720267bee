"""Pages of ftrace's ring buffer, wherever they are from, as a trace; and a folder of them, copied from tracefs."""

import heapq
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from mmiotap.formats.ftrace import paired
from mmiotap.formats.ftrace.events import NAMES, Decoder
from mmiotap.formats.ftrace.fields import Formats
from mmiotap.formats.importing import Ending, Rows, Writer
from mmiotap.formats.paired import Pairs, Told
from mmiotap.trace.errors import MmiotapError

#: Pages that become rows together, and those of one CPU while all are read side by side.
_PAGES = 1024
_PAGES_SIDE_BY_SIDE = 4


@dataclass(frozen=True)
class Cpu:
    """The pages of one CPU. ``read(offset, size)`` gives bytes of them, fewer only at their end."""

    number: int
    name: str
    read: Callable[[int, int], bytes]


def load(name: str, formats: Callable[[], Formats], cpus: list[Cpu], writer: Writer) -> Ending:
    """All pages of all CPUs; a last page that is cut short is left out, and told of.

    They are read twice: a mapping may be made on one CPU and used on another, so all are known before the first access.
    """
    try:
        known = formats()
        pairs = paired.Reader(known)
        decoder = Decoder(known, needed=() if pairs else NAMES)
    except MmiotapError as error:
        raise MmiotapError(f"{name}: {error}") from error
    page = known.page.size
    for cpu in cpus:
        for place, data in _chunks(cpu, page):
            decoder.table([(cpu.number, data)], place)
    mappings = list(decoder.mappings)
    cut = None
    for cpu in cpus:
        end = 0
        for place, data in _chunks(cpu, page):
            table = decoder.table([(cpu.number, data)], place)
            if table.num_rows:
                writer.append(table)
            end += len(data)
        if rest := cpu.read(end, page):
            cut = f"{len(rest)} bytes of CPU {cpu.number}, from byte {end}"
    writer.add_mappings(mappings)
    if pairs:
        _load_pairs(
            pairs, cpus, page, Pairs(Rows(writer), first_map=max((one.map_id for one in mappings), default=0) + 1)
        )
    return Ending(0, cut, "the last page")


def _load_pairs(reader: paired.Reader, cpus: list[Cpu], page: int, pairs: Pairs) -> None:
    """The first of two events may be on one CPU and the second on another: all CPUs are read side by side."""

    def told(cpu: Cpu) -> Iterator[Told]:
        for place, data in _chunks(cpu, page, _PAGES_SIDE_BY_SIDE):
            yield from reader.told(cpu.number, data, place)

    for one in heapq.merge(*map(told, cpus), key=attrgetter("time_ns")):
        pairs.take(one)
    pairs.end()


def _chunks(cpu: Cpu, page: int, pages: int = _PAGES) -> Iterator[tuple[str, bytes]]:
    """Whole pages, so many at a time, and what messages call them."""
    offset = 0
    while data := cpu.read(offset, page * pages):
        whole = data[: len(data) // page * page]
        if whole:
            yield f"{cpu.name}, CPU {cpu.number} from byte {offset}", whole
        if len(whole) < page * pages:
            return
        offset += len(whole)


def load_folder(folder: Path, writer: Writer) -> Ending:
    """A folder with files of tracefs: events/header_page, events/*/*/format and per_cpu/cpu*/trace_pipe_raw.

    Raises MmiotapError if one of them is not there.
    """
    files = sorted(folder.glob("per_cpu/cpu*/trace_pipe_raw"))
    if not (folder / "events" / "header_page").is_file() or not files:
        raise MmiotapError(
            f"{folder} is no copy of tracefs: it has to have events/header_page, events/*/*/format and "
            "per_cpu/cpu*/trace_pipe_raw"
        )
    numbers = [re.fullmatch(r"cpu(\d{1,4})", file.parent.name) for file in files]
    return load(
        str(folder),
        lambda: Formats.read(folder, NAMES, paired.SYSTEMS),
        [Cpu(int(number[1]), str(file), _reader(file)) for number, file in zip(numbers, files, strict=True) if number],
        writer,
    )


def _reader(file: Path) -> Callable[[int, int], bytes]:
    def read(offset: int, size: int) -> bytes:
        with file.open("rb") as opened:
            opened.seek(offset)
            return opened.read(size)

    return read
