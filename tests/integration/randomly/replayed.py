"""Does a trace of a random program tell what the device went through? Its events are made again, on other memory."""

from mmiotap.trace import layout
from mmiotap.trace.reader import Trace
from randomly.compose import DEVICE_SIZE, PAGE

#: All but the page that threads share, whose accesses have no order that is known.
OWN = DEVICE_SIZE - PAGE
COLUMNS = ["kind", "map_id", "offset", "width", "value", "data", "flags", "pc", "tid"]


class Memory:
    """The device as events tell of it; a byte is None once something unknown was written there."""

    def __init__(self) -> None:
        self.bytes: list[int | None] = [0] * OWN

    def differs(self, start: int, seen: bytes) -> bool:
        now = self.bytes[start : start + len(seen)]
        return any(byte is not None and byte != value for byte, value in zip(now, seen, strict=True))

    def write(self, start: int, width: int, written: bytes | None) -> None:
        self.bytes[start : start + width] = written or [None] * width


def contradiction(trace: Trace, end: bytes) -> str | None:
    """The first event that cannot have happened, if the device was all zeros before and holds ``end`` now; or None."""
    files = {mapping.map_id: mapping.file_offset for mapping in trace.mappings}
    memory = Memory()
    for row in trace.events(COLUMNS).to_pylist():
        if row["kind"] not in ("read", "write", "unknown"):
            continue
        start, width = files[row["map_id"]] + row["offset"], row["width"]
        if start >= OWN:
            continue
        is_known = row["kind"] != "unknown" and not row["flags"] & layout.VALUE_UNKNOWN
        seen = (row["data"] or row["value"].to_bytes(8, "little")[:width]) if is_known else None
        if row["kind"] != "read":
            memory.write(start, width, seen)
        elif seen and memory.differs(start, seen):
            return f"{row} reads at {start:#x}, where {memory.bytes[start : start + width]} was written"
    if memory.differs(0, end[:OWN]):
        places = [hex(at) for at in range(OWN) if memory.differs(at, end[at : at + 1])]
        return f"the device is not what was written to it: at {places}"
    return None
