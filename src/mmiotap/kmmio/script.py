"""Handlers from a Python file: its functions ``pre`` and ``post``, and those of its next version once it is saved."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from mmiotap.kmmio.access import Access
from mmiotap.trace.errors import MmiotapError

#: What a file may define to be called for an access.
FUNCTIONS = ("pre", "post")


class Script:
    """A script that is in force. Its methods :meth:`pre` and :meth:`post` are handlers; for one thread at a time.

    A changed file is loaded anew before the next access, with all its state. If that fails, ``report`` is called with a
    line, and the version before stays in force.
    """

    def __init__(self, path: Path, report: Callable[[str], None]) -> None:
        """Raises MmiotapError if the file cannot be loaded, or defines neither function."""
        self._path = path
        self._report = report
        self._version = _version(path)
        self._module = _load(path)

    def pre(self, access: Access) -> None:
        """``pre`` of the file as it is now, if it has one."""
        self._call("pre", access)

    def post(self, access: Access) -> None:
        """``post`` of the file as it is now, if it has one."""
        self._call("post", access)

    def defines(self, name: str) -> bool:
        """Whether the version in force has this function."""
        return hasattr(self._module, name)

    def _call(self, name: str, access: Access) -> None:
        version = _version(self._path)
        if version != self._version:
            self._version = version
            try:
                self._module = _load(self._path)
                self._report(f"{self._path}: loaded anew")
            except MmiotapError as error:
                self._report(f"{error}; the version before stays in force")
        handler = getattr(self._module, name, None)
        if handler is not None:
            handler(access)


def _version(path: Path) -> tuple[int, ...]:
    """Differs when the file was written or replaced; () if there is none."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _load(path: Path) -> ModuleType:
    """Run the file. Not by import: that may take a cached version for a file that has just been changed."""
    module: Any = ModuleType(f"mmiotap script {path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look for themselves there
    try:
        exec(compile(path.read_bytes(), path, "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        raise MmiotapError(f"{path}{_line(error, path)}: {_what(error)}") from error
    if not any(callable(getattr(module, name, None)) for name in FUNCTIONS):
        raise MmiotapError(f"{path} defines neither pre(access) nor post(access), so it has nothing to do")
    return module  # type: ignore[no-any-return]


def _line(error: BaseException, path: Path) -> str:
    """``:12``, where in the file it happened; "" if that is not known."""
    if isinstance(error, SyntaxError):
        return f":{error.lineno}"
    at, line = error.__traceback__, ""
    while at is not None:
        if at.tb_frame.f_code.co_filename == str(path):
            line = f":{at.tb_lineno}"
        at = at.tb_next
    return line


def _what(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else error}"
