"""The edu device in Python: the script of a probe that answers every access to its registers (README.md)."""

import math

from mmiotap.kmmio.access import Access

LIVENESS, FACTORIAL, STATUS, IRQ_STATUS, IRQ_ACK = 0x04, 0x08, 0x20, 0x24, 0x64
IRQ_WHEN_DONE = 0x80
MASK = 0xFFFFFFFF

registers = {0x00: 0x010000ED, LIVENESS: 0, FACTORIAL: 0, STATUS: 0, IRQ_STATUS: 0}


def write(offset: int, value: int) -> None:
    """What the device does when a register is written. It computes at once, so STATUS never says that it does."""
    if offset == LIVENESS:
        registers[LIVENESS] = ~value & MASK
    elif offset == FACTORIAL:
        registers[FACTORIAL] = math.factorial(value) & MASK
        if registers[STATUS] & IRQ_WHEN_DONE:
            registers[IRQ_STATUS] |= 1
    elif offset == STATUS:
        registers[STATUS] = value & IRQ_WHEN_DONE
    elif offset == IRQ_ACK:
        registers[IRQ_STATUS] &= ~value


def pre(access: Access) -> None:
    """Before each access of the driver: it never reaches what is mapped there."""
    if access.kind == "read":
        access.answer(registers.get(access.offset, 0))
    elif access.value is not None:
        write(access.offset, access.value)
        access.swallow()
