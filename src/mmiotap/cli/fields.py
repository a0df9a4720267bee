"""List the fields of the filter language.

A filter chooses events: show, export, stats, sites and diff take it with --filter.

examples:
  mmiotap show driver.mmiotap --filter 'map == 1 and reg =~ "TX.*" and write and value & 0x80'
  mmiotap show driver.mmiotap --filter 'offset in (0x10, 0x100..0x1ff) and not time < 1.5ms'
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(args: argparse.Namespace) -> int:
    from mmiotap.analysis.filters import FIELDS
    from mmiotap.views.tables import write_table

    columns = ("field", "is", "meaning")
    write_table("Fields", columns, [(name, *about) for name, about in FIELDS.items()], left=len(columns))
    return 0
