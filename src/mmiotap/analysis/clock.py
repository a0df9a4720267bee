"""Where the time of a trace begins."""

from mmiotap.trace.reader import Trace


def start_ns(trace: Trace) -> int:
    """CLOCK_MONOTONIC nanoseconds that are second 0 of the trace: its start, or where unknown its first event."""
    recorded = trace.info.get("start_mono_ns")
    if isinstance(recorded, int) and recorded > 0:
        return recorded
    for table in trace.only(None).batches(["time_ns"]):
        if table.num_rows:
            return int(table["time_ns"][0].as_py())
    return 0
