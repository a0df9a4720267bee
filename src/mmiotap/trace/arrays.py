"""Arrays of pyarrow from numbers of numpy and from lists, and back, without pandas.

``pa.array`` and ``to_numpy`` import pandas where that is installed, the one to ask whether the values are its own
(pyarrow's array.pxi, ``_is_array_like``): half a second of a core, which a recording would take from the program that
it records.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

#: Odd, and otherwise any.
_FACTOR = np.uint64(0x9E3779B97F4A7C15)

#: An array of pyarrow.
Column: TypeAlias = "pa.Array[Any]"


def numbers(array: npt.NDArray[Any], absent: npt.NDArray[np.bool_] | None = None) -> Column:
    """Shares the memory of ``array``. Null where ``absent`` is true."""
    buffers = [_validity(absent), pa.py_buffer(np.ascontiguousarray(array).data)]
    return pa.Array.from_buffers(pa.from_numpy_dtype(array.dtype), len(array), buffers)


def values(column: "pa.ChunkedArray[Any] | pa.Array[Any]") -> npt.NDArray[Any]:
    """Numbers, none of them null. One chunk is not copied, and must not be written to."""
    return np.from_dlpack(whole(column))


def whole(column: "pa.ChunkedArray[Any] | pa.Array[Any]") -> Column:
    """In one piece. One chunk is not copied, which combine_chunks would do."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    one: Any = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    return cast(Column, one)


def texts(words: Sequence[str]) -> Column:
    return scattered(len(words), np.arange(len(words)), [word.encode() for word in words], pa.string())


def scattered(
    count: int, where: "Sequence[int] | npt.NDArray[Any]", data: Sequence[bytes], kind: "pa.DataType"
) -> Column:
    """Strings or blobs at these places, in ascending order; null elsewhere."""
    absent = np.ones(count, np.bool_)
    absent[where] = False
    sizes = np.zeros(count, np.int32)
    sizes[where] = [len(one) for one in data]
    offsets = np.zeros(count + 1, np.int32)
    np.cumsum(sizes, out=offsets[1:])
    buffers = [_validity(absent), pa.py_buffer(offsets.data), pa.py_buffer(b"".join(data))]
    return pa.Array.from_buffers(kind, count, buffers)


def distinct(*columns: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The number of each row among the distinct rows of some columns of 64-bit numbers, in the order in which they
    first appear, and the first row of each number."""
    words = [column.view(np.uint64) for column in columns]
    encoded: Any = numbers(words[0] if len(words) == 1 else mixed(*words)).dictionary_encode()
    number = np.from_dlpack(encoded.indices).astype(np.int64)
    # Numbers are given as rows first appear: each where the greatest so far becomes as great.
    first = np.maximum.accumulate(number).searchsorted(np.arange(len(encoded.dictionary)))
    if len(words) == 1 or all(np.array_equal(column, column[first].take(number)) for column in words):
        return number, first
    # Two different rows became the same number: once in a few million traces, or where somebody has made it so.
    _, first, number = np.unique(np.stack(words), axis=1, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return np.argsort(order)[number.reshape(-1)], first[order]


def mixed(*columns: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """One number for each row, nearly always another one for another row."""
    found = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        found ^= column
        found *= _FACTOR
        found ^= found >> np.uint64(32)
    return found


def _validity(absent: npt.NDArray[np.bool_] | None) -> "pa.Buffer | None":
    """Arrow's validity bitmap: least significant bit first, set where there is a value."""
    if absent is None or not absent.any():
        return None
    return pa.py_buffer(np.packbits(~absent, bitorder="little").data)
