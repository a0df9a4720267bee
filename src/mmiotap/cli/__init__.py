"""The command line: ``mmiotap COMMAND …``.

Every command is one module of this package, and every such module follows one small protocol:

* its docstring is the help text, the first line the summary;
* ``add_arguments(parser)`` declares the arguments;
* ``run(args) -> int`` does the work and returns the exit status.

Modules import numpy, pyarrow and the rest of the project inside ``run``, so that ``mmiotap --help`` is instant. A
:class:`~mmiotap.trace.errors.MmiotapError` becomes one line on standard error and exit status 1.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Iterable
from typing import Protocol, cast

from mmiotap.trace.errors import MmiotapError, UsageError
from mmiotap.version import VERSION

COMMANDS = (
    "record",
    "attach",
    "guest",
    "probe",
    "kernel",
    "show",
    "stats",
    "summary",
    "sites",
    "live",
    "info",
    "query",
    "report",
    "plot",
    "fields",
    "annotate",
    "diff",
    "merge",
    "export",
    "import",
    "recover",
    "mark",
    "enable",
    "disable",
    "completion",
    "man",
)


class Command(Protocol):
    """What a module of this package offers."""

    __doc__: str | None

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> int: ...


def load(name: str) -> Command:
    """The module of a command (``import`` is a Python keyword, hence the underscore)."""
    return cast(Command, importlib.import_module(f"mmiotap.cli.{name}_" if name == "import" else f"mmiotap.cli.{name}"))


def build_parser(names: Iterable[str] = COMMANDS) -> argparse.ArgumentParser:
    """The parser of the whole command line, or of some commands only."""
    parser = argparse.ArgumentParser(
        prog="mmiotap", description="What did the driver say to the device? Every MMIO access, recorded and readable."
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name in names:
        module = load(name)
        text = module.__doc__ or ""
        sub = commands.add_parser(
            name,
            help=text.splitlines()[0].rstrip("."),
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point. Exit status: the command's own; 1 for an error, 2 for wrong usage, 130 after Ctrl-C."""
    words = sys.argv[1:] if argv is None else argv
    # To load one command is quick; what one says of itself does not depend on the others.
    parser = build_parser(words[:1] if words and words[0] in COMMANDS else COMMANDS)
    args = parser.parse_args(words)
    if args.version:
        print(f"mmiotap {VERSION}")
        return 0
    if args.command is None:
        parser.print_help()
        return 2
    try:
        status: int = args.run(args)
        sys.stdout.flush()
        return status
    except MmiotapError as error:
        print(f"mmiotap: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except BrokenPipeError:
        # The reader (head, less) has gone; point stdout at nothing so that the interpreter's own flush stays quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"mmiotap: {where}{error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
