"""Which way accesses went: through a patched site, by a trap, or stepped, run in place after one."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmiotap.trace import layout

WAYS = ("patched", "trapped", "stepped")


def columns(flags: Any) -> dict[str, Any]:
    """A column for each of :data:`WAYS`, of 1 for each access that went that way and 0 for the others."""
    patched, stepped = _has(flags, layout.PATCHED), _has(flags, layout.STEPPED)
    stepped = pc.and_not(stepped, patched)
    trapped = pc.invert(pc.or_(patched, stepped))
    return {way: pc.cast(went, pa.int64()) for way, went in zip(WAYS, (patched, trapped, stepped), strict=True)}


def _has(flags: Any, flag: int) -> Any:
    return pc.not_equal(pc.bit_wise_and(flags, pa.scalar(flag, pa.uint32())), pa.scalar(0, pa.uint32()))
