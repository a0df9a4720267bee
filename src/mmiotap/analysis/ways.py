"""Which way accesses went: through a patched site, by a trap, stepped after one, or the kernel made them."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmiotap.trace import layout

WAYS = ("patched", "trapped", "stepped", "syscall")


def columns(flags: Any) -> dict[str, Any]:
    """A column for each of :data:`WAYS`, of 1 for each access that went that way and 0 for the others."""
    patched, stepped, syscall = (_has(flags, flag) for flag in (layout.PATCHED, layout.STEPPED, layout.SYSCALL))
    stepped = pc.and_not(stepped, patched)
    trapped = pc.invert(pc.or_(pc.or_(patched, stepped), syscall))
    return {
        way: pc.cast(went, pa.int64()) for way, went in zip(WAYS, (patched, trapped, stepped, syscall), strict=True)
    }


def _has(flags: Any, flag: int) -> Any:
    return pc.not_equal(pc.bit_wise_and(flags, pa.scalar(flag, pa.uint32())), pa.scalar(0, pa.uint32()))
