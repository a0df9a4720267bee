"""Manual pages, made of the parsers: what ``--help`` says, as man(7) wants it."""

import argparse
from collections.abc import Iterator

from mmiotap.version import VERSION


def pages(parser: argparse.ArgumentParser) -> dict[str, str]:
    """The page of each command by its name, ``mmiotap-show``, and that of all, ``mmiotap``."""
    commands = _commands(parser)
    found = {f"{parser.prog}-{name}": _page(f"{parser.prog}-{name}", sub) for name, sub in commands.items()}
    summaries = [line for name, sub in commands.items() for line in _item(f"{parser.prog}-{name}(1)", _summary(sub))]
    also = ", ".join(f"{_bold(name)}(1)" for name in found)
    return {parser.prog: _page(parser.prog, parser, [".SH COMMANDS", *summaries, ".SH SEE ALSO", also])} | found


def _page(name: str, parser: argparse.ArgumentParser, more: list[str] | None = None) -> str:
    text, _, examples = (parser.description or "").partition("\nexamples:\n")
    paragraphs = text.strip().split("\n\n")
    lines = [
        f'.TH {_escaped(name.upper())} 1 "" "mmiotap {VERSION}" "User Commands"',
        ".SH NAME",
        f"{_escaped(name)} \\- {_escaped(_summary(parser))}",
        ".SH SYNOPSIS",
        *_verbatim(parser.format_usage().removeprefix("usage: ").rstrip()),
        ".SH DESCRIPTION",
    ]
    for paragraph in paragraphs:
        lines += [".PP", *map(_escaped, paragraph.splitlines())]
    arguments = [action for action in parser._actions if not _is_commands(action) and not action.option_strings]
    options = [action for action in parser._actions if action.option_strings]
    for title, actions in (("ARGUMENTS", arguments), ("OPTIONS", options)):
        shown = [action for action in actions if action.help is not argparse.SUPPRESS]
        if shown:
            lines.append(f".SH {title}")
        for action in shown:
            lines += _item(_invocation(action), _help(parser, action))
    if examples:
        lines += [".SH EXAMPLES", *_verbatim(examples.rstrip())]
    return "\n".join([*lines, *(more or [])]) + "\n"


def _summary(parser: argparse.ArgumentParser) -> str:
    return (parser.description or "").strip().splitlines()[0].rstrip(".")


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    return parser._get_formatter()._expand_help(action) if action.help else ""


def _invocation(action: argparse.Action) -> str:
    words = action.metavar if isinstance(action.metavar, str) else None
    if words is None:
        words = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()
    if not action.option_strings:
        return words
    names = ", ".join(action.option_strings)
    return names if action.nargs == 0 else f"{names} {words}"


def _item(title: str, text: str) -> list[str]:
    return [".TP", _bold(title), _escaped(text)]


def _verbatim(text: str) -> list[str]:
    return [".nf", *map(_escaped, text.splitlines()), ".fi"]


def _bold(text: str) -> str:
    return f"\\fB{_escaped(text)}\\fR"


def _escaped(text: str) -> str:
    """Text that troff prints as it is: no request, no escape, and hyphens that can be copied."""
    safe = text.replace("\\", "\\e").replace("-", "\\-")
    safe = "".join(c if c.isascii() else f"\\[u{ord(c):04X}]" for c in safe)
    return f"\\&{safe}" if safe.startswith((".", "'")) else safe


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return {name: sub for action in parser._actions if _is_commands(action) for name, sub in _choices(action)}


def _choices(action: argparse.Action) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    assert isinstance(action, argparse._SubParsersAction)
    yield from action.choices.items()


def _is_commands(action: argparse.Action) -> bool:
    return isinstance(action, argparse._SubParsersAction)
