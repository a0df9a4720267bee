"""Print the manual page of a command, or write all of them.

examples:
  mmiotap man record | man -l -
  mmiotap man -o ~/.local/share/man
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("page", metavar="COMMAND", nargs="?", help="default: the page of mmiotap itself")
    parser.add_argument(
        "-o", "--output", metavar="FOLDER", help="write all pages to FOLDER/man1, where man(1) finds them"
    )


def run(args: argparse.Namespace) -> int:
    from mmiotap.cli import COMMANDS, build_parser
    from mmiotap.trace import store
    from mmiotap.trace.errors import MmiotapError
    from mmiotap.views import manual

    pages = manual.pages(build_parser())
    if args.output is not None:
        if args.page is not None:
            raise MmiotapError("man: give a COMMAND, or -o for all pages, not both")
        folder = Path(args.output) / "man1"
        with store.writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in pages.items():
                (folder / f"{name}.1").write_text(text)
        return 0
    if args.page is not None and args.page not in COMMANDS:
        raise MmiotapError(f"man: there is no command {args.page!r}; there are {', '.join(COMMANDS)}")
    print(pages["mmiotap" if args.page is None else f"mmiotap-{args.page}"], end="")
    return 0
