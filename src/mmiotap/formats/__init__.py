"""Formats that a trace can be written in, and the log that one can be read from (:mod:`mmiotap.formats.mmiotrace`)."""

from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

    from mmiotap.trace.reader import Trace

#: Names of the formats that :func:`write` knows, and what each is.
FORMATS = {
    "mmiotrace": "the text log of the kernel's mmiotrace",
    "csv": "a line an event, with a header line",
    "jsonl": "a JSON object a line",
    "parquet": "one Parquet file",
}


def write(
    format: str, tables: "Iterator[pa.Table]", trace: "Trace", out: IO[bytes], schema: "pa.Schema | None" = None
) -> None:
    """Write events as they come; little is held in memory.

    ``tables`` have all columns of ``trace``, which is where they are from, or those of ``schema``, which has more.
    Raises KeyError for an unknown format, and what ``out.write`` raises.
    """
    from mmiotap.formats import mmiotrace_writer, rows

    schema = schema or trace.schema
    writers = {
        "mmiotrace": lambda: mmiotrace_writer.write(tables, trace, out),
        "csv": lambda: rows.write_csv(tables, schema, out),
        "jsonl": lambda: rows.write_jsonl(tables, out),
        "parquet": lambda: rows.write_parquet(tables, schema, out),
    }
    writers[format]()
