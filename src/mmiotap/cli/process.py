"""How a process is set up that is nothing but a command. A library must not do so with its user's process."""

import ctypes
import sys
from importlib.machinery import ModuleSpec

#: Of mallopt(3): sizes from which on memory comes from the system, and goes back to it at once.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def without_pandas() -> None:
    """pyarrow imports pandas where it can, the first time that it sees a Python value, which is long before it has a
    use for it; we never have. That takes as long as all other imports. pyarrow looks once only."""
    sys.meta_path.insert(0, _NoPandas())
    try:
        import pyarrow

        pyarrow.scalar(0)
    finally:
        sys.meta_path.pop(0)


class _NoPandas:
    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'", name=name)
        return None


def keep_memory() -> None:
    """Arrays of some megabytes that come and go use the same memory again; glibc would give it back to the system, and
    pages that are taken anew cost more than what is done with them."""
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_THRESHOLD, 32 << 20)
    libc.mallopt(_TRIM_THRESHOLD, 1 << 30)
