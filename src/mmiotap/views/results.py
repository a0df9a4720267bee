"""What a question found, as a table to look at, or as CSV, JSON or Parquet."""

import datetime
import json
import sys
from collections.abc import Iterator
from decimal import Decimal
from typing import IO, Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from mmiotap.analysis.query import Answer
from mmiotap.views.tables import table_lines
from mmiotap.views.words import printable

#: Rows of a table that is drawn; who wants more wants no table.
TABLE_ROWS = 1000


def write(format: str, answer: Answer, out: IO[bytes]) -> None:
    """``format`` is table, csv, json or parquet. Only a table is held in memory, and so cut short."""
    {"table": _table, "csv": _csv, "json": _json, "parquet": _parquet}[format](answer, out)


def _table(answer: Answer, out: IO[bytes]) -> None:
    rows: list[list[str]] = []
    for table in answer.tables:
        room = TABLE_ROWS + 1 - len(rows)
        rows += [[_cell(value) for value in row.values()] for row in _rows(table.slice(0, room))]
        if len(rows) > TABLE_ROWS:
            print(f"mmiotap: the first {TABLE_ROWS} rows; --format csv has all, LIMIT fewer", file=sys.stderr)
            break
    right = [_is_number(field.type) for field in answer.schema]
    terminal = out is sys.stdout.buffer and sys.stdout.isatty()
    lines = table_lines(answer.schema.names, rows[:TABLE_ROWS], right, terminal=terminal)
    out.write("".join(f"{line}\n" for line in lines).encode(sys.stdout.encoding, "backslashreplace"))


def _csv(answer: Answer, out: IO[bytes]) -> None:
    """A header line, then a line a row. What is not known is empty."""
    schema = pa.schema([pa.field(field.name, _csv_type(field.type)) for field in answer.schema])
    with pa.csv.CSVWriter(out, schema) as writer:
        for table in answer.tables:
            columns = [
                pa.array([_text(value) for value in column.to_pylist()], pa.string())
                if _csv_type(field.type) != field.type
                else column
                for field, column in zip(answer.schema, table.columns, strict=True)
            ]
            writer.write_table(pa.table(columns, schema=schema))


def _json(answer: Answer, out: IO[bytes]) -> None:
    """An array of objects, a line each. What is not known is null."""
    separator = "[\n"
    for table in answer.tables:
        for row in _rows(table):
            out.write(f"{separator}{json.dumps(row, default=_text)}".encode())
            separator = ",\n"
    out.write(("[]\n" if separator == "[\n" else "\n]\n").encode())


def _parquet(answer: Answer, out: IO[bytes]) -> None:
    with pq.ParquetWriter(out, answer.schema, compression="zstd") as parquet:
        for table in answer.tables:
            parquet.write_table(table)


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Names of columns may repeat in SQL; they then get numbers."""
    seen: dict[str, int] = {}
    names = []
    for name in table.schema.names:
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return (dict(zip(names, row, strict=True)) for row in zip(*(one.to_pylist() for one in table.columns), strict=True))


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _csv_type(kind: pa.DataType) -> pa.DataType:
    simple = _is_number(kind) or pa.types.is_string(kind) or pa.types.is_boolean(kind)
    return kind if simple else pa.string()


def _cell(value: Any) -> str:
    return "" if value is None else printable(_text(value) or "")


def _text(value: Any) -> Any:
    """Digits for bytes, low byte first as they are in memory; JSON for lists and structures."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, (list, dict, tuple)):
        return json.dumps(value, default=_text)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    return str(value)
