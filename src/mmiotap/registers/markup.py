"""XML as elements that know their lines, which is what the one line about an error needs."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from mmiotap.registers.model import wrong
from mmiotap.trace.errors import MmiotapError


@dataclass
class Element:
    """``tag`` is without its namespace, ``text`` what stands before the first child."""

    path: Path
    line: int
    tag: str
    attributes: dict[str, str]
    children: list["Element"] = field(default_factory=list)
    text: str = ""

    def error(self, cause: str) -> MmiotapError:
        return wrong(self.path, self.line, cause)

    def all(self) -> Iterator["Element"]:
        """This one and all within it."""
        yield self
        for child in self.children:
            yield from child.all()

    def number(self, name: str, default: int | None = None) -> int:
        """An attribute that is a number. Raises MmiotapError if it is none, or is needed and is not there."""
        text = self.attributes.get(name)
        if text is None:
            if default is None:
                raise self.error(f"<{self.tag}> has no {name}")
            return default
        try:
            return int(text, 0)
        except ValueError:
            raise self.error(f"{name}={text!r} is no number") from None


def parse(path: Path) -> Element:
    """The root of a file. Raises MmiotapError if it is not XML, or cannot be read."""
    top = Element(path, 0, "", {})
    open_elements = [top]
    parser = expat.ParserCreate()

    def start(tag: str, attributes: dict[str, str]) -> None:
        one = Element(path, parser.CurrentLineNumber, tag.rpartition(":")[2], attributes)
        open_elements[-1].children.append(one)
        open_elements.append(one)

    def text(data: str) -> None:
        if not open_elements[-1].children:
            open_elements[-1].text += data

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _tag: open_elements.pop()
    parser.CharacterDataHandler = text
    try:
        parser.Parse(path.read_bytes(), True)
    except expat.ExpatError as error:
        raise wrong(path, error.lineno, f"this is no XML: {expat.ErrorString(error.code)}") from error
    except OSError as error:
        raise wrong(path, None, error.strerror or str(error)) from error
    return top.children[0]
