"""A small process that puts the machine back when its recorder has ended: by itself, by SIGKILL, in whatever way.

It waits for the end of a pipe whose other end only the recorder holds. Every recording ends this way, so that it works
when it has to.
"""

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from mmiotap.sources.kernel.before import Before
from mmiotap.sources.kernel.tracefs import Tracefs
from mmiotap.trace.errors import MmiotapError

#: Not the recorder's name, so that who kills that by name does not get this one, too.
_NAME = b"mmio-watchdog"
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)


class Watchdog:
    """Watches over this process from now on. To be made before anything is changed, and before there are threads."""

    def __init__(self, before: Before, tracefs: Tracefs) -> None:
        ours, self._life = os.pipe()
        self._said, report = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            _watch(ours, report, before, tracefs)
        os.close(ours)
        os.close(report)

    def restore(self) -> None:
        """Have everything put back, and wait for it. Raises MmiotapError for what could not be."""
        os.close(self._life)
        with os.fdopen(self._said, "rb") as said:
            failed = said.read().decode()
        os.waitpid(self._pid, 0)
        if failed:
            raise MmiotapError(f"not everything is as it was: {failed}")


def _watch(life: int, report: int, before: Before, tracefs: Tracefs) -> NoReturn:
    """The watchdog's own life."""
    status = 1
    try:
        os.setsid()
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)
        with suppress(OSError):
            Path("/proc/self/comm").write_bytes(_NAME)
        _keep_only(life, report)
        os.read(life, 1)
        failed = before.restore(tracefs)
        with suppress(OSError):  # nobody listens if the recorder was killed
            os.write(report, "; ".join(failed).encode())
        status = 1 if failed else 0
    finally:
        os._exit(status)


def _keep_only(*wanted: int) -> None:
    """Nothing that the recorder has open is kept open by us: no terminal, no pipe, no buffer of the kernel's."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nothing, standard)
    for link in list(Path("/proc/self/fd").iterdir()):
        fd = int(link.name)
        if fd > 2 and fd not in wanted:
            with suppress(OSError):
                os.close(fd)
