"""Which parts of a trace can hold what a filter chooses.

DuckDB looks into the dictionaries of Parquet's columns before it reads them, and so tells of a hundred million events
in a moment which parts have a certain offset; Arrow would decode them all.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mmiotap.analysis import select
from mmiotap.analysis.filter_language import Among, Binary, Node, Number, Word

#: Bytes of parts from which on this is worth loading DuckDB.
WORTH = 16 << 20

_STORED = {"map": "map_id"} | {name: name for name in ("offset", "width", "value", "pc", "pid", "tid", "flags")}


def condition(terms: Sequence[Node]) -> str | None:
    """SQL that holds wherever all terms do, and maybe elsewhere; None where that would not help."""
    found = [sql for sql in map(_sql, terms) if sql]
    return " AND ".join(found) if found else None


def of_options(offset: str | None, tids: Sequence[int]) -> str | None:
    """The same of what :func:`mmiotap.analysis.select.expression` is given."""
    found = []
    if offset is not None:
        found.append(_within("offset", [select.offsets(offset)]))
    if tids := [tid for tid in tids if tid >= 0]:
        found.append(_within("tid", [(tid, tid) for tid in tids]))
    return " AND ".join(found) if found else None


@contextlib.contextmanager
def plain_name(folder: Path) -> Iterator[str]:
    """The folder by its descriptor: a name that has no character which DuckDB would take for a pattern."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def parts(paths: Sequence[Path], where: str) -> list[Path]:
    """Those of some parts in a folder that have an event for which this holds."""
    if sum(path.stat().st_size for path in paths) < WORTH:
        return list(paths)
    import duckdb

    with contextlib.ExitStack() as stack:
        database = stack.enter_context(contextlib.closing(duckdb.connect()))
        folder = stack.enter_context(plain_name(paths[0].parent))
        files = [f"{folder}/{path.name}" for path in paths]
        database.execute("SET memory_limit = '512MiB'")
        try:
            found = database.execute(
                f"SELECT DISTINCT filename FROM read_parquet(?, filename = true) WHERE {where}", [files]
            ).fetchall()
        except duckdb.Error:
            return list(paths)  # who reads them will say what is wrong, and with which
    names = {Path(name).name for (name,) in found}
    return [path for path in paths if path.name in names]


def _sql(node: Node) -> str | None:
    """Of what is, or is among, some numbers. Most parts have greater and smaller ones."""
    if isinstance(node, Among):
        return _among(node.left, node.choices)
    if isinstance(node, Binary) and node.operator == "==":
        return _among(node.left, ((node.right, None),))
    return None


def _among(field: Node, choices: Sequence[tuple[Node, Node | None]]) -> str | None:
    if not isinstance(field, Word) or field.name not in _STORED:
        return None
    found = []
    for first, last in choices:
        ends = [int(end.value) for end in (first, last or first) if isinstance(end, Number)]
        if len(ends) < 2:
            return None
        found.append((ends[0], ends[1]))
    return _within(_STORED[field.name], found)


def _within(column: str, ranges: Iterable[tuple[int, int]]) -> str:
    """SQL: a column is in one of some ranges, both ends included."""
    found = [f'"{column}" BETWEEN {first}::UBIGINT AND {last}::UBIGINT' for first, last in ranges]
    return f"({' OR '.join(found)})"
