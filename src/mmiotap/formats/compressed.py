"""Logs as people keep them: plain, or compressed with gzip, bzip2, xz or zstd. Content decides, never the name."""

import bz2
import gzip
import io
import lzma
import zlib
from typing import BinaryIO, cast

from mmiotap.trace.errors import MmiotapError

_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_LONGEST_MAGIC = 6


class _Rewound(io.RawIOBase):
    """A stream that cannot seek (a pipe), with what was read from its beginning put back."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._head[: len(buffer)] or self._rest.read(len(buffer))
        self._head = self._head[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


class Log:
    """The text of a log, decompressed as it is read.

    :param name: what messages call it.
    :raises MmiotapError: the file is empty.
    """

    def __init__(self, raw: BinaryIO, name: str) -> None:
        head = raw.read(_LONGEST_MAGIC)
        if not head:
            raise MmiotapError(f"{name}: the file is empty")
        self.name = name
        self.compression = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)
        self._text = _decompressed(self.compression, io.BufferedReader(_Rewound(head, raw)))
        self._head = b""
        self._given = 0

    def head(self, size: int) -> bytes:
        """The first bytes, fewer than ``size`` only if there are no more, before anything is read.

        :raises MmiotapError: as :meth:`read` does.
        """
        while len(self._head) < size and (data := self._read(size - len(self._head))):
            self._head += data
        return self._head

    def read(self, size: int) -> bytes:
        """The next bytes, at most ``size``; none at the end.

        :raises MmiotapError: the compressed data are damaged or end too early.
        """
        if self._head:
            data, self._head = self._head[:size], self._head[size:]
            return data
        return self._read(size)

    def _read(self, size: int) -> bytes:
        try:
            data = self._text.read(size)
            self._given += len(data)
            return data
        except EOFError:
            cause = "end too early"
        except (OSError, lzma.LZMAError, zlib.error) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            # pyarrow's zstd reader reports a missing end and damage alike as an OSError without a number.
            cause = "end too early" if "end of" in str(error).lower() or "truncated" in str(error) else "are damaged"
        raise MmiotapError(
            f"{self.name}, after byte {self._given} of the text: the {self.compression} data {cause}; "
            "to import what can be read, decompress it by hand and import the result"
        )


def _decompressed(compression: str | None, raw: io.BufferedReader) -> BinaryIO:
    if compression == "gzip":
        return cast(BinaryIO, gzip.GzipFile(fileobj=raw))
    if compression == "bzip2":
        return cast(BinaryIO, bz2.BZ2File(raw))
    if compression == "xz":
        return cast(BinaryIO, lzma.LZMAFile(raw))
    if compression == "zstd":
        import pyarrow as pa

        return cast(BinaryIO, pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd"))
    return raw
