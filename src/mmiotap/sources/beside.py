"""A recording in a process of its own, for those who need the terminal for something else.

That process is mmiotap's own command, in a session of its own: what is typed does not reach it, and if we are killed
the recording goes on as it would without us.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from mmiotap.trace import store
from mmiotap.trace.errors import MmiotapError

#: Seconds between two looks whether it has begun.
_PAUSE = 0.02


class Beside:
    """``mmiotap WORDS…``, which runs from now on. It has no input; its output is kept, and shown by :meth:`end`."""

    def __init__(self, words: Sequence[str]) -> None:
        self._output: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115, it lives as long as we do
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "mmiotap", *words],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            start_new_session=True,
        )

    def wait_for(self, folder: Path) -> bool:
        """Until its trace is there. False: it has ended without one."""
        while True:
            ended = self._process.poll() is not None
            with contextlib.suppress(MmiotapError):
                if store.read_info(folder).get("recorder_pid") == self._process.pid:
                    return True
            if ended:
                return False
            time.sleep(_PAUSE)

    def end(self) -> int:
        """Press Ctrl-C, wait, and show what it wrote; its exit status, or minus the signal that it died of.

        Ctrl-C meanwhile presses again, and more firmly.
        """
        ways = iter((signal.SIGINT, signal.SIGTERM))
        self._signal(next(ways))
        while True:
            try:
                status = self._process.wait()
                break
            except KeyboardInterrupt:
                self._signal(next(ways, signal.SIGKILL))
        self._output.seek(0)
        sys.stdout.flush()
        shutil.copyfileobj(self._output, sys.stdout.buffer)
        sys.stdout.flush()
        return status

    def _signal(self, number: int) -> None:
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
