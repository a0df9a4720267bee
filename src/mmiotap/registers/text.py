"""Columns of numbers as columns of text, by numpy and Arrow."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmiotap.registers.model import FORMS

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

_U = np.uint64
_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)
_ZEROX = np.frombuffer(b"0x", np.uint8)


def hexadecimal(numbers: Words) -> Any:
    """``0x1f``; below ten, the digit alone."""
    length = np.ones(len(numbers), np.int64)
    for digits in range(1, 16):
        length += numbers >= _U(16**digits)
    size = np.where(numbers < _U(10), 1, length + 2)
    ends = np.cumsum(size)
    owner = np.repeat(np.arange(len(numbers)), size)
    from_end = ends[owner] - 1 - np.arange(len(owner))
    text = _DIGITS[((numbers[owner] >> (4 * from_end.clip(0, 15)).astype(_U)) & _U(15)).astype(np.int64)]
    prefix = from_end >= length[owner]
    text[prefix] = _ZEROX[(size[owner] - 1 - from_end)[prefix]]
    return _strings(ends, text)


def shown(numbers: Words, width: Ints, form: npt.NDArray[np.int8], shift: Ints, radix: Ints) -> Any:
    """Values of fields of ``width`` bits as their forms (:data:`mmiotap.registers.model.FORMS`) say."""
    texts = hexadecimal(numbers << shift.astype(_U))
    for number in np.unique(form).tolist():
        if (name := FORMS[number]) == "hex":
            continue
        chosen = form == number
        mine = numbers[chosen]
        signed = ((mine ^ _sign(width[chosen])) - _sign(width[chosen])).view(np.int64)
        if name == "float":
            as_text = pa.array(_float(mine, width[chosen]))
        elif name in ("fixed", "ufixed"):
            as_text = pa.array((signed if name == "fixed" else mine) / np.exp2(radix[chosen]))
        else:
            as_text = pa.array((signed << shift[chosen]) if name == "int" else mine << shift[chosen].astype(_U))
        texts = pc.replace_with_mask(texts, pa.array(chosen), as_text.cast(pa.string()))
    return texts


def _sign(width: Ints) -> Words:
    return _U(1) << (width - 1).astype(_U)


def _float(numbers: Words, width: Ints) -> npt.NDArray[np.float64]:
    """IEEE 754: of 16, 32 or 64 bits."""
    found = numbers.view(np.float64).copy()
    for bits, kind, plain in ((16, np.float16, np.uint16), (32, np.float32, np.uint32)):
        chosen = width == bits
        found[chosen] = numbers[chosen].astype(plain).view(kind).astype(np.float64)
    return found


def _strings(ends: Ints, text: npt.NDArray[np.uint8]) -> Any:
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    return pa.StringArray.from_buffers(len(ends), pa.py_buffer(offsets.tobytes()), pa.py_buffer(text.tobytes()))


def joined(owner: Ints, texts: Any, count: int, separator: str) -> Any:
    """One string for each of ``count`` owners, of its texts, which are in the order of the owners; null for none."""
    ends = np.searchsorted(owner, np.arange(count), "right")
    lists = pa.ListArray.from_arrays(pa.array(np.concatenate([[0], ends]), pa.int32()), texts)
    some = np.diff(ends, prepend=0) > 0
    return pc.if_else(pa.array(some), pc.binary_join(lists, separator), pa.scalar(None, pa.string()))
