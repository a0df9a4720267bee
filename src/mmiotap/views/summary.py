"""What happened, as tables, or as JSON for a program."""

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from mmiotap.analysis.summary import Summary
from mmiotap.trace.model import Mapping
from mmiotap.views.changes import change_text, condition_text
from mmiotap.views.lines import duration_text, map_label
from mmiotap.views.tables import write_table
from mmiotap.views.words import printable

Row = dict[str, Any]
#: A column: its head, what is in it, and whether it is text.
Column = tuple[str, Callable[[Row], str], bool]


def write_json(found: Summary, only: Sequence[str], start_ns: int, limit: int) -> None:
    """One JSON object: a list of objects for each part. Times are those of the events; ``start_ns`` is second 0."""
    tables = {name: getattr(found, name) for name in only}
    parts = {name: (table.slice(0, limit) if limit else table).to_pylist() for name, table in tables.items()}
    json.dump({"start_ns": start_ns} | parts | {"notes": found.notes}, sys.stdout, indent=1)
    print()


def write_text(found: Summary, only: Sequence[str], mappings: Sequence[Mapping], start_ns: int, limit: int) -> None:
    """A table for each part that found something, cut after ``limit`` rows (0: not at all)."""
    parts = columns({mapping.map_id: map_label(mapping) for mapping in mappings}, start_ns)
    empty = True
    for part in only:
        table: pa.Table = getattr(found, part)
        if table.num_rows:
            _write(*parts[part], table, limit)
            empty = False
    if empty:
        print("nothing found")


def _write(title: str, columns: Sequence[Column], table: pa.Table, limit: int) -> None:
    rows = (table.slice(0, limit) if limit else table).to_pylist()
    more = f", {len(rows)} of {table.num_rows} (--limit 0: all)" if len(rows) < table.num_rows else ""
    cells = [[cell(row) for _, cell, _ in columns] for row in rows]
    # A column in which nothing is known says nothing.
    kept = [at for at in range(len(columns)) if any(row[at] for row in cells)]
    texts = sum(columns[at][2] for at in kept)
    heads = [columns[at][0] for at in kept]
    write_table(f"{title}{more}", heads, [[row[at] for at in kept] for row in cells], left=texts)


def columns(labels: dict[int, str], start_ns: int) -> dict[str, tuple[str, list[Column]]]:
    """Of each part its title and columns, those of text first."""

    def place(prefix: str = "") -> list[Column]:
        return [
            ("mapping", lambda row: _label(labels, row.get(f"{prefix}map_id", row["map_id"])), True),
            ("offset", lambda row: f"{row[f'{prefix}offset']:#x}", True),
            ("register", lambda row: printable(row[f"{prefix}register"] or ""), True),
        ]

    def time(head: str, name: str) -> Column:
        return head, lambda row: "" if row[name] is None else f"{(row[name] - start_ns) / 1e9:.9f}", False

    width: Column = ("width", lambda row: str(row["width"] or "?"), False)
    site: Column = ("code", lambda row: printable(row["site"]), True)
    return {
        "phases": (
            "Phases",
            [
                ("mark", lambda row: printable(row["phase"]) if row["phase"] is not None else "(before)", True),
                time("from", "from_ns"),
                *_counts("reads", "writes", "others", "registers"),
                (
                    "lasts",
                    lambda row: "" if row["first_ns"] is None else _took(row["last_ns"] - row["first_ns"]),
                    False,
                ),
            ],
        ),
        "polls": (
            "Polling loops",
            [
                *place(),
                ("until", _condition, True),
                site,
                width,
                *_counts("loops", "ended", "reads", "most"),
                *_times("total", "longest"),
                time("first", "first_ns"),
            ],
        ),
        "modifies": (
            "Read-modify-writes",
            [*place(), ("changes", _change, True), site, width, *_counts("count"), time("first", "first_ns")],
        ),
        "pairs": (
            "Index and data registers",
            [
                *place("index_"),
                ("index", lambda row: f"{row['index']:#x}", True),
                ("data", lambda row: f"{row['offset']:#x} {printable(row['register'] or '')}".rstrip(), True),
                width,
                *_counts("reads", "writes"),
                ("first", lambda row: f"{row['first']:#x}", False),
                ("last", lambda row: f"{row['last']:#x}", False),
            ],
        ),
        "transfers": (
            "Block transfers",
            [
                *place(),
                ("kind", lambda row: row["kind"], True),
                ("to", lambda row: f"{row['end'] - 1:#x}" if row["onward"] else "same place", True),
                site,
                width,
                *_counts("transfers", "accesses", "bytes", "most"),
                *_times("total"),
                time("first", "first_ns"),
            ],
        ),
        "delays": (
            "Delays after an access",
            [
                *place(),
                ("kind", lambda row: row["kind"], True),
                width,
                *_counts("gaps"),
                *_times("total", "shortest", "longest"),
            ],
        ),
        "gaps": (
            "Longest gaps",
            [
                *place(),
                ("kind", lambda row: row["kind"], True),
                ("next", lambda row: _next(row, labels), True),
                ("tid", lambda row: str(row["tid"]), False),
                time("from", "time_ns"),
                ("gap", lambda row: _took(row["gap_ns"]), False),
            ],
        ),
        "life": (
            "Registers",
            [
                *place(),
                ("values", _values, True),
                ("toggled", lambda row: _bits(row["toggled"], row["toggled_fields"]), True),
                ("cleared by reading?", lambda row: _bits(row["cleared_by_read"], row["cleared_fields"]), True),
                ("writers", lambda row: printable(", ".join(row["writers"])), True),
                width,
                *_counts("reads", "writes", "others"),
            ],
        ),
        "latency": (
            "Latency",
            [
                *place(),
                ("kind", lambda row: row["kind"], True),
                width,
                *_counts("timed"),
                *_times("min", "mean", "p50", "p99", "max", "total"),
            ],
        ),
        "callers": (
            "Code",
            [*place(), site, ("inlined", _frames, True), width, *_counts("reads", "writes", "others")],
        ),
        "unwritten": (
            "Read and never written before",
            [
                *place()[:2],
                site,
                ("bytes", lambda row: str(row["length"]), False),
                *_counts("reads"),
                time("first", "first_ns"),
            ],
        ),
    }


def _label(labels: dict[int, str], map_id: int) -> str:
    return labels.get(map_id, f"{map_id}:?")


def _counts(*names: str) -> list[Column]:
    def column(name: str) -> Column:
        return name, lambda row: str(row[name]), False

    return [column(name) for name in names]


def _times(*names: str) -> list[Column]:
    def column(name: str) -> Column:
        return name, lambda row: _took(row[f"{name}_ns"]), False

    return [column(name) for name in names]


def _took(nanoseconds: float | None) -> str:
    return "" if nanoseconds is None else duration_text(nanoseconds)


def _condition(row: Row) -> str:
    if not row["ended"]:
        return "never changed"
    if not row["mask"]:
        return "changed"
    return condition_text(row["value"], row["mask"] & ~row["value"], row["ones"], row["zeros"])


def _change(row: Row) -> str:
    return change_text(row["set"], row["cleared"], row["set_fields"], row["cleared_fields"])


def _values(row: Row) -> str:
    told = [f"{one['value']:#x}" + (f" ×{one['count']}" if one["count"] > 1 else "") for one in row["values"][:3]]
    more = row["distinct"] is None or row["distinct"] > len(told)
    return " ".join(told) + (f" … ({row['distinct'] or 'many'})" if more and told else "")


def _bits(bits: int, fields: str | None) -> str:
    return (
        printable(" ".join(word.partition("=")[0] for word in fields.split(" ")))
        if fields
        else f"{bits:#x}"
        if bits
        else ""
    )


def _next(row: Row, labels: dict[int, str]) -> str:
    other = "" if row["next_map_id"] == row["map_id"] else f"{_label(labels, row['next_map_id'])} "
    return f"{row['next_kind']} {other}{printable(row['next_register'] or hex(row['next_offset']))}"


def _frames(row: Row) -> str:
    """``reg_write < reset (driver.c:12)``: what was inlined there, and into what."""
    frames = row["frames"]
    if len(frames) < 2:
        return f"{printable(frames[0]['file'] or '?')}:{frames[0]['line']}" if frames else ""
    where = f"{frames[0]['file'] or '?'}:{frames[0]['line']}"
    return printable(f"{' < '.join(one['function'] for one in frames)} ({where})")
