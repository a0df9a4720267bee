"""Registers as Python classes, in the manner of m1n1 (AsahiLinux)::

from enum import IntEnum
from mmiotap.registers.classes import *

class Mode(IntEnum):
    SLOW = 0
    FAST = 2

class CTRL(Register32):
    EN = 0                  # a bit
    COUNT = 15, 8           # the highest and the lowest bit
    MODE = 3, 2, Mode       # with names for its values

class DeviceRegs(RegMap):
    CTRL = 0x00, CTRL
    DATA = irange(0x100, 16, 4), Register32     # DATA[0] to DATA[15]
"""

__all__ = ["RegMap", "Register", "Register8", "Register16", "Register32", "Register64", "irange"]


class Register:
    """What the bits of a register mean; not to be used itself."""

    __WIDTH__ = 0  #: bits


class Register8(Register):
    __WIDTH__ = 8


class Register16(Register):
    __WIDTH__ = 16


class Register32(Register):
    __WIDTH__ = 32


class Register64(Register):
    __WIDTH__ = 64


class RegMap:
    """Where registers are: ``NAME = offset, Register`` or ``NAME = range, Register``."""


def irange(start: int, count: int, step: int = 1) -> range:
    """``count`` offsets, ``step`` bytes apart."""
    return range(start, start + count * step, step)
