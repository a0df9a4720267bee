"""What a trace is: how it was recorded and what is in it, without reading its events."""

from typing import Any

from mmiotap.registers import choose
from mmiotap.trace.reader import Trace


def overview(trace: Trace) -> dict[str, Any]:
    """Facts of the trace as JSON values. ``bytes`` is what the folder takes on disk, ``bytes_per_event`` its share."""
    used = sum(file.lstat().st_blocks * 512 for file in trace.path.rglob("*"))
    info = trace.info
    return {
        "path": str(trace.path),
        "state": trace.state,
        "source": info.get("source"),
        "command": info.get("command"),
        "exit": info.get("exit"),
        "host": info.get("host"),
        "kernel": info.get("kernel"),
        "mmiotap": info.get("mmiotap"),
        "started": info.get("started"),
        "finished": info.get("finished"),
        "settings": info.get("settings"),
        "events": trace.count,
        "lost": trace.lost,
        "recursive": info.get("recursive"),
        "bytes": used,
        "bytes_per_event": used / trace.count if trace.count else None,
        "mappings": [mapping.to_json() for mapping in trace.mappings],
        "modules": len({module.path for module in trace.modules}),
        "processes": [
            {"pid": process.pid, "ppid": process.ppid, "executable": process.executable} for process in trace.processes
        ],
        "not_selected": info.get("not_selected", []),
        "pci_devices": info.get("pci_devices", []),
        "sources": info.get("sources", []),
        "registers": list(dict.fromkeys(one.given for one in choose.remembered(trace))),
    }
