"""Protection keys for memory (pkeys(7)): does this machine have them?"""

import ctypes

from mmiotap.trace.errors import MmiotapError


def check() -> None:
    """Raises MmiotapError where the processor or the kernel has none, or the C library (glibc 2.27) cannot ask."""
    libc = ctypes.CDLL(None, use_errno=True)
    key = libc.pkey_alloc(0, 0) if hasattr(libc, "pkey_alloc") else -1
    if key < 0:
        raise MmiotapError(
            "--smp private needs protection keys (pku), which this processor or kernel does not have; "
            "choose --smp emulate, lock or step"
        )
    libc.pkey_free(key)
