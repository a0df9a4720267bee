"""Arrays of pyarrow from numbers of numpy and from lists, and back, without pandas.

``pa.array`` and ``to_numpy`` import pandas where that is installed, the one to ask whether the values are its own
(pyarrow's array.pxi, ``_is_array_like``): half a second of a core, which a recording would take from the program that
it records.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

#: An array of pyarrow.
Column: TypeAlias = "pa.Array[Any]"


def numbers(array: npt.NDArray[Any], absent: npt.NDArray[np.bool_] | None = None) -> Column:
    """Shares the memory of ``array``. Null where ``absent`` is true."""
    buffers = [_validity(absent), pa.py_buffer(np.ascontiguousarray(array).data)]
    return pa.Array.from_buffers(pa.from_numpy_dtype(array.dtype), len(array), buffers)


def values(column: "pa.ChunkedArray[Any]") -> npt.NDArray[Any]:
    """Numbers, none of them null. One chunk is not copied, and must not be written to."""
    return np.from_dlpack(column.combine_chunks())


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


def _validity(absent: npt.NDArray[np.bool_] | None) -> "pa.Buffer | None":
    """Arrow's validity bitmap: least significant bit first, set where there is a value."""
    if absent is None or not absent.any():
        return None
    return pa.py_buffer(np.packbits(~absent, bitorder="little").data)
