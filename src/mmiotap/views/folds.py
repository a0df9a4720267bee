"""What an event stands for, at the end of its line."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pyarrow as pa

from mmiotap.analysis.folding import Fold
from mmiotap.analysis.naming import decoded
from mmiotap.registers.decode import Decoder
from mmiotap.views.changes import change_text, condition_text
from mmiotap.views.lines import duration_text


def limited(
    tables: Iterable[tuple[pa.Table, dict[int, Fold]]], limit: int | None
) -> Iterator[tuple[pa.Table, dict[int, Fold]]]:
    """The first ``limit`` rows; asks for no table after the one that completes them."""
    left = limit
    for table, folds in tables if left != 0 else ():
        yield table.slice(0, left), folds
        if left is not None:
            left -= table.num_rows
            if left <= 0:
                return


def fold_texts(table: pa.Table, folds: Mapping[int, Fold], decoder: Decoder | None) -> dict[int, str]:
    """A text for each row that stands for others: ``[12 reads in 3.40us, until LU]``."""
    rows = [row for row in folds if row < table.num_rows]
    some = table.take(np.array(rows, np.int64))
    place = (some["kind"].cast(pa.string()), some["map_id"], some["offset"], some["width"])
    bits = [pa.array([getattr(folds[row], name) for row in rows], pa.uint64()) for name in ("ones", "zeros")]
    ones, zeros = (decoded(decoder, *place, one).fields.to_pylist() for one in bits)
    kinds, begins = place[0].to_pylist(), some["offset"].to_pylist()
    return {
        row: f"[{_text(folds[row], kind or '', begin or 0, one, zero)}]"
        for row, kind, begin, one, zero in zip(rows, kinds, begins, ones, zeros, strict=True)
    }


def _text(fold: Fold, kind: str, begin: int, ones: str | None, zeros: str | None) -> str:
    if fold.what == "modify":
        return f"read-modify-write: {change_text(fold.ones, fold.zeros, ones, zeros)}"
    told = f"{fold.count} {kind}s in {duration_text(fold.took_ns)}"
    if fold.what == "poll":
        ended = fold.ones | fold.zeros
        until = f"until {condition_text(fold.ones, fold.zeros, ones, zeros)}" if ended else "never changed"
        return f"{told}, {until}"
    return told if fold.last == begin else f"{told}, to {fold.last:#x}"
