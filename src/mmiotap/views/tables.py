"""Tables on standard output: drawn by rich on a terminal, plain and never cut short in a pipe."""

import sys
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


def console() -> Console:
    """As wide as the terminal; in a pipe as wide as it takes."""
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else 10_000, highlight=False, soft_wrap=False)


def write_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> None:
    """A titled table; the first ``left`` columns are text, the others numbers and so set to the right."""
    out = console()
    out.print()
    out.print(Text(title, style="bold"))
    table = Table(box=box.SIMPLE_HEAD if out.is_terminal else None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    out.print(table)
