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
    terminal = sys.stdout.isatty()
    # Drawn in memory: rich ends a program with status 1 when it writes or flushes to a pipe whose reader has gone.
    drawn = io.StringIO()
    console = Console(file=drawn, force_terminal=terminal, width=None if terminal else PIPE_WIDTH, highlight=False)
    table = Table(box=box.SIMPLE_HEAD if terminal else None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print()
    console.print(Text(title, style="bold"))
    console.print(table)
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in drawn.getvalue().splitlines())
