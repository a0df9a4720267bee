"""What the kernel has to tell: its buffers, page by page, and where those cannot be had its text, which says less."""

import os
import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from mmiotap.formats import mmiotrace
from mmiotap.formats.ftrace.events import NAMES, Decoder
from mmiotap.formats.ftrace.fields import Formats
from mmiotap.formats.pci import PciDevice
from mmiotap.sources.kernel.spool import FOLDER, Reader, Spool
from mmiotap.sources.kernel.tracefs import Tracefs
from mmiotap.trace.model import Mapping

_AT_A_TIME = 16 << 20
_TEXT_AT_A_TIME = 1 << 16
#: The sum of losses that stand in their places, too.
_SUM_OF_LOSSES = re.compile(rb"^MARK 0\.000000 Lost \d+ events\.\n", re.MULTILINE)


class Pipe(Protocol):
    """Open files of the kernel's. While they are, the tracer cannot be changed."""

    @property
    def mappings(self) -> list[Mapping]:
        """All that were seen."""

    def emptying(self, folder: Path) -> AbstractContextManager[None]:
        """Meanwhile the kernel's buffers are emptied, if that does not need to wait for :meth:`read`.

        ``folder`` is that of a running trace.
        """

    def empty(self) -> None:
        """Have all out of the kernel's buffers that is in there."""

    def read(self) -> pa.Table | None:
        """What there is; None if all has been read."""

    @property
    def sealed(self) -> dict[int, int]:
        """What the footer says of a part that has all that was read."""

    def written(self) -> None:
        """All that was read is in parts."""

    def close(self) -> None: ...


class Pages:
    """``per_cpu/cpuN/trace_pipe_raw``.

    Raises MmiotapError if they are not as we know them, OSError if the kernel does not give them away.
    """

    def __init__(self, tracefs: Tracefs, devices: list[PciDevice]) -> None:
        self._tracefs = tracefs
        self._reader = Reader(Decoder(Formats.read(tracefs.path, NAMES), devices))
        self._files: dict[int, int] = {}
        try:
            for cpu in tracefs.cpus():
                self._files[cpu] = _open(tracefs.path / f"per_cpu/cpu{cpu}/trace_pipe_raw")
        except OSError:
            self._close_files()
            raise
        self._spool = Spool(self._files, self._reader.decoder.formats.page.size)

    @property
    def mappings(self) -> list[Mapping]:
        return self._reader.decoder.mappings

    def emptying(self, folder: Path) -> AbstractContextManager[None]:
        return self._spool.moving(folder / FOLDER, self._tracefs.path)

    def empty(self) -> None:
        while self._spool.move():
            pass

    def read(self) -> pa.Table | None:
        taken = self._spool.take()
        return self._reader.read(taken, "trace_pipe_raw") if taken else None

    @property
    def sealed(self) -> dict[int, int]:
        return self._reader.sealed

    def written(self) -> None:
        self._reader.written()

    def close(self) -> None:
        self._spool.close()
        self._close_files()

    def _close_files(self) -> None:
        for file in self._files.values():
            os.close(file)


class Text:
    """``trace_pipe``: microseconds, no CPU and no task."""

    def __init__(self, tracefs: Tracefs, devices: list[PciDevice]) -> None:
        self._reader = mmiotrace.Reader("trace_pipe", devices=list(devices))
        self._file = _open(tracefs.path / "trace_pipe")
        self._rest = b""

    @property
    def mappings(self) -> list[Mapping]:
        return self._reader.mappings

    def read(self) -> pa.Table | None:
        pieces = [self._rest]
        while len(pieces) <= _AT_A_TIME // _TEXT_AT_A_TIME and (piece := _read(self._file, _TEXT_AT_A_TIME)):
            pieces.append(piece)
        whole, newline, self._rest = b"".join(pieces).rpartition(b"\n")
        text = _SUM_OF_LOSSES.sub(b"", whole + newline)
        return self._reader.table(text) if text else None

    def emptying(self, folder: Path) -> AbstractContextManager[None]:
        return nullcontext()

    def empty(self) -> None:
        """Reading does."""

    @property
    def sealed(self) -> dict[int, int]:
        return {}

    def written(self) -> None:
        """Nothing was kept."""

    def close(self) -> None:
        os.close(self._file)


def _open(file: Path) -> int:
    return os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def _read(file: int, size: int) -> bytes:
    try:
        return os.read(file, size)
    except BlockingIOError:
        return b""
