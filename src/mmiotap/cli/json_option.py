"""``--json``, the same word in all commands that a script may ask."""

import argparse


def add_argument(parser: argparse.ArgumentParser, format: str) -> None:
    """The short form of ``--format FORMAT``, which is what the command has of JSON."""
    parser.add_argument(
        "--json",
        dest="format",
        action="store_const",
        const=format,
        default=argparse.SUPPRESS,
        help=f"the same as --format {format}",
    )
