"""Small traces with known content, written by the project's own writer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from mmiotap.trace.model import Mapping, Module, Process, Site
from mmiotap.trace.schema import EVENTS
from mmiotap.trace.writer import TraceWriter

#: CLOCK_MONOTONIC nanoseconds at which every synthetic trace starts.
START = 5_000_000_000

INFO: dict[str, Any] = {
    "format": 1,
    "state": "recording",
    "command": ["./driver", "--reset now"],
    "host": "lab",
    "kernel": "6.18.0",
    "mmiotap": "0.1.0",
    "started": "2026-11-21T01:00:00Z",
    "start_mono_ns": START,
    "start_unix_ns": 1_795_222_800_000_000_000,
    "finished": None,
    "recorder_pid": 1,
    "recorder_start": 1,
    "settings": {"maps": ["/dev/uio*"], "on_full": "wait", "latency": True},
    "exit": None,
    "events": 0,
    "lost": 0,
    "not_selected": ["/dev/null"],
    "source": "agent",
}

UIO = Mapping(1, 100, "/dev/uio0", 0x7F0000000000, 0x20000, 0, "rw", "0000:00:03.0", 0, 0xFEBC0000, START)
RING = Mapping(2, 100, "anon_inode:[io_uring]", 0x7F0000100000, 0x1000, 0x10000000, "rw", None, None, None, START)
DRIVER = Process(100, 1, "/opt/driver")


def row(
    time: int,
    kind: str,
    width: int = 0,
    offset: int = 0,
    value: int = 0,
    *,
    map_id: int = 1,
    data: bytes | None = None,
    pc: int = 0,
    pid: int = 100,
    tid: int = 100,
    flags: int = 0,
    text: str | None = None,
    took: int | None = None,
) -> dict[str, Any]:
    """One event; ``time`` is nanoseconds since the start of the trace, ``took`` the duration."""
    return {
        "time_ns": START + time,
        "duration_ns": took,
        "kind": kind,
        "width": width,
        "map_id": map_id,
        "offset": offset,
        "value": value,
        "data": data,
        "pc": pc,
        "pid": pid,
        "tid": tid,
        "cpu": 0,
        "flags": flags,
        "text": text,
    }


def write_trace(
    path: Path,
    *parts: Sequence[dict[str, Any]],
    mappings: Sequence[Mapping] = (UIO, RING),
    modules: Sequence[Module] = (),
    processes: Sequence[Process] = (DRIVER,),
    sites: Sequence[Site] = (),
    **finish: Any,
) -> Path:
    """A finished trace with these events, one Parquet part for each list."""
    writer = TraceWriter.create(path, INFO)
    writer.add_mappings(mappings)
    writer.add_modules(modules)
    writer.add_processes(processes)
    writer.add_sites(sites)
    for rows in parts:
        writer.append(pa.Table.from_pylist(list(rows), schema=EVENTS))
    writer.finish(**finish)
    return path
