"""List the fields of the filter language.

A filter chooses events: show, export, stats, sites and diff take it with --filter.

examples:
  mmiotap show driver.mmiotap --filter 'map == 1 and reg =~ "TX.*" and write and value & 0x80'
  mmiotap show driver.mmiotap --filter 'offset in (0x10, 0x100..0x1ff) and not time < 1.5ms'
"""

import argparse
import sys

from mmiotap.cli import json_option


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=["text", "json"], default="text", help="default: text")
    json_option.add_argument(parser, "json")


def run(args: argparse.Namespace) -> int:
    from mmiotap.analysis.filters import FIELDS

    columns = ("field", "is", "meaning")
    rows = [(name, *about) for name, about in FIELDS.items()]
    if args.format == "json":
        import json

        json.dump([dict(zip(columns, row, strict=True)) for row in rows], sys.stdout, indent=1)
        print()
        return 0
    from mmiotap.views.tables import write_table

    write_table("Fields", columns, rows, left=len(columns))
    return 0
