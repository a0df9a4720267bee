"""Numbers out of text, a whole column at a time: eight characters are one 64-bit word, and words are numpy's."""

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]

#: Bytes in front of the text, so that the words of its first characters are whole.
_BEFORE = 16
_U = np.uint64
_ONES = _U(0x0101010101010101)
_ZEROS = _U(0x3030303030303030)  #: eight characters "0"
_HIGH_NIBBLES = _U(0xF0F0F0F0F0F0F0F0)
_SIXES = _U(0x0606060606060606)
_BYTES = _U(0x00FF00FF00FF00FF)
_PAIRS = _U(0x0000FFFF0000FFFF)
_QUADS = _U(0x00000000FFFFFFFF)
#: By how much "a" ^ "0" is more than ten.
_LETTER = _U(0x47)


class Digits:
    """The digits of a block of text, ready to be gathered.

    Fields are given by where they end (exclusive) and by their length in characters. Every method returns the numbers
    and which of the fields are valid; the number of an invalid field means nothing.
    """

    def __init__(self, text: bytes, pad: int = 0) -> None:
        """Positions do not count the first ``pad`` bytes: 16 or more, or else there are none, and they cost a copy."""
        padded = text if pad else bytes(_BEFORE) + text
        skipped = max(pad - _BEFORE, 0)
        self._characters = np.frombuffer(padded, np.uint8, offset=skipped)
        # One overlapping word for every position: word p is the eight characters that end 8 before p in the text.
        count = len(padded) - skipped - 7
        self._words: Numbers = np.ndarray((count,), dtype="<u8", buffer=padded, offset=skipped, strides=(1,))

    def decimal(self, end: Positions, length: Positions) -> tuple[Numbers, Flags]:
        """Decimal numbers of one to eight digits."""
        if length.max(initial=0) <= 1:
            # As most are, and much cheaper.
            digit = self._characters[end + 15] ^ np.uint8(_ZEROS & _U(0xFF))
            return digit.astype(np.uint64), (length == 1) & (digit < 10)
        number, ok = decimal(self._word(end + 8, length))
        return number, ok & (length >= 1) & (length <= 8)

    def hexadecimal(self, end: Positions, length: Positions) -> tuple[Numbers, Flags]:
        """Hexadecimal numbers of one to sixteen digits, letters in lower case, without a prefix."""
        value, ok = hexadecimal(self._word(end + 8, np.minimum(length, 8)))
        ok &= (length >= 1) & (length <= 16)
        long = np.flatnonzero(length > 8)
        if len(long):
            rows = long if len(long) < len(length) else slice(None)
            high, high_ok = hexadecimal(self._word(end[rows], np.minimum(length[rows] - 8, 8)))
            value[rows] |= high << _U(32)
            ok[rows] &= high_ok
        return value, ok

    def _word(self, at: Positions, length: Positions) -> Numbers:
        return digits(self._words[at], length)


def digits(words: Numbers, length: npt.NDArray[np.integer] | int) -> Numbers:
    """The last ``length`` (0 to 8) characters of each word, "0" as 0; what stands before becomes zeros, which lead."""
    surplus = ((8 - np.asarray(length)) * 8).astype(np.uint64)
    found: Numbers = ((words ^ _ZEROS) >> surplus) << surplus
    return found


def characters(word: int) -> bytes:
    """The eight characters of a word of :func:`digits`."""
    return (word ^ int(_ZEROS)).to_bytes(8, "little")


def decimal(word: Numbers) -> tuple[Numbers, Flags]:
    """Numbers of words of :func:`digits`, and where these were decimal."""
    ok = (((word + _SIXES) | word) & _HIGH_NIBBLES) == 0
    word = (word * _U(10) + (word >> _U(8))) & _BYTES
    word = (word * _U(100) + (word >> _U(16))) & _PAIRS
    return (word * _U(10000) + (word >> _U(32))) & _QUADS, ok


def hexadecimal(word: Numbers) -> tuple[Numbers, Flags]:
    """Numbers of words of :func:`digits`, and where these were hexadecimal, letters in lower case."""
    letter = (word >> _U(6)) & _ONES
    word = word - letter * _LETTER
    # Above nine are letters, and letters alone.
    ok = ((word | ((((word + _SIXES) >> _U(4)) ^ letter) << _U(4))) & _HIGH_NIBBLES) == 0
    word = ((word << _U(4)) | (word >> _U(8))) & _BYTES
    word = ((word << _U(8)) | (word >> _U(16))) & _PAIRS
    return ((word << _U(16)) | (word >> _U(32))) & _QUADS, ok
