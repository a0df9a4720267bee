"""Events as CSV, JSON lines and Parquet: the columns of a trace as they are, `data` in hexadecimal where it is text."""

import json
from collections.abc import Iterator
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from mmiotap.trace.writer import PARQUET

#: Rows that are turned into text at a time.
_ROWS = 1 << 16


def write_csv(tables: Iterator[pa.Table], schema: pa.Schema, out: IO[bytes]) -> None:
    """A header line, then a line an event. What is not known is empty."""
    out.write((",".join(schema.names) + "\n").encode())
    options = pa.csv.WriteOptions(include_header=False)
    for table in tables:
        pa.csv.write_csv(_readable(table), out, options)


def write_jsonl(tables: Iterator[pa.Table], out: IO[bytes]) -> None:
    """An object an event with all columns; what is not known is null."""
    for table in tables:
        for batch in _readable(table).to_batches(_ROWS):
            pieces: list[Any] = []
            for number, name in enumerate(batch.schema.names):
                pieces += [f"{', ' if number else '{'}{json.dumps(name)}: ", _as_json(batch.column(name))]
            pieces += ["}\n", ""]
            lines: Any = pc.binary_join_element_wise(*pieces)
            out.write("".join(lines.to_pylist()).encode())


def write_parquet(tables: Iterator[pa.Table], schema: pa.Schema, out: IO[bytes]) -> None:
    """One file with the schema of a trace's parts."""
    with pq.ParquetWriter(out, schema, **PARQUET) as parquet:
        for table in tables:
            parquet.write_table(table)


def _readable(table: pa.Table) -> pa.Table:
    """Words where the table has numbers for them, hexadecimal digits (low byte first, as it is in memory) for data."""
    data = table["data"]
    if data.null_count == len(data):
        digits = pa.nulls(len(data), pa.string())
    else:
        digits = pa.array([None if one is None else one.hex() for one in data.to_pylist()], pa.string())
    place = {name: number for number, name in enumerate(table.schema.names)}
    table = table.set_column(place["data"], "data", digits)
    for name, number in place.items():
        if pa.types.is_dictionary(table[name].type):
            table = table.set_column(number, name, table[name].cast(pa.string()))
    return table


def _as_json(column: Any) -> Any:
    if pa.types.is_string(column.type):
        # Most events have no text, and words and digits repeat: each distinct one is quoted once.
        distinct = column.dictionary_encode()
        words = pa.array([json.dumps(word) for word in distinct.dictionary.to_pylist()], pa.string())
        column = words.take(distinct.indices)
    else:
        column = column.cast(pa.string())
    return pc.fill_null(column, "null")
