"""Protocol buffers' wire format, as far as it takes to write it (https://protobuf.dev/programming-guides/encoding).

A message is its fields, one behind the other. A number may have more bytes than it needs: numpy encodes columns of
numbers, all in the same size.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]

#: Types of fields on the wire.
VARINT, LEN = 0, 2
_MORE = 0x80


def tag(field: int, kind: int) -> bytes:
    return varint(field << 3 | kind)


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= _MORE:
        out.append(value & 0x7F | _MORE)
        value >>= 7
    out.append(value)
    return bytes(out)


def number(field: int, value: int) -> bytes:
    return tag(field, VARINT) + varint(value)


def message(field: int, *parts: bytes) -> bytes:
    """A message, or bytes, as the field of another."""
    content = b"".join(parts)
    return tag(field, LEN) + varint(len(content)) + content


def text(field: int, value: str) -> bytes:
    return message(field, value.encode(errors="replace"))


def padded(values: "Words | Sequence[int]", size: int) -> npt.NDArray[np.uint8]:
    """Numbers below 2 to the 7 · ``size`` as rows of exactly ``size`` bytes (64 bits: size 10)."""
    shifts = np.arange(size, dtype=np.uint64) * np.uint64(7)
    rows = (np.asarray(values, np.uint64)[:, None] >> shifts).astype(np.uint8) & np.uint8(0x7F)
    rows[:, :-1] |= np.uint8(_MORE)
    return rows
