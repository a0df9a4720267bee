"""Sleep on a word of shared memory, and wake those who do (futex(2))."""

import ctypes
import errno
import mmap
import os
from pathlib import Path

#: System call numbers of futex: asm/unistd_64.h of x86, asm-generic/unistd.h for all younger machines.
_NUMBERS = {"x86_64": 202}
_GENERIC_NUMBER = 98
_FUTEX_WAIT = 0
_FUTEX_WAKE = 1
_ALL = 0x7FFFFFFF
#: A sleep that ended for another reason than a wake: the word was different, a signal came, the time was over.
_ENDED = (errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class Futex:
    """A 32-bit word of memory that others have mapped shared; works on when its file is removed."""

    def __init__(self, memory: Path | mmap.mmap, offset: int) -> None:
        """``memory`` is a mapping, or a file in whose first page the word is."""
        if isinstance(memory, Path):
            with memory.open("r+b") as file:
                memory = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        self._word = ctypes.c_uint32.from_buffer(memory, offset)  # keeps the mapping
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._number = ctypes.c_long(_NUMBERS.get(os.uname().machine, _GENERIC_NUMBER))

    def wake_all(self) -> None:
        """Wake every thread, of any process, that waits on the word."""
        if self._call(_FUTEX_WAKE, _ALL, None) < 0:
            raise OSError(ctypes.get_errno(), "futex wake")

    def wait(self, value: int, seconds: float) -> None:
        """Sleep while the word has this value, at most so long; may return earlier. Other threads of ours go on."""
        nanoseconds = int(seconds * 1e9)
        limit = _Timespec(nanoseconds // 1_000_000_000, nanoseconds % 1_000_000_000)
        if self._call(_FUTEX_WAIT, value, ctypes.byref(limit)) < 0 and ctypes.get_errno() not in _ENDED:
            raise OSError(ctypes.get_errno(), "futex wait")

    def _call(self, operation: int, value: int, limit: object) -> int:
        word = ctypes.byref(self._word)
        result: int = self._libc.syscall(self._number, word, operation, ctypes.c_uint32(value), limit, None, 0)
        return result
