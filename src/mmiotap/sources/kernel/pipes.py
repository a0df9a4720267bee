"""The kernel's buffers, page by page: ``per_cpu/cpuN/trace_pipe_raw``."""

import os

from mmiotap.sources.kernel.tracefs import Tracefs

#: Bytes of one CPU that are read at a time, at most.
_AT_A_TIME = 16 << 20


class Pipes:
    """All CPUs' buffers, open. While they are, the tracer cannot be changed."""

    def __init__(self, tracefs: Tracefs, page_size: int) -> None:
        self._page_size = page_size
        self._files = {
            cpu: os.open(tracefs.path / f"per_cpu/cpu{cpu}/trace_pipe_raw", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            for cpu in tracefs.cpus()
        }

    def close(self) -> None:
        for file in self._files.values():
            os.close(file)

    def read(self) -> dict[int, bytes]:
        """Whole pages of the CPUs that have any; none if all have been read."""
        found = {cpu: self._read(file) for cpu, file in self._files.items()}
        return {cpu: data for cpu, data in found.items() if data}

    def _read(self, file: int) -> bytes:
        pages = []
        for _ in range(_AT_A_TIME // self._page_size):
            try:
                page = os.read(file, self._page_size)
            except BlockingIOError:
                break
            if not page:
                break
            pages.append(page)
        return b"".join(pages)
