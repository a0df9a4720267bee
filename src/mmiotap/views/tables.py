"""Tables on standard output: drawn by rich on a terminal, plain and never cut short in a pipe."""

import io
import sys
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

#: Characters; wider than any table.
PIPE_WIDTH = 100_000


def write_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> None:
    """A titled table; the first ``left`` columns are text, the others numbers and so set to the right."""
    right = [number >= left for number in range(len(columns))]
    lines = [*_drawn(Text(title, style="bold"), terminal=sys.stdout.isatty())]
    lines += table_lines(columns, rows, right, terminal=sys.stdout.isatty())
    sys.stdout.writelines(f"{line}\n" for line in ["", *lines])


def table_lines(
    columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool], *, terminal: bool
) -> list[str]:
    """A table; ``right``: whether a column is set to the right."""
    table = Table(box=box.SIMPLE_HEAD if terminal else None, pad_edge=False, header_style="bold")
    for column, is_right in zip(columns, right, strict=True):
        table.add_column(column, justify="right" if is_right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return _drawn(table, terminal=terminal)


def _drawn(what: Table | Text, *, terminal: bool) -> list[str]:
    # In memory: rich ends a program with status 1 when it writes or flushes to a pipe whose reader has gone.
    drawn = io.StringIO()
    width = None if terminal else PIPE_WIDTH
    Console(file=drawn, force_terminal=terminal, width=width, highlight=False).print(what)
    return [line.rstrip() for line in drawn.getvalue().splitlines()]
