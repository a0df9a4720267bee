"""Text from traced programs, made safe to print."""

import io
import sys


def accept_all_text() -> None:
    """Let standard output escape what its encoding does not have, instead of failing half-way."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def printable(text: str) -> str:
    """The text with control and other unprintable characters escaped, so that no trace can command a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
