"""Print a script that completes mmiotap's command line in a shell.

examples:
  mmiotap completion bash > ~/.local/share/bash-completion/completions/mmiotap
  mmiotap completion zsh > ~/.zfunc/_mmiotap
  mmiotap completion fish > ~/.config/fish/completions/mmiotap.fish
"""

import argparse
from collections.abc import Iterator

SHELLS = ("bash", "zsh", "fish")
#: What stands for a file or folder in the help.
_FILES = ("TRACE", "FILE", "LOG", "A", "B", "SCRIPT", "FOLDER")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="for which shell")


def run(args: argparse.Namespace) -> int:
    import shtab

    from mmiotap.cli import build_parser

    parser = build_parser()
    for action in _actions(parser):
        if isinstance(action.metavar, str) and action.metavar.split("[")[0] in _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, args.shell))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Those of a parser, and of the parsers of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from _actions(one)
