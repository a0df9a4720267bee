"""What a filter means for a trace: one pyarrow expression, and of names of registers what comes after decoding.

A field that an event does not have makes every comparison false: a mark has no offset, and so neither ``offset == 8``
nor ``offset != 8`` holds of it, but ``not offset == 8`` does.
"""

import difflib
import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmiotap.analysis import narrow
from mmiotap.analysis.clock import start_ns
from mmiotap.analysis.filter_language import Among, Binary, Node, Number, Prefix, Text, Word, parse, wrong
from mmiotap.analysis.select import ACCESSES
from mmiotap.registers.decode import COLUMNS, Decoder
from mmiotap.trace import layout
from mmiotap.trace.model import Mapping
from mmiotap.trace.names import glob_matches
from mmiotap.trace.reader import Trace
from mmiotap.trace.schema import KINDS

#: Field, what it is, and what it says.
FIELDS = {
    "kind": ("text", f"{', '.join(KINDS.values())}; each but map is a field, too: true for these events"),
    "access": ("truth", "read, write or unknown"),
    "offset": ("bits", "where an access begins in its mapping"),
    "width": ("bits", "bytes of an access"),
    "value": ("bits", "what was read or written, if it is known; the low 8 bytes of a wider one"),
    "known": ("truth", "the value is known"),
    "reg": ("name", "name of the register, if a description names it"),
    "fields": ("name", "the fields of its value, as show has them"),
    "map": ("map", "the mapping: its id, or as text its path, name or device; == takes a glob, =~ sees the path"),
    "device": ("of map", "device of the mapping: PCI address, or name in /dev"),
    "time": ("time", "since the start of the trace"),
    "duration": ("time", "how long the access took, if it was recorded"),
    "pc": ("bits", "address of the instruction"),
    "pid": ("number", "process"),
    "tid": ("number", "thread"),
    "cpu": ("number", "processor, if it is known"),
    "flags": ("bits", "as a number; trace-format.md has the bits"),
    "text": ("text", "what a mark says"),
    "source": ("text", "of a merged trace: where the event is from"),
}  # fmt: skip

_FLAGS = {
    "rmw": (layout.RMW, "one half of a read-modify-write"),
    "locked": (layout.LOCKED, "a locked access"),
    "patched": (layout.PATCHED, "went through a patched site"),
    "string": (layout.STRING, "an element of a string instruction"),
    "nontemporal": (layout.NONTEMPORAL, "a non-temporal access"),
    "stepped": (layout.STEPPED, "run in place with the page open"),
    "hooked": (layout.HOOKED, "a hook has answered, swallowed or changed it"),
    "syscall": (layout.SYSCALL, "made by the kernel, in a system call of the program's"),
}
FIELDS |= {kind: ("truth", f"kind is {kind}") for kind in KINDS.values() if kind != "map"}
FIELDS |= {name: ("truth", meaning) for name, (_, meaning) in _FLAGS.items()}

_MASK = 2**64 - 1
_ORDER: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_BITS: dict[str, tuple[Callable[[Any, Any], Any], Callable[[int, int], int]]] = {
    "&": (pc.bit_wise_and, operator.and_),
    "|": (pc.bit_wise_or, operator.or_),
    "^": (pc.bit_wise_xor, operator.xor),
    "<<": (pc.shift_left, lambda a, b: a << b & _MASK),
    ">>": (pc.shift_right, operator.rshift),
}
_SAYS = {"text": "a text", "constant": "a number", "constant time": "a time"}
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


@dataclass
class Filter:
    """What :meth:`mmiotap.trace.reader.Trace.only` needs of a filter.

    :ivar where: what storage can decide; with names, a part of it at most.
    :ivar columns: what :meth:`keep` needs.
    :ivar sql: what tells apart the parts that can have such events (:mod:`mmiotap.analysis.narrow`).
    """

    where: pc.Expression | None
    columns: tuple[str, ...] = ()
    _rest: pc.Expression | None = None
    _names: "list[_Name]" = field(default_factory=list)
    _decoder: Decoder | None = None
    sql: str | None = None

    def parts(self, paths: Sequence[Path]) -> Sequence[Path]:
        """Those parts that can have a row that matches."""
        return paths if self.sql is None or not paths else narrow.parts(paths, self.sql)

    def keep(self, table: pa.Table) -> pa.Table:
        """The rows that match, of those that ``where`` has let through."""
        if self._rest is None or self._decoder is None:
            return table
        decoded = self._decoder.decode(table)
        asked = table
        for number, name in enumerate(self._names):
            asked = asked.append_column(f"_{number}", name.matches(getattr(decoded, name.column)))
        return asked.filter(self._rest).select(table.schema.names)


def compiled(text: str, trace: Trace, decoder: Callable[[], Decoder | None]) -> Filter:
    """A filter for this trace. ``decoder`` is asked for only if the filter has names. Raises FilterError."""
    compiler = _Compiler(trace)
    nodes = _conjunction(parse(text))
    terms = [compiler.term(node) for node in nodes]
    sql = narrow.condition(nodes)
    where = [expression for expression, named in terms if not named]
    if not compiler.names:
        return Filter(_all(where), sql=sql)
    decoding = decoder()
    if decoding is None:
        raise wrong(compiler.names[0].at, "nothing names this trace's registers; give a description with --regs")
    rest = _all([expression for expression, named in terms if named])
    return Filter(_all(where), tuple(compiler.columns), rest, compiler.names, decoding, sql)


def _conjunction(node: Node) -> list[Node]:
    if isinstance(node, Binary) and node.operator == "and":
        return [*_conjunction(node.left), *_conjunction(node.right)]
    return [node]


def _all(parts: Sequence[Any]) -> Any:
    return functools.reduce(operator.and_, parts) if parts else None


@dataclass(frozen=True)
class _Name:
    """A question about names, decided by the few that a batch has."""

    at: int
    column: str
    operator: str
    text: str

    def matches(self, column: Any) -> Any:
        values = column.dictionary
        if self.operator in ("=~", "!~"):
            found = pc.match_substring_regex(values, self.text)
        else:
            found = pc.equal(values, pa.scalar(self.text))
        if self.operator in ("!=", "!~"):
            found = pc.invert(found)
        return pc.fill_null(found.take(column.indices), False)


@dataclass(frozen=True)
class _Operand:
    """A value. ``constant`` or ``expression`` is set; ``present`` says of which events it is one at all."""

    at: int
    kind: str  #: bits, number, time, text, name, map, of map; of constants: constant, constant time, text
    expression: Any = None
    constant: Any = None
    present: tuple[Any, ...] = ()
    name: str = ""


class _Compiler:
    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._start: int | None = None
        self.names: list[_Name] = []
        self.columns = dict.fromkeys(COLUMNS)  # that deciding after decoding needs

    def term(self, node: Node) -> tuple[Any, bool]:
        """A truth, and whether it depends on names."""
        before = len(self.names)
        return self._truth(node), len(self.names) > before

    def _truth(self, node: Node) -> Any:
        if isinstance(node, Prefix) and node.operator == "not":
            return ~self._truth(node.operand)
        if isinstance(node, Binary) and node.operator in ("and", "or"):
            join = operator.and_ if node.operator == "and" else operator.or_
            return join(self._truth(node.left), self._truth(node.right))
        if isinstance(node, Binary) and (node.operator in _ORDER or node.operator in ("=~", "!~")):
            return self._comparison(node)
        if isinstance(node, Among):
            return functools.reduce(operator.or_, [self._choice(node, *choice) for choice in node.choices])
        if isinstance(node, Word) and _kind(node) == "truth":
            return _truths()[node.name]
        found = self._value(node)
        if found.kind != "bits":
            raise wrong(node.at, f"{_shown(node)} is neither true nor false; compare it with something")
        return _all([*found.present, found.expression != pa.scalar(0, pa.uint64())])

    def _choice(self, node: Among, first: Node, last: Node | None) -> Any:
        if last is None:
            return self._comparison(Binary(node.at, "==", node.left, first))
        low = self._comparison(Binary(node.at, ">=", node.left, first))
        return low & self._comparison(Binary(node.at, "<=", node.left, last))

    def _comparison(self, node: Binary) -> Any:
        sign = node.operator
        left = self._value(node.left)
        right = self._value(node.right, word_of=left)
        if left.expression is None and left.kind in ("constant", "constant time", "text") and right.constant is None:
            left, right, sign = right, left, _MIRRORED.get(sign, sign)
        if left.constant is not None:
            raise wrong(node.at, "compares two constants; there must be a field")
        if left.kind in ("text", "name", "map", "of map") and right.kind == "text" and right.constant is not None:
            return self._text(left, sign, right)
        if sign in ("=~", "!~"):
            raise wrong(node.at, f'"{sign}" compares a text field with a "text"')
        return _compared(left, sign, self._fitting(left, right))

    def _fitting(self, left: _Operand, right: _Operand) -> _Operand:
        """The other side of a comparison, of the same kind."""
        kind = "number" if left.kind == "map" else left.kind
        if right.constant is None:
            same = kind == ("number" if right.kind == "map" else right.kind)
            if same and (kind in ("bits", "number") or (kind == "time" and left.name == right.name)):
                return right
            raise wrong(right.at, f"{left.name or 'this'} cannot be compared with {right.name or 'that'}")
        if right.kind == "text" or kind not in ("bits", "number", "time"):
            wanted = "a text" if kind in ("text", "name", "of map") else "a time" if kind == "time" else "a number"
            raise wrong(right.at, f"{left.name or 'this'} is compared with {wanted}, not with {_SAYS[right.kind]}")
        number: Decimal = right.constant
        if kind == "time":
            number = number if right.kind == "constant time" else number * 10**9
            if left.name == "time":
                number += self._start_ns
        elif right.kind == "constant time":
            raise wrong(right.at, f"{left.name or 'this'} is no time, and has no unit")
        if number != int(number):
            raise wrong(
                right.at, f"{left.name or 'this'} has no fractions{' of nanoseconds' if kind == 'time' else ''}"
            )
        return _Operand(right.at, kind, constant=_within(right.at, int(number), kind))

    def _text(self, left: _Operand, sign: str, right: _Operand) -> Any:
        if sign not in ("==", "!=", "=~", "!~"):
            raise wrong(right.at, f'{left.name} is a text; it can be compared by ==, !=, =~ and !~, not "{sign}"')
        text: str = right.constant
        if sign in ("=~", "!~"):
            _check_pattern(right.at, text)
        if left.kind == "name":
            column = {"reg": "register", "fields": "fields"}[left.name]
            self.names.append(_Name(left.at, column, sign, text))
            return pc.field(f"_{len(self.names) - 1}")
        if left.kind in ("map", "of map"):
            return self._by_mapping(left, sign, text)
        if left.name == "kind" and sign in ("==", "!=") and text not in KINDS.values():
            raise wrong(right.at, f'no kind of event is "{text}"; kinds are {", ".join(KINDS.values())}')
        seen: Any = pc.field(left.name)
        regular = sign in ("=~", "!~")
        matching: Any = pc.match_substring_regex(seen.cast(pa.string()), text) if regular else seen.isin([text])
        return _all([seen.is_valid(), ~matching if sign in ("!=", "!~") else matching])

    def _by_mapping(self, left: _Operand, sign: str, text: str) -> Any:
        """The mappings are few; which of them are meant is decided here."""

        def means(one: Mapping) -> bool:
            seen = one.path if left.kind == "map" else one.device
            if seen is None:
                return False
            if sign in ("=~", "!~"):
                found = bool(pc.match_substring_regex(pa.array([seen]), text)[0].as_py())
            else:
                found = glob_matches(text, one) if left.kind == "map" else seen == text
            return found == (sign in ("==", "=~"))

        ids = [one.map_id for one in self._trace.mappings if means(one)]
        return pc.field("map_id").isin(pa.array(ids, pa.int32()))

    def _value(self, node: Node, word_of: _Operand | None = None) -> _Operand:
        """``word_of``: what it is compared with, for words that are the values of a field."""
        if isinstance(node, Number):
            return _Operand(node.at, "constant time" if node.has_unit else "constant", constant=node.value)
        if isinstance(node, Text):
            return _Operand(node.at, "text", constant=node.value)
        if isinstance(node, Word):
            if word_of is not None and word_of.name in ("kind", "source"):
                return _Operand(node.at, "text", constant=node.name)
            return self._field(node)
        if isinstance(node, Prefix) and node.operator == "-":
            found = self._value(node.operand)
            if not isinstance(found.constant, Decimal):
                raise wrong(node.at, '"-" is the sign of a number')
            return _Operand(node.at, found.kind, constant=-found.constant)
        if isinstance(node, Prefix) and node.operator == "~":
            found = self._bits(node.operand, "~")
            if found.constant is not None:
                return _Operand(node.at, "constant", constant=Decimal(~int(found.constant) & _MASK))
            return _Operand(node.at, "bits", pc.bit_wise_not(found.expression), present=found.present)
        if isinstance(node, Binary) and node.operator in _BITS:
            return self._combined(node)
        raise wrong(node.at, "expected a value, not something true or false")

    def _combined(self, node: Binary) -> _Operand:
        apply, fold = _BITS[node.operator]
        left, right = self._bits(node.left, node.operator), self._bits(node.right, node.operator)
        if node.operator in ("<<", ">>") and (right.constant is None or right.constant > 63):
            raise wrong(right.at, f'"{node.operator}" shifts by a number from 0 to 63')
        if left.constant is not None and right.constant is not None:
            return _Operand(node.at, "constant", constant=Decimal(fold(int(left.constant), int(right.constant))))
        return _Operand(
            node.at, "bits", apply(_expression(left), _expression(right)), present=(*left.present, *right.present)
        )

    def _bits(self, node: Node, sign: str) -> _Operand:
        found = self._value(node)
        if found.kind == "constant":
            if found.constant != int(found.constant):
                raise wrong(found.at, f'"{sign}" takes whole numbers')
            return _Operand(found.at, "bits", constant=_within(found.at, int(found.constant), "bits"))
        if found.kind != "bits":
            raise wrong(found.at, f'"{sign}" takes numbers of bits, not {found.name or "that"}')
        return found

    def _field(self, node: Word) -> _Operand:
        kind, name = _kind(node), node.name
        if kind == "truth":
            raise wrong(node.at, f"{name} is true or false, and has no value")
        if name == "source" and not self._trace.sources:
            raise wrong(node.at, "only a merged trace has sources")
        stored = {"map": "map_id", "time": "time_ns", "duration": "duration_ns"}.get(name, name)
        if kind not in ("name", "of map"):
            self.columns[stored] = None
        column = pc.field(stored)
        present: tuple[Any, ...] = ()
        if name in ("offset", "width", "value"):
            present = (_truths()["known"] if name == "value" else _truths()["access"],)
        elif name == "cpu":
            present = (column >= pa.scalar(0, pa.int16()),)
        elif name == "duration":
            present = (column.is_valid(),)
        if kind == "bits":
            column = column.cast(pa.uint64())
        elif kind in ("number", "map") or name == "duration":
            column = column.cast(pa.int64())
        return _Operand(node.at, kind, column, present=present, name=name)

    @property
    def _start_ns(self) -> int:
        if self._start is None:
            self._start = start_ns(self._trace)
        return self._start


def _kind(node: Word) -> str:
    if node.name not in FIELDS:
        near = difflib.get_close_matches(node.name, FIELDS, 1, 0.5)
        meant = f'; did you mean "{near[0]}"?' if near else ";"
        raise wrong(node.at, f'no field is "{node.name}"{meant} mmiotap fields lists them')
    return FIELDS[node.name][0]


def _shown(node: Node) -> str:
    return node.name if isinstance(node, Word) else "this"


@functools.cache
def _truths() -> dict[str, Any]:
    kind, flags = pc.field("kind"), pc.field("flags")

    def has(flag: int) -> Any:
        bits: Any = pc.bit_wise_and(flags, _scalar(flag, pa.uint32()))
        return bits != pa.scalar(0, pa.uint32())

    return (
        {word: kind.isin([word]) for word in KINDS.values() if word != "map"}
        | {name: has(flag) for name, (flag, _) in _FLAGS.items()}
        | {"access": kind.isin(list(ACCESSES)), "known": kind.isin(["read", "write"]) & ~has(layout.VALUE_UNKNOWN)}
    )


def _within(at: int, number: int, kind: str) -> int:
    low, high = (0, _MASK) if kind == "bits" else (-(2**63), 2**63 - 1)
    if not low <= number <= high:
        raise wrong(at, "less than 0" if kind == "bits" and number < 0 else "more than 64 bits")
    return number


def _expression(one: _Operand) -> Any:
    if one.constant is None:
        return one.expression
    return _scalar(int(one.constant), pa.uint64() if one.kind == "bits" else pa.int64())


def _scalar(number: int, kind: Any) -> Any:
    typed: Any = pa.scalar(number, kind)
    return pc.scalar(typed)


def _compared(left: _Operand, sign: str, right: _Operand) -> Any:
    return _all([*left.present, *right.present, _ORDER[sign](left.expression, _expression(right))])


def _check_pattern(at: int, pattern: str) -> None:
    try:
        pc.match_substring_regex(pa.array([""]), pattern)
    except pa.ArrowInvalid as error:
        raise wrong(at, f"no regular expression: {' '.join(str(error).split())}") from error
