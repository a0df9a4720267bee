"""Pages of the kernel's buffers, put away as they come and decoded when there is time.

The kernel's buffers overflow if nobody empties them, and decoding takes longer than emptying. So a thread does nothing
but move pages into files of the trace, most of them without a copy (splice); the recorder decodes what it finds there.
If the recorder is killed, the files stay, and :func:`complete` makes the rest of the trace of them.
"""

import fcntl
import os
import shutil
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from mmiotap.formats.ftrace.events import NAMES, Decoder
from mmiotap.formats.ftrace.fields import Formats
from mmiotap.formats.pci import PciDevice
from mmiotap.trace import store
from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.writer import TraceWriter

#: Where in the folder of a running trace they are; the kernel's own descriptions of them are there, too.
FOLDER = "pages"
_BUSY_SECONDS, _IDLE_SECONDS = 0.005, 0.05
#: Bytes of a file, and of those that are decoded together, at most.
_FILE = 16 << 20
#: What is moved in one step, if the system lets a pipe be so large.
_PIPE = 1 << 20
#: fcntl.h
_SPLICE_F_NONBLOCK = 2
#: Of the pages' files, up to which number they are in parts: as a stream of the footers (trace.writer.SEALED_KEY).
_STREAM = 1


@dataclass(frozen=True, slots=True)
class Pages:
    """Some pages of one CPU, in a file, or where there is no room for one: here."""

    number: int
    cpu: int
    data: Path | bytes

    def read(self) -> bytes:
        """Raises DiskError if the file is gone."""
        if isinstance(self.data, bytes):
            return self.data
        with store.writing(self.data):
            return self.data.read_bytes()

    @property
    def size(self) -> int:
        if isinstance(self.data, bytes):
            return len(self.data)
        return self.data.stat().st_size if self.data.exists() else 0


class Spool:
    """Empties these files of the kernel's, one a CPU, which are read without waiting."""

    def __init__(self, files: dict[int, int], page_size: int) -> None:
        self._files = files
        self._page_size = page_size
        self._folder: Path | None = None
        self._waiting: deque[Pages] = deque()
        self._number = 0
        self._trouble: OSError | None = None
        self._lock = threading.Lock()  # for whoever moves
        self._inside, self._outside = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self._step = _set_pipe_size(self._outside, _PIPE)
        except OSError:
            self._step = 1 << 16  # what every pipe has

    def close(self) -> None:
        os.close(self._inside)
        os.close(self._outside)

    @contextmanager
    def moving(self, folder: Path, tracefs: Path) -> Iterator[None]:
        """Meanwhile a thread moves pages into ``folder``. What is left there at the end is what was not decoded.

        Raises DiskError if the folder cannot be made.
        """
        with store.writing(folder):
            folder.mkdir(mode=0o700)
            for file in ("events/header_page", *(f"events/ftrace/{name}/format" for name in NAMES)):
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).write_bytes((tracefs / file).read_bytes())
        self._folder = folder
        over = threading.Event()

        def run() -> None:
            try:
                while not over.wait(_BUSY_SECONDS if self.move() else _IDLE_SECONDS):
                    pass
            except OSError as error:
                self._trouble = error

        thread = threading.Thread(target=run, name="pages", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self._folder = None
            if not list(folder.glob("*.cpu*")):
                shutil.rmtree(folder, ignore_errors=True)

    def move(self) -> bool:
        """Put away what the kernel has. False: there was nothing."""
        with self._lock:
            moved = [self._move(cpu, file) for cpu, file in self._files.items()]
        return any(moved)

    def take(self) -> list[Pages]:
        """Some of what was put away, the oldest. Raises MmiotapError if the kernel lets nobody read any more."""
        if self._trouble and not self._waiting:
            raise MmiotapError(f"the kernel's buffers cannot be read any more: {self._trouble.strerror}")
        taken = []
        size = 0
        while self._waiting and size < _FILE:
            pages = self._waiting.popleft()
            size += pages.size
            taken.append(pages)
        return taken

    def _move(self, cpu: int, file: int) -> bool:
        """Pages of one CPU, a file full of them at most."""
        assert self._folder
        size = self._fill(file)
        if not size:
            return False
        path = self._folder / f"{self._number:012}.cpu{cpu}"
        try:
            out = path.open("x+b", buffering=0)
        except OSError:
            self._put_away(cpu, os.read(self._inside, size))
            return True
        with out:
            rest = self._pour(file, size, out.fileno())
        self._put_away(cpu, path)
        if rest:
            self._put_away(cpu, rest)
        return True

    def _pour(self, file: int, size: int, out: int) -> bytes:
        """What is in our pipe, and what more there is, into a file. What the disk has no room for is returned."""
        written = 0
        try:
            while size:
                moved = os.splice(self._inside, out, size)
                written, size = written + moved, size - moved
                if not size and written < _FILE:
                    size = self._fill(file)
        except OSError:
            whole = written - written % self._page_size
            begun = os.pread(out, written - whole, whole) if written > whole else b""
            os.ftruncate(out, whole)
            return begun + os.read(self._inside, size)
        return b""

    def _fill(self, file: int) -> int:
        """Pages out of the kernel's buffer into our pipe; how many bytes. The kernel splices full pages only."""
        with suppress(OSError):
            if moved := os.splice(file, self._outside, self._step, flags=_SPLICE_F_NONBLOCK):
                return moved
        try:
            return os.write(self._outside, os.read(file, self._page_size))
        except BlockingIOError:
            return 0

    def _put_away(self, cpu: int, data: Path | bytes) -> None:
        self._waiting.append(Pages(self._number, cpu, data))
        self._number += 1


def _set_pipe_size(pipe: int, size: int) -> int:
    """Raises OSError if no pipe of this size may be had."""
    return fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, size)


@dataclass
class Reader:
    """Rows of pages that were put away, in their order.

    :ivar decoder: knows all mappings that were seen.
    """

    decoder: Decoder
    _taken: list[Pages] = field(default_factory=list)

    def read(self, pages: list[Pages], name: str) -> pa.Table:
        """``name`` is what messages call the pages."""
        parts: dict[int, list[bytes]] = {}
        for one in pages:
            parts.setdefault(one.cpu, []).append(one.read())
        self._taken += pages
        return self.decoder.table([(cpu, b"".join(data)) for cpu, data in parts.items()], name)

    @property
    def sealed(self) -> dict[int, int]:
        """What a part with all the rows so far says in its footer."""
        return {_STREAM: self._taken[-1].number + 1} if self._taken else {}

    def written(self) -> None:
        """These rows are in a part, or lost: the pages may go."""
        for one in self._taken:
            if isinstance(one.data, Path):
                one.data.unlink(missing_ok=True)
        self._taken.clear()


def complete(writer: TraceWriter) -> None:
    """Make parts of the pages that a killed recorder has left in a trace.

    Raises MmiotapError if they are damaged, DiskError as the writer does.
    """
    folder = writer.dir.live / FOLDER
    if not folder.exists():
        return
    known = store.read_mappings(writer.dir.path)
    decoder = Decoder(Formats.read(folder, NAMES), [PciDevice.from_json(one) for one in writer.info["pci_devices"]])
    decoder.know(known)
    reader = Reader(decoder)
    for path in sorted(folder.glob("*.cpu*")):
        number, cpu = path.name.split(".cpu")
        if int(number) < writer.sealed.get(_STREAM, 0):
            continue
        data = path.read_bytes()
        # It may have been killed within a page.
        whole = len(data) - len(data) % decoder.formats.page.size
        table = reader.read([Pages(int(number), int(cpu), data[:whole])], str(path))
        writer.add_mappings(one for one in decoder.mappings[len(known) :] if one not in known)
        known = list(decoder.mappings)
        writer.append(table, reader.sealed)
        reader.written()
