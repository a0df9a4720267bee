"""Text from traced programs, made safe to print."""


def printable(text: str) -> str:
    """The text with control and other unprintable characters escaped, so that no trace can command a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
