"""Descriptions as a user names them, FILE[:PART][@MAP[+OFFSET]], and files read by what they are."""

import atexit
import contextlib
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmiotap.registers import shipped
from mmiotap.registers.model import Description, wrong
from mmiotap.trace.errors import MmiotapError

_OFFSET = re.compile(r"(.+)\+(-?)(0x[0-9a-f]+|[0-9]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Wanted:
    """One ``--regs``.

    :ivar part: what of the file, where it has several descriptions: an address map, a peripheral, a domain, a class.
    :ivar map: id or glob of the mappings; None: it was not said.
    :ivar offset: where the description begins there.
    """

    file: Path
    part: str | None = None
    map: str | None = None
    offset: int = 0

    @classmethod
    def parse(cls, text: str) -> "Wanted":
        """Names of files may have ``@`` and ``:`` in them: the file that is there is meant. Raises MmiotapError."""
        head, at, place = text, "", ""
        if not Path(text).is_file() and "@" in text:
            head, at, place = text.rpartition("@")
        if at and not place:
            raise MmiotapError(f"--regs {text}: behind the @ is no mapping; write FILE@MAP or FILE@MAP+OFFSET")
        offset = 0
        if match := _OFFSET.fullmatch(place):
            place = match[1]
            offset = int(match[3], 0) * (-1 if match[2] else 1)
        file, part = head, ""
        if not Path(head).is_file() and ":" in head:
            file, _, part = head.rpartition(":")
        if not file:
            raise MmiotapError(f"--regs {text}: there is no file; write FILE, FILE@MAP or FILE@MAP+OFFSET")
        own = shipped.find(file)
        return cls(own if own and not Path(file).is_file() else Path(file), part or None, place or None, offset)


def load(wanted: Wanted, variants: Sequence[str] = (), *, perl: bool = False) -> Description:
    """Read a file. ``variants`` choose among those of rnndb, ``perl`` lets programs within SystemRDL run.

    Raises MmiotapError, one line with the place and the cause.
    """
    path, part = wanted.file, wanted.part
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise wrong(path, None, error.strerror or str(error)) from error
    try:
        with _own_streams():
            match path.suffix.lower():
                case ".rdl":
                    from mmiotap.registers import rdl

                    return rdl.read(path, part, perl=perl)
                case ".xml" | ".svd":
                    from mmiotap.registers import markup, rnndb, svd

                    root = markup.parse(path)
                    return (
                        svd.read(path, part, root) if root.tag == "device" else rnndb.read(path, part, variants, root)
                    )
                case ".py":
                    from mmiotap.registers import classes_reader

                    return classes_reader.read(path, part)
    except RecursionError as error:
        raise wrong(path, None, "it is nested too deeply, or within itself") from error
    raise wrong(path, None, "its name does not say what it is; there are .rdl, .svd, .xml (SVD or rnndb) and .py")


@contextlib.contextmanager
def _own_streams() -> Iterator[None]:
    """systemrdl-compiler lets colorama stand in front of standard output; we have our own ways with colours."""
    streams = sys.stdout, sys.stderr
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        if colorama := sys.modules.get("colorama.initialise"):
            atexit.unregister(colorama.reset_all)
