"""The filter language: from text to a tree. What the words mean is :mod:`mmiotap.analysis.filters`' business.

A parser by binding powers (Pratt, 1973), written out: it is shorter than a grammar for a library and its glue would be,
and says what it expected where.
"""

import re
from dataclasses import dataclass
from decimal import Decimal

from mmiotap.analysis.select import UNITS, FilterError

#: Operators in a filter; more are no sensible question, and would be a deep recursion.
MOST = 150

COMPARISONS = ("==", "!=", "<=", ">=", "<", ">", "=~", "!~")

#: How strongly operators between two values bind.
_POWERS = {"or": 1, "and": 2, "in": 4, **dict.fromkeys(COMPARISONS, 4), "|": 5, "^": 6, "&": 7, "<<": 8, ">>": 8}
_PREFIXES = {"not": 3, "~": 9, "-": 9}

_TOKEN = re.compile(
    r"""(?P<number>(?:0x[0-9a-fA-F]+|0b[01]+|[0-9]+(?:\.[0-9]+)?(?:ns|us|µs|ms|s)?)(?!\w))
    | (?P<text>"(?:\\"|[^"])*"|'(?:\\'|[^'])*')
    | (?P<word>[A-Za-z_]\w*)
    | (?P<sign>==|!=|<=|>=|=~|!~|<<|>>|\.\.|[<>&|^~(),-])""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Number:
    """A number, in nanoseconds if it has a unit."""

    at: int
    value: Decimal
    has_unit: bool


@dataclass(frozen=True)
class Text:
    at: int
    value: str


@dataclass(frozen=True)
class Word:
    """The name of a field."""

    at: int
    name: str


@dataclass(frozen=True)
class Prefix:
    at: int
    operator: str
    operand: "Node"


@dataclass(frozen=True)
class Binary:
    at: int
    operator: str
    left: "Node"
    right: "Node"


@dataclass(frozen=True)
class Among:
    """``x in (a, b..c)``: each choice is one value, or the first and the last of some."""

    at: int
    left: "Node"
    choices: tuple[tuple["Node", "Node | None"], ...]


Node = Number | Text | Word | Prefix | Binary | Among


def wrong(at: int, cause: str) -> FilterError:
    """``at`` counts characters from 0, the message from 1."""
    return FilterError(f"filter: column {at + 1}: {cause}")


def parse(text: str) -> Node:
    """Raises FilterError."""
    parser = _Parser(text)
    node = parser.expression(0)
    if parser.kind != "end":
        raise wrong(parser.at, f"expected an operator, not {parser.shown}")
    return node


class _Parser:
    """The token that comes next is in ``kind``, ``word`` and ``at``."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._end = 0
        self._operators = 0
        self._last = ""
        self.kind = self.word = ""
        self.at = 0
        self._next()

    @property
    def shown(self) -> str:
        return "the end" if self.kind == "end" else f'"{self.word}"' if self.kind != "text" else self.word

    def expression(self, power: int) -> Node:
        left = self._operand()
        while (mine := _POWERS.get(self.word if self.kind in ("word", "sign") else "", 0)) > power:
            at, operator = self.at, self._operator()
            if operator == "in":
                left = Among(at, left, self._choices())
            else:
                left = Binary(at, operator, left, self.expression(mine))
            if mine == _POWERS["=="] and _POWERS.get(self.word) == mine and self.kind != "text":
                raise wrong(self.at, f'"{self.word}" cannot follow another comparison; join them with "and"')
        return left

    def _operand(self) -> Node:
        at, kind, word = self.at, self.kind, self.word
        if word in _PREFIXES and kind in ("word", "sign"):
            self._operator()
            return Prefix(at, word, self.expression(_PREFIXES[word]))
        if kind == "sign" and word == "(":
            self._operator()
            inner = self.expression(0)
            self._closing(at)
            return inner
        if kind in ("end", "sign") or word in _POWERS:
            behind = f' after "{self._last}"' if self._last else ""
            raise wrong(at, f"expected a value{behind}{'' if kind == 'end' else f', not {self.shown}'}")
        self._next()
        if kind == "number":
            return _number(at, word)
        if kind == "text":
            return Text(at, word[1:-1].replace(f"\\{word[0]}", word[0]))
        return Word(at, word)

    def _choices(self) -> tuple[tuple[Node, Node | None], ...]:
        at = self.at
        if self.word != "(" or self.kind != "sign":
            return (self._choice(),)
        self._operator()
        choices = [self._choice()]
        while self.word == "," and self.kind == "sign":
            self._operator()
            choices.append(self._choice())
        self._closing(at)
        return tuple(choices)

    def _choice(self) -> tuple[Node, Node | None]:
        first = self.expression(_POWERS["in"])
        if self.word != ".." or self.kind != "sign":
            return first, None
        self._operator()
        return first, self.expression(_POWERS["in"])

    def _closing(self, opened: int) -> None:
        if self.word != ")" or self.kind != "sign":
            raise wrong(self.at, f'expected ")" for the "(" of column {opened + 1}, not {self.shown}')
        self._next()

    def _operator(self) -> str:
        self._operators += 1
        if self._operators > MOST:
            raise wrong(self.at, f"too long; a filter has at most {MOST} operators")
        operator = self.word
        self._next()
        return operator

    def _next(self) -> None:
        self._last = self.word
        begin = self._end + len(self._text[self._end :]) - len(self._text[self._end :].lstrip())
        self.at = begin
        if begin == len(self._text):
            self.kind, self.word = "end", ""
            return
        found = _TOKEN.match(self._text, begin)
        if found is None:
            raise wrong(begin, _unread(self._text[begin:]))
        self.kind, self.word, self._end = str(found.lastgroup), found[0], found.end()


def _number(at: int, word: str) -> Number:
    if word.startswith(("0x", "0b")):
        return Number(at, Decimal(int(word, 0)), False)
    digits = word.rstrip("nuµms")
    return Number(at, Decimal(digits) * UNITS.get(word[len(digits) :], 1), digits != word)


def _unread(rest: str) -> str:
    if rest[0] in "\"'":
        return f"the text has no closing {rest[0]}"
    if rest[0] == "=":
        return 'expected "==", not "="'
    run = re.match(r"\w+", rest)
    return f'"{run[0]}" is no number' if run else f"{rest[0]!r} has no meaning here"
