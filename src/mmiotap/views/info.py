"""What a trace is, as text or JSON."""

import json
import shlex
import signal
import sys
from typing import Any

from mmiotap.views.state import state_text
from mmiotap.views.tables import write_table
from mmiotap.views.words import printable


def write_json(found: dict[str, Any]) -> None:
    """The overview as one JSON object."""
    json.dump(found, sys.stdout, indent=1)
    print()


def write_text(found: dict[str, Any]) -> None:
    """One fact a line, then what was mapped and who ran."""
    facts = {
        "state": state_text(found["state"], found["path"]),
        "command": found["command"] and shlex.join(found["command"]),
        "exit": _exit(found["exit"]),
        "started": found["started"],
        "finished": found["finished"],
        "host": found["host"],
        "kernel": found["kernel"],
        "source": found["source"],
        "mmiotap": found["mmiotap"],
        "settings": _settings(found["settings"]),
        "events": found["events"],
        "lost": found["lost"],
        "recursive": found["recursive"],
        "size": _size(found["bytes"], found["bytes_per_event"]),
        "modules": found["modules"],
        "PCI devices": len(found["pci_devices"]) or None,
        "registers": ", ".join(found["registers"]),
    }
    for name, value in facts.items():
        if value not in (None, "", []):
            print(f"{name + ':':<13}{printable(str(value))}")
    if found["sources"]:
        names = ("name", "path", "host", "events", "lost", "offset_ns", "offset_from")
        columns = ["name", "trace", "host", "events", "lost", "offset (ns)", "from"]
        rows = [[_fact(one.get(name)) for name in names] for one in found["sources"]]
        write_table("Merged from", columns, rows, left=3)
    if found["mappings"]:
        columns = ["id", "path", "device", "prot", "pid", "address", "length", "file offset", "BAR", "physical"]
        write_table("Mappings", columns, [_mapping(mapping) for mapping in found["mappings"]], left=4)
    if found["processes"]:
        rows = [[printable(one["executable"]), str(one["pid"]), str(one["ppid"])] for one in found["processes"]]
        write_table("Processes", ["program", "pid", "parent"], rows, left=1)
    if found["not_selected"]:
        print("\nMapped, but selected by no rule (record --map GLOB):")
        for path in found["not_selected"]:
            print(f"  {printable(path)}")


def _mapping(mapping: dict[str, Any]) -> list[str]:
    def hexadecimal(name: str) -> str:
        return "" if mapping.get(name) is None else f"{mapping[name]:#x}"

    def text(name: str) -> str:
        return "" if mapping.get(name) is None else printable(str(mapping[name]))

    words = [text("map_id"), text("path"), text("device"), text("prot"), text("pid")]
    return [*words, *map(hexadecimal, ("address", "length", "file_offset")), text("bar"), hexadecimal("physical")]


def _fact(value: object) -> str:
    return "?" if value is None else printable(str(value))


def _exit(end: dict[str, Any] | None) -> str | None:
    if end is None:
        return None
    if end.get("signal") is not None:
        number = end["signal"]
        known = number in signal.valid_signals() and number in list(signal.Signals)
        return f"killed by {signal.Signals(number).name if known else f'signal {number}'}"
    return None if end.get("status") is None else f"status {end['status']}"


def _settings(settings: dict[str, Any] | None) -> str | None:
    if not settings:
        return None
    return ", ".join(
        f"{name} {' '.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in settings.items()
        if value not in (None, []) and (name, value) != ("smp", "emulate")
    )


def _size(size: int, per_event: float | None) -> str:
    amount = float(size)
    unit = "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1024 or unit == "TiB":
            break
        amount /= 1024
    shown = f"{size} B" if unit == "B" else f"{amount:.1f} {unit}"
    return shown if per_event is None else f"{shown}, {per_event:.1f} bytes an event"
