"""Pages of ftrace's ring buffer, wherever they are from, as a trace; and a folder of them, copied from tracefs."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mmiotap.formats.ftrace.events import NAMES, Decoder
from mmiotap.formats.ftrace.fields import Formats
from mmiotap.formats.importing import Ending, Writer
from mmiotap.trace.errors import MmiotapError

#: Pages that become rows together.
_PAGES = 1024


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
        decoder = Decoder(formats())
    except MmiotapError as error:
        raise MmiotapError(f"{name}: {error}") from error
    page = decoder.formats.page.size
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
    return Ending(0, cut, "the last page")


def _chunks(cpu: Cpu, page: int) -> Iterator[tuple[str, bytes]]:
    """Whole pages, and what messages call them."""
    offset = 0
    while data := cpu.read(offset, page * _PAGES):
        whole = data[: len(data) // page * page]
        if whole:
            yield f"{cpu.name}, CPU {cpu.number} from byte {offset}", whole
        if len(whole) < page * _PAGES:
            return
        offset += len(whole)


def load_folder(folder: Path, writer: Writer) -> Ending:
    """A folder with files of tracefs: events/header_page, events/ftrace/*/format and per_cpu/cpu*/trace_pipe_raw.

    Raises MmiotapError if one of them is not there.
    """
    files = sorted(folder.glob("per_cpu/cpu*/trace_pipe_raw"))
    if not (folder / "events" / "header_page").is_file() or not files:
        raise MmiotapError(
            f"{folder} is no copy of tracefs: it has to have events/header_page, events/ftrace/*/format and "
            "per_cpu/cpu*/trace_pipe_raw"
        )
    numbers = [re.fullmatch(r"cpu(\d{1,4})", file.parent.name) for file in files]
    return load(
        str(folder),
        lambda: Formats.read(folder, NAMES),
        [Cpu(int(number[1]), str(file), _reader(file)) for number, file in zip(numbers, files, strict=True) if number],
        writer,
    )


def _reader(file: Path) -> Callable[[int, int], bytes]:
    def read(offset: int, size: int) -> bytes:
        with file.open("rb") as opened:
            opened.seek(offset)
            return opened.read(size)

    return read
