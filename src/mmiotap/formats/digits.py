"""Numbers out of text, a whole column at a time: eight characters are one 64-bit word, and words are numpy's."""

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]

_NOT_A_DIGIT = 0xFF
_DIGIT = bytes(int(chr(c), 16) if chr(c) in "0123456789abcdefABCDEF" else _NOT_A_DIGIT for c in range(256))

_U = np.uint64
_HIGH_NIBBLES = _U(0xF0F0F0F0F0F0F0F0)
_SIXES = _U(0x0606060606060606)
_BYTES = _U(0x00FF00FF00FF00FF)
_PAIRS = _U(0x0000FFFF0000FFFF)
_QUADS = _U(0x00000000FFFFFFFF)


class Digits:
    """The digits of a block of text, ready to be gathered.

    Fields are given by where they end (exclusive) and by their length in characters. Every method returns the numbers
    and which of the fields are valid; the number of an invalid field means nothing.
    """

    def __init__(self, text: bytes) -> None:
        padded = bytes(16) + text.translate(_DIGIT)
        # One overlapping word for every position: word p is the eight characters that end 8 before p in the text.
        self._words: Numbers = np.ndarray((len(text) + 9,), dtype="<u8", buffer=padded, strides=(1,))

    def decimal(self, end: Positions, length: Positions) -> tuple[Numbers, Flags]:
        """Decimal numbers of one to eight digits."""
        word = self._word(end + 8, length)
        ok = (length >= 1) & (length <= 8) & ((((word + _SIXES) | word) & _HIGH_NIBBLES) == 0)
        word = (word * _U(10) + (word >> _U(8))) & _BYTES
        word = (word * _U(100) + (word >> _U(16))) & _PAIRS
        return (word * _U(10000) + (word >> _U(32))) & _QUADS, ok

    def hexadecimal(self, end: Positions, length: Positions) -> tuple[Numbers, Flags]:
        """Hexadecimal numbers of one to sixteen digits, without a prefix."""
        value, ok = self._hexadecimal_word(end + 8, np.minimum(length, 8))
        ok &= (length >= 1) & (length <= 16)
        if (length > 8).any():
            high, high_ok = self._hexadecimal_word(end, np.maximum(length - 8, 0))
            value |= high << _U(32)
            ok &= high_ok
        return value, ok

    def _hexadecimal_word(self, at: Positions, length: Positions) -> tuple[Numbers, Flags]:
        word = self._word(at, length)
        ok = (word & _HIGH_NIBBLES) == 0
        word = ((word << _U(4)) | (word >> _U(8))) & _BYTES
        word = ((word << _U(8)) | (word >> _U(16))) & _PAIRS
        return ((word << _U(16)) | (word >> _U(32))) & _QUADS, ok

    def _word(self, at: Positions, length: Positions) -> Numbers:
        """The last ``length`` (0 to 8) digits of each word; what stands before them becomes zeros, which lead."""
        surplus = ((8 - length) * 8).astype(np.uint64)
        word: Numbers = (self._words[at] >> surplus) << surplus
        return word
