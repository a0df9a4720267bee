"""Wake the threads that sleep on a word of shared memory (futex(2))."""

import ctypes
import os

#: System call numbers of futex: asm/unistd_64.h of x86, asm-generic/unistd.h for all younger machines.
_NUMBERS = {"x86_64": 202}
_GENERIC_NUMBER = 98
_FUTEX_WAKE = 1
_ALL = 0x7FFFFFFF


def wake_all(address: int) -> None:
    """Wake every thread, of any process, that waits on the 32-bit word at this address of a shared mapping."""
    libc = ctypes.CDLL(None, use_errno=True)
    number = _NUMBERS.get(os.uname().machine, _GENERIC_NUMBER)
    if libc.syscall(ctypes.c_long(number), ctypes.c_void_p(address), _FUTEX_WAKE, _ALL, None, None, 0) < 0:
        raise OSError(ctypes.get_errno(), "futex wake")
