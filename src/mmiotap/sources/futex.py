"""Wake the threads that sleep on a word of shared memory (futex(2))."""

import ctypes
import mmap
import os
from pathlib import Path

#: System call numbers of futex: asm/unistd_64.h of x86, asm-generic/unistd.h for all younger machines.
_NUMBERS = {"x86_64": 202}
_GENERIC_NUMBER = 98
_FUTEX_WAKE = 1
_ALL = 0x7FFFFFFF


class Futex:
    """A 32-bit word in the first page of a file that others have mapped shared; works on when the file is removed."""

    def __init__(self, path: Path, offset: int) -> None:
        with path.open("r+b") as file:
            page = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        self._word = ctypes.c_uint32.from_buffer(page, offset)  # keeps the mapping
        self._libc = ctypes.CDLL(None, use_errno=True)

    def wake_all(self) -> None:
        """Wake every thread, of any process, that waits on the word."""
        number = _NUMBERS.get(os.uname().machine, _GENERIC_NUMBER)
        word = ctypes.byref(self._word)
        if self._libc.syscall(ctypes.c_long(number), word, _FUTEX_WAKE, _ALL, None, None, 0) < 0:
            raise OSError(ctypes.get_errno(), "futex wake")
