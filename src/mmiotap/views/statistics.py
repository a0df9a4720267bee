"""Statistics as tables, or as JSON for a program."""

import json
import sys
from typing import Any

import pyarrow as pa

from mmiotap.analysis.stats import Statistics
from mmiotap.trace.reader import Trace
from mmiotap.views.lines import duration_text, map_label
from mmiotap.views.state import state_text
from mmiotap.views.tables import write_table
from mmiotap.views.words import printable


def write_text(found: Statistics, trace: Trace, limit: int) -> None:
    """The overall lines and the four tables, each cut after ``limit`` rows (0: not at all)."""
    print(overall(found, trace))
    if tells_ways(trace) and any(found.ways.values()):
        print(ways_text(found.ways))
    labels = {mapping.map_id: map_label(mapping) for mapping in trace.mappings}
    mappings = [[labels.get(row["map_id"], f"{row['map_id']}:?")] for row in found.mappings.to_pylist()]
    _write("Mappings", ["mapping"], mappings, found.mappings, limit)
    registers = [
        [labels.get(row["map_id"], f"{row['map_id']}:?"), f"{row['offset']:#x}"] for row in found.registers.to_pylist()
    ]
    keys = ["mapping", "offset"]
    if "register" in found.registers.schema.names:
        keys.append("register")
        for cells, name in zip(registers, found.registers["register"].to_pylist(), strict=True):
            cells.append(printable(name or ""))
    _write("Registers", keys, registers, found.registers, limit, values=True)
    sites = [[printable(row["site"]) or "?"] for row in found.sites.to_pylist()]
    _write("Sites", ["site"], sites, found.sites, limit)
    threads = [
        [str(row["pid"]), str(row["tid"]), printable(row["program"] or "?").rpartition("/")[2]]
        for row in found.threads.to_pylist()
    ]
    _write("Threads", ["pid", "tid", "program"], threads, found.threads, limit)


def overall(found: Statistics, trace: Trace) -> str:
    """One line: what the trace holds in all."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(found.kinds.items(), key=lambda item: -item[1]))
    events = sum(found.kinds.values())
    words = [f"{events} events ({kinds})" if kinds else "0 events"]
    words.append(f"lost: {trace.lost}")
    words.append(f"{found.seconds:.6f} s")
    words.append(state_text(trace.state, trace.path))
    return ", ".join(words)


def tells_ways(trace: Trace) -> bool:
    """Whether its events say which way they went: those of our agent do."""
    return trace.info.get("source") == "agent"


def ways_text(ways: dict[str, int]) -> str:
    """``5 accesses: 4 patched (80.0%), 1 trapped (20.0%)``, without the ways that none went."""
    total = sum(ways.values())
    shares = ", ".join(f"{count} {way} ({count / total:.1%})" for way, count in ways.items() if count)
    return f"{total} access{'' if total == 1 else 'es'}" + (f": {shares}" if shares else "")


def write_json(found: Statistics, trace: Trace, limit: int) -> None:
    """One JSON object; the tables are lists of objects, with null where a value is not known."""

    def rows(table: pa.Table) -> list[dict[str, Any]]:
        return (table.slice(0, limit) if limit else table).to_pylist()

    whole = {
        "events": sum(found.kinds.values()),
        "kinds": found.kinds,
        "ways": found.ways if tells_ways(trace) else None,
        "lost": trace.lost,
        "seconds": found.seconds,
        "state": trace.state,
        "mappings": rows(found.mappings),
        "registers": rows(found.registers),
        "sites": rows(found.sites),
        "threads": rows(found.threads),
        "notes": found.notes,
    }
    json.dump(whole, sys.stdout, indent=1)
    print()


def _write(
    title: str, keys: list[str], names: list[list[str]], table: pa.Table, limit: int, *, values: bool = False
) -> None:
    rows = table.to_pylist()
    timed = any(row["mean_ns"] is not None for row in rows)
    columns = [*keys, "width", "reads", "writes", "others", "per second"]
    columns += ["first", "last"] if values else []
    columns += ["min", "mean", "max"] if timed else []
    cells = [
        [*name, *_numbers(row), *(_values(row) if values else []), *(_times(row) if timed else [])]
        for name, row in zip(names, rows, strict=True)
    ]
    shown = cells[:limit] if limit else cells
    more = f", {len(shown)} of {len(cells)} (--limit 0: all)" if len(shown) < len(cells) else ""
    write_table(f"{title}{more}", columns, shown, left=len(keys))


def _numbers(row: dict[str, Any]) -> list[str]:
    widths = " ".join(str(width or "?") for width in sorted(row["widths"]))
    rate = "" if row["rate"] is None else f"{row['rate']:.4g}" if row["rate"] < 1000 else f"{row['rate']:.0f}"
    return [widths, str(row["reads"]), str(row["writes"]), str(row["others"]), rate]


def _values(row: dict[str, Any]) -> list[str]:
    digits = 2 * min(row["width"], 8)
    return ["?" if value is None else f"0x{value:0{digits}x}" for value in (row["first_value"], row["last_value"])]


def _times(row: dict[str, Any]) -> list[str]:
    return ["" if row[key] is None else duration_text(row[key]) for key in ("min_ns", "mean_ns", "max_ns")]
