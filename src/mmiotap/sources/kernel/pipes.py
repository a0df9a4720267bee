"""What the kernel has to tell: its buffers, page by page, and where those cannot be had its text, which says less."""

import os
import re
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from mmiotap.formats.ftrace.events import NAMES, Decoder
from mmiotap.formats.ftrace.fields import Formats
from mmiotap.formats.mmiotrace import Reader
from mmiotap.formats.pci import PciDevice
from mmiotap.sources.kernel.tracefs import Tracefs
from mmiotap.trace.model import Mapping

#: Bytes of one CPU that are read at a time, at most.
_AT_A_TIME = 16 << 20
_TEXT_AT_A_TIME = 1 << 16
#: The sum of losses that stand in their places, too.
_SUM_OF_LOSSES = re.compile(rb"^MARK 0\.000000 Lost \d+ events\.\n", re.MULTILINE)


class Pipe(Protocol):
    """Open files of the kernel's. While they are, the tracer cannot be changed."""

    @property
    def mappings(self) -> list[Mapping]:
        """All that were seen."""

    def read(self) -> pa.Table | None:
        """What there is; None if all has been read."""

    def close(self) -> None: ...


class Pages:
    """``per_cpu/cpuN/trace_pipe_raw``.

    Raises MmiotapError if they are not as we know them, OSError if the kernel does not give them away.
    """

    def __init__(self, tracefs: Tracefs, devices: list[PciDevice]) -> None:
        self._decoder = Decoder(Formats.read(tracefs.path, NAMES), devices)
        self._files: dict[int, int] = {}
        try:
            for cpu in tracefs.cpus():
                self._files[cpu] = _open(tracefs.path / f"per_cpu/cpu{cpu}/trace_pipe_raw")
        except OSError:
            self.close()
            raise

    @property
    def mappings(self) -> list[Mapping]:
        return self._decoder.mappings

    def read(self) -> pa.Table | None:
        found = {cpu: self._pages(file) for cpu, file in self._files.items()}
        parts = [(cpu, data) for cpu, data in found.items() if data]
        return self._decoder.table(parts, "trace_pipe_raw") if parts else None

    def close(self) -> None:
        for file in self._files.values():
            os.close(file)

    def _pages(self, file: int) -> bytes:
        size = self._decoder.formats.page.size
        pages = []
        for _ in range(_AT_A_TIME // size):
            page = _read(file, size)
            if not page:
                break
            pages.append(page)
        return b"".join(pages)


class Text:
    """``trace_pipe``: microseconds, no CPU and no task."""

    def __init__(self, tracefs: Tracefs, devices: list[PciDevice]) -> None:
        self._reader = Reader("trace_pipe", devices=list(devices))
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

    def close(self) -> None:
        os.close(self._file)


def _open(file: Path) -> int:
    return os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def _read(file: int, size: int) -> bytes:
    try:
        return os.read(file, size)
    except BlockingIOError:
        return b""
