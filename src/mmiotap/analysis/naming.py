"""Names for places and bits that are no events: of tables that analyses have made."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmiotap.registers.decode import Decoded, Decoder


def decoded(decoder: Decoder | None, kind: Any, map_id: Any, offset: Any, width: Any, value: Any = None) -> Decoded:
    """Registers at these places, and the fields of these values (0 if there are none); null without a decoder.

    ``kind`` is a column of words, or one word for all.
    """
    if decoder is None:
        nothing = pa.nulls(len(offset), pa.string())
        return Decoded(nothing, nothing)
    rows = len(offset)
    columns = {
        "kind": pa.array([kind] * rows, pa.string()) if isinstance(kind, str) else kind,
        "map_id": map_id.cast(pa.int32()),
        "offset": offset,
        "width": width.cast(pa.uint16()),
        "value": pa.array(np.zeros(rows, np.uint64)) if value is None else value,
        "flags": pa.array(np.zeros(rows, np.uint32)),
    }
    found = decoder.decode(pa.table(columns))
    return Decoded(found.register.cast(pa.string()), found.fields.cast(pa.string()))


def of_registers(decoder: Decoder | None, registers: pa.Table, value: Any = None) -> Decoded:
    """Of a table of places with their ``reads``: as who reads them sees them, those apart that were only written."""
    kind = pc.if_else(pc.greater(registers["reads"], pa.scalar(0)), "read", "write")
    return decoded(decoder, kind, registers["map_id"], registers["offset"], registers["width"], value)
