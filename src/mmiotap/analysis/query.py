"""A trace as a database: DuckDB reads the parts where they are, a few rows at a time, and nothing else.

What a statement may do is what reading needs. DuckDB may open the parts, and no other file; it writes none but what it
spills, in a folder that goes away with it. Statements that are no SELECT are refused, and so is a SELECT whose plan
writes a file (DuckDB lets a WITH clause hold a COPY), for then a part is a file that it may write.
"""

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa
from duckdb.func import FunctionNullHandling, PythonUDFType

from mmiotap.analysis.clock import start_ns
from mmiotap.analysis.narrow import plain_name
from mmiotap.analysis.sites import sites
from mmiotap.registers.decode import COLUMNS, NAMES, Decoder
from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.names import short_name
from mmiotap.trace.reader import Trace
from mmiotap.trace.store import TraceDir

#: What DuckDB may take before it spills.
MEMORY = "1GiB"
_EXPLAIN = "EXPLAIN (FORMAT json) "
#: Rows of a result that are in memory at once.
ROWS = 1 << 16


class SqlError(MmiotapError):
    """What is wrong with a statement, with its place."""


@dataclass(frozen=True)
class Answer:
    """The rows that a statement asks for; they can be read once."""

    schema: pa.Schema
    tables: Iterator[pa.Table]


@contextlib.contextmanager
def answer(trace: Trace, sql: str, decoder: Decoder | None = None) -> Iterator[Answer]:
    """Ask a trace. Views and their columns are in docs/query.md; a ``decoder`` gives registers names.

    Raises SqlError for what is wrong with the statement, and so does reading the answer.
    """
    folder = TraceDir(trace.path).events
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(contextlib.closing(duckdb.connect()))
        spilled = stack.enter_context(tempfile.TemporaryDirectory(prefix="mmiotap-"))
        here, parts = "", []
        if trace.parts:
            here = stack.enter_context(plain_name(folder))
            parts = [f"{here}/{part.name}" for part in trace.parts]
        told = _Errors(sql, here, str(folder))
        with told:
            database.execute("SET errors_as_json = true")
            database.execute("SET python_enable_replacements = false")
            database.execute(f"SET memory_limit = '{MEMORY}'")
            database.execute("SET temp_directory = ?", [spilled])
            database.execute("SET allowed_paths = ?", [parts])
            _define_events(database, trace, parts, decoder)
            for name, table in _others(trace, sql, decoder).items():
                database.register(name, table)
            database.execute("SET enable_external_access = false")
            database.execute("SET lock_configuration = true")
            _refuse_all_but_reading(database, sql, told)
            reader = database.sql(sql).to_arrow_reader(ROWS)
        yield Answer(reader.schema, _tables(reader, told))


def _tables(reader: Any, told: "_Errors") -> Iterator[pa.Table]:
    while True:
        with told:
            batch = next(reader, None)
        if batch is None:
            return
        yield pa.Table.from_batches([batch])


def _define_events(
    database: duckdb.DuckDBPyConnection, trace: Trace, parts: list[str], decoder: Decoder | None
) -> None:
    """The view of the events. Its decoded columns cost nothing where nobody asks for them."""
    columns = _quoted(trace.schema.names)
    sources = []
    if parts:
        files = ", ".join(f"'{part}'" for part in parts)
        sources.append(f"SELECT {columns} FROM read_parquet([{files}])")
    if trace.live.num_rows or not parts:
        database.register("_live", _plain(trace.live))
        sources.append(f"SELECT {columns} FROM _live")
    named = []
    for name in (field.name for field in NAMES):
        if decoder is None:
            named.append(f"NULL::VARCHAR AS {name}")
            continue
        types: list[Any] = ["VARCHAR", "USMALLINT", "INTEGER", "UBIGINT", "UBIGINT", "UINTEGER"]
        function = _decoded(decoder, name)
        database.create_function(
            f"_{name}", function, types, "VARCHAR", type=PythonUDFType.ARROW, null_handling=FunctionNullHandling.SPECIAL
        )
        named.append(f"_{name}({_quoted(COLUMNS)}) AS {name}")
    database.execute(
        f"CREATE VIEW events AS SELECT (time_ns - {start_ns(trace)}) / 1e9 AS seconds, *, {', '.join(named)} "
        f"FROM ({' UNION ALL '.join(sources)})"
    )


def _quoted(columns: Sequence[str]) -> str:
    """OFFSET, for one, is a word of SQL."""
    return ", ".join(f'"{name}"' for name in columns)


def _decoded(decoder: Decoder, name: str) -> Callable[..., Any]:
    def column(kind: Any, width: Any, map_id: Any, offset: Any, value: Any, flags: Any) -> Any:
        columns = (kind, width, map_id, offset, value, flags)
        found = decoder.decode(pa.table(dict(zip(COLUMNS, columns, strict=True))))
        return getattr(found, name).cast(pa.string())

    return column


def _plain(table: pa.Table) -> pa.Table:
    """Words where a table has numbers for them."""
    fields = [field.with_type(pa.string()) if pa.types.is_dictionary(field.type) else field for field in table.schema]
    return table.cast(pa.schema(fields))


def _others(trace: Trace, sql: str, decoder: Decoder | None) -> dict[str, pa.Table]:
    """The views that are small. Sites cost a pass over all events: none in a statement without that word."""
    registers, fields = _described(decoder)
    uses = sites(trace).uses if "sites" in sql.lower() else []
    return {
        "mappings": pa.Table.from_pylist(
            [one.to_json() | {"name": short_name(one)} for one in trace.mappings], schema=_MAPPINGS
        ),
        "registers": pa.Table.from_pylist(registers, schema=_REGISTERS),
        "fields": pa.Table.from_pylist(fields, schema=_FIELDS),
        "sites": pa.Table.from_pylist([vars(one) for one in uses], schema=_SITES),
    }


def _described(decoder: Decoder | None) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What the descriptions have: a row a register of each mapping, and a row a field of each register."""
    registers, fields = [], []
    for bound in decoder.bindings if decoder else ():
        for one in bound.description.registers:
            offset = one.offset + bound.base
            if not 0 <= offset < 2**64:
                continue  # the mapping begins behind it
            known = {"map_id": bound.map_id, "register": one.name}
            registers.append(
                known | {"offset": offset, "width": one.width, "count": one.elements, "access": one.access}
            )
            for field in one.fields:
                bits = {"field": field.name, "lsb": field.lsb, "bits": field.width, "access": field.access}
                fields.append(known | {"offset": offset} | bits)
    return registers, fields


def _refuse_all_but_reading(database: duckdb.DuckDBPyConnection, sql: str, told: "_Errors") -> None:
    statements = database.extract_statements(sql)
    if len(statements) != 1:
        raise SqlError(f"SQL: {len(statements)} statements, and one is answered")
    if statements[0].type != duckdb.StatementType.SELECT:
        raise SqlError(f"SQL: {statements[0].type.name} is no question; SELECT, or what is short for it, is")
    with told.behind(_EXPLAIN):
        [[_, plan]] = database.execute(_EXPLAIN + sql).fetchall()
    if any("COPY" in name for name in _operators(json.loads(plan))):
        raise SqlError("SQL: COPY writes files; a trace is only read, and what is found goes to the file of -o")


def _operators(nodes: list[dict[str, Any]]) -> Iterator[str]:
    for node in nodes:
        yield node["name"]
        yield from _operators(node["children"])


class _Errors:
    """Makes what DuckDB says about a statement one line, with the place in the statement where there is one."""

    def __init__(self, sql: str, here: str, folder: str) -> None:
        self._sql = sql
        self._here, self._folder = here, folder
        self._before = 0

    @contextlib.contextmanager
    def behind(self, words: str) -> Iterator[None]:
        """The statement stands behind some words, and, when it is wrong, so does the place."""
        self._before = len(words)
        yield
        self._before = 0

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, (duckdb.Error, pa.ArrowException, OSError)):
            raise SqlError(self._text(str(error))) from error

    def _text(self, told: str) -> str:
        begin, end = told.find("{"), told.rfind("}")
        try:
            facts = json.loads(told[begin : end + 1])
        except ValueError:
            facts = {"exception_message": told}
        cause = " ".join(facts["exception_message"].split())
        if self._here:
            cause = cause.replace(self._here, self._folder)
        return f"SQL: {self._place(facts.get('position'))}{cause}"

    def _place(self, position: str | None) -> str:
        if position is None:
            return ""
        before = self._sql.encode()[: int(position) - self._before].decode(errors="replace")
        return f"line {before.count(chr(10)) + 1}, column {len(before) - before.rfind(chr(10))}: "


_NUMBER: pa.DataType = pa.int32()
_WORD: pa.DataType = pa.uint64()
_TEXT: pa.DataType = pa.string()
_MAPPINGS = pa.schema(
    {"map_id": _NUMBER, "name": _TEXT, "path": _TEXT, "pid": _NUMBER, "address": _WORD, "length": _WORD}
    | {"file_offset": _WORD, "prot": _TEXT, "device": _TEXT, "bar": _NUMBER, "physical": _WORD, "time_ns": _WORD}
)
_REGISTERS = pa.schema(
    {"map_id": _NUMBER, "offset": _WORD, "width": _NUMBER, "register": _TEXT, "count": _WORD, "access": _TEXT}
)
_FIELDS = pa.schema(
    {"map_id": _NUMBER, "offset": _WORD, "register": _TEXT, "field": _TEXT, "lsb": _NUMBER, "bits": _NUMBER}
    | {"access": _TEXT}
)
_SITES = pa.schema(
    {"pid": _NUMBER, "pc": _WORD, "site": _TEXT, "instruction": _TEXT, "bytes": _TEXT, "width": _NUMBER, "hits": _WORD}
    | {"patched": _WORD, "trapped": _WORD, "stepped": _WORD, "syscall": _WORD, "state": _TEXT, "reason": _TEXT}
)
