"""The event: one row is one access as the program made it. Columns and types as docs/architecture.md gives them."""

import pyarrow as pa

from mmiotap.trace import layout

#: Words of the ``kind`` column, by the number that rows in the arena carry.
KINDS: dict[int, str] = {
    layout.READ: "read",
    layout.WRITE: "write",
    layout.MAP: "map",
    layout.UNMAP: "unmap",
    layout.MARK: "mark",
    layout.LOST: "lost",
    layout.UNKNOWN: "unknown",
}

KIND_TYPE = pa.dictionary(pa.int8(), pa.string())

EVENTS: pa.Schema = pa.schema(
    [
        pa.field("time_ns", pa.int64(), nullable=False),
        pa.field("duration_ns", pa.uint32()),
        pa.field("kind", KIND_TYPE, nullable=False),
        pa.field("width", pa.uint16(), nullable=False),
        pa.field("map_id", pa.int32(), nullable=False),
        pa.field("offset", pa.uint64(), nullable=False),
        pa.field("value", pa.uint64(), nullable=False),
        pa.field("data", pa.binary()),
        pa.field("pc", pa.uint64(), nullable=False),
        pa.field("pid", pa.int32(), nullable=False),
        pa.field("tid", pa.int32(), nullable=False),
        pa.field("cpu", pa.int16(), nullable=False),
        pa.field("flags", pa.uint32(), nullable=False),
        pa.field("text", pa.string()),
    ]
)

#: Of a merged trace: which of its sources an event is from. Other traces do not have this column.
SOURCE = pa.field("source", pa.dictionary(pa.int16(), pa.string()), nullable=False)

MERGED: pa.Schema = EVENTS.append(SOURCE)
