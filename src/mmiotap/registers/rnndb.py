"""envytools' rnndb: databases of registers in the XML of rules-ng-ng, with variants of a chip.

Source: the schema rules-ng.xsd that comes with such databases, and the databases themselves (envytools, Mesa).
"""

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, TypeVar

from mmiotap.registers import markup
from mmiotap.registers.effects import RNNDB_ACCESS
from mmiotap.registers.markup import Element
from mmiotap.registers.model import Description, Field, Register, wrong
from mmiotap.registers.tree import MOST, describe
from mmiotap.trace.errors import MmiotapError

_REGISTERS = {"reg8": 1, "reg16": 2, "reg32": 4, "reg64": 8}
#: Elements that are defined by name, wherever they stand.
_NAMED = ("enum", "bitset", "group", "spectype")
_IGNORED = ("doc", "brief", "copyright", "author", "license", "import", "domain", *_NAMED)
#: What else may stand in an element. Documentation may hold anything.
_WITHIN = {
    **dict.fromkeys(("database",), ()),
    **dict.fromkeys(("domain", "group", "array", "stripe"), (*_REGISTERS, "array", "stripe", "use-group")),
    **dict.fromkeys((*_REGISTERS, "bitfield", "spectype"), ("bitfield", "value")),
    "bitset": ("bitfield",),
    "enum": ("value",),
    **dict.fromkeys(("value", "import", "use-group"), ()),
}
#: Types of numbers. "boolean" is a bit's usual one.
_FORMS = {"hex": "hex", "uint": "uint", "int": "int", "boolean": "boolean", "bool": "boolean", "float": "float"}
_FORMS |= {"fixed": "fixed", "ufixed": "ufixed", "address": "hex", "waddress": "hex", "any": "hex"}
_WHOLE = "value"


@dataclass(frozen=True)
class _Scope:
    """What an element inherits.

    :ivar varset: the enum that ``variants`` are values of, if nothing else is said; ``prefix`` names one, too.
    :ivar allowed: of each enum the variants that an element is of, where these are not all.
    """

    varset: str | None = None
    prefix: str | None = None
    allowed: dict[str, frozenset[str]] = field(default_factory=dict)


_T = TypeVar("_T", Register, Field)


@dataclass(frozen=True)
class _Found(Generic[_T]):
    """A register or a field, the variants that it is of, and the element that it is described by."""

    what: _T
    scope: _Scope
    element: Element


def read(path: Path, part: str | None, variants: Sequence[str], root: Element) -> Description:
    """The domain ``part``, which may be left out if there is only one. Raises MmiotapError with place and cause."""
    database = _Database(path, root)
    database.choose(variants)
    domains = {name: found for name, found in database.domains.items() if any(_has_registers(one) for one in found)}
    if part is None and len(domains) > 1:
        raise wrong(path, None, f"it has several domains; choose one, {path.name}:DOMAIN: {', '.join(domains)}")
    if part is not None and part not in domains:
        raise wrong(path, None, f"it has no domain {part!r} with registers; there are {', '.join(domains) or 'none'}")
    registers: list[_Found[Register]] = []
    for name, found in domains.items():
        if part in (None, name):
            registers += [one for domain in found for one in database.registers(domain)]
    for one in registers:
        if not one.what.name:
            raise one.element.error(f"<{one.element.tag}> has no name, and is in nothing that has one")
    _check_places([(one.what.offset, one.what.end, one) for one in registers])
    return describe(f"{path.name}:{part}" if part else path.name, str(path), [one.what for one in registers])


def _has_registers(element: Element) -> bool:
    return any(one.tag in _REGISTERS or one.tag == "use-group" for one in element.all())


class _Database:
    """All files, and what is defined in them by name."""

    def __init__(self, path: Path, root: Element) -> None:
        self._folder = path.parent
        self._seen: set[Path] = set()
        self._chosen: dict[str, str] = {}
        self.domains: dict[str, list[Element]] = {}
        self._named: dict[str, dict[str, Element]] = {tag: {} for tag in _NAMED}
        self._take(root, [path.resolve()])

    # Files

    def _take(self, root: Element, within: list[Path]) -> None:
        if root.tag != "database":
            raise root.error(f"<{root.tag}> is no rnndb; that begins with <database>")
        self._seen.add(within[-1])
        self._check(root)
        for element in root.all():
            if element.tag == "import":
                self._import(element, within)
            elif element.tag == "domain":
                self.domains.setdefault(_name(element), []).append(element)
            elif element.tag in _NAMED:
                same = self._named[element.tag].setdefault(_name(element), element)
                if same is not element:
                    same.children += element.children

    def _check(self, element: Element) -> None:
        allowed = _WITHIN.get(element.tag)
        if allowed is None:
            return
        for child in element.children:
            if child.tag not in allowed and child.tag not in _IGNORED:
                raise child.error(f"<{child.tag}> cannot stand in <{element.tag}>")
            self._check(child)

    def _import(self, element: Element, within: list[Path]) -> None:
        name = element.attributes.get("file")
        if name is None:
            raise element.error("<import> has no file")
        for folder in (element.path.parent, self._folder):
            path = folder / name
            if not path.is_file():
                continue
            if path.resolve() in within:
                raise element.error(f"{name!r} imports itself")
            if path.resolve() not in self._seen:
                self._take(markup.parse(path), [*within, path.resolve()])
            return
        raise element.error(f"there is no file {name!r} to import")

    # Variants

    def choose(self, variants: Sequence[str]) -> None:
        """``SET=NAME``, or NAME if one enum only has such a value."""
        for text in variants:
            enum, given, name = text.rpartition("=")
            enums = [enum] if given else [one for one in self._named["enum"] if name in self._values(one)]
            if len(enums) != 1:
                several = (
                    f"several enums have it ({', '.join(enums)}); write ENUM={name}" if enums else "no enum has it"
                )
                raise MmiotapError(f"--variant {text}: {several}")
            if enums[0] not in self._named["enum"] or name not in self._values(enums[0]):
                raise MmiotapError(f"--variant {text}: there is no such enum, or it has no such value")
            self._chosen[enums[0]] = name

    def _values(self, enum: str) -> list[str]:
        return [_name(one) for one in self._named["enum"][enum].children if one.tag == "value"]

    def _scope(self, element: Element, outer: _Scope) -> _Scope | None:
        """What an element's children inherit; None if it is of other variants than the chosen ones."""
        given = element.attributes
        prefix = given.get("prefix", outer.prefix)
        prefix = None if prefix == "none" else prefix
        varset = given.get("varset") or outer.varset
        scope = replace(outer, prefix=prefix, varset=varset)
        if "variants" not in given:
            return scope
        enum = given.get("varset") or prefix or varset
        if enum is None:
            raise element.error(f"variants={given['variants']!r}, and nothing says of which enum (varset, prefix)")
        if enum not in self._named["enum"]:
            raise element.error(f"variants are values of enum {enum!r}, which is not there")
        mine = frozenset(self._variants(element, self._values(enum), enum)) & outer.allowed.get(
            enum, frozenset(self._values(enum))
        )
        chosen = self._chosen.get(enum)
        if not mine or (chosen is not None and chosen not in mine):
            return None
        return replace(scope, allowed=outer.allowed | {enum: mine})

    @staticmethod
    def _variants(element: Element, values: list[str], enum: str) -> Iterator[str]:
        """``A-B`` ends with B, ``A:B`` before it; either may be left out."""

        def place(name: str, default: int) -> int:
            if name and name not in values:
                raise element.error(f"enum {enum!r} has no variant {name!r}")
            return values.index(name) if name else default

        for word in element.attributes["variants"].split():
            if word in values:
                yield word
            elif ":" in word:
                first, _, last = word.partition(":")
                yield from values[place(first, 0) : place(last, len(values))]
            elif "-" in word:
                first, _, last = word.partition("-")
                yield from values[place(first, 0) : place(last, len(values) - 1) + 1]
            else:
                place(word, 0)

    # Registers

    def registers(self, domain: Element) -> list[_Found[Register]]:
        """All registers of one element of a domain, the offsets in bytes."""
        unit, rest = divmod(domain.number("width", 8), 8)
        if rest or not unit:
            raise domain.error("the width of a domain is a multiple of 8 bits")
        scope = self._scope(domain, _Scope())
        return [] if scope is None else self._inside(domain, scope, unit, ())

    def _inside(self, element: Element, scope: _Scope, unit: int, groups: tuple[str, ...]) -> list[_Found[Register]]:
        found: list[_Found[Register]] = []
        for child in element.children:
            own = self._scope(child, scope) if child.tag not in _IGNORED else None
            if own is None:
                continue
            if child.tag in _REGISTERS:
                found += self._registers(child, own, unit)
            elif child.tag == "use-group":
                name = child.attributes.get("name") or child.attributes.get("ref") or ""
                if name not in self._named["group"]:
                    raise child.error(f"there is no group {name!r}")
                if name in groups:
                    raise child.error(f"group {name!r} is used within itself")
                found += self._inside(self._named["group"][name], own, unit, (*groups, name))
            else:
                needed = None if child.tag == "array" else 0
                offset, length = child.number("offset", needed), child.number("length", None if needed is None else 1)
                inner = self._inside(child, own, unit, groups)
                found += _repeated(child, inner, unit * offset, length, unit * child.number("stride", 0))
            if len(found) > MOST:
                raise child.error(f"more than {MOST} registers")
        return found

    def _registers(self, element: Element, scope: _Scope, unit: int) -> list[_Found[Register]]:
        """A register, or an array of registers."""
        width = _REGISTERS[element.tag]
        access = element.attributes.get("access", "rw")
        if access not in RNNDB_ACCESS:
            raise element.error(f"access={access!r} is none of {', '.join(RNNDB_ACCESS)}")
        fields = self._meaning(element, scope, element, RNNDB_ACCESS[access], *_bits(element, 8 * width), "")
        _check_places([(one.what.lsb, one.what.lsb + one.what.width, one) for one in fields])
        name, length = element.attributes.get("name", ""), element.number("length", 1)
        offset = unit * element.number("offset")
        stride = unit * element.number("stride", max(width // unit, 1))
        path, flat = str(element.path), tuple(one.what for one in fields)
        register = Register(name, offset, width, (), flat, RNNDB_ACCESS[access], path, element.line)
        if length > 1 and stride == width:
            return [_Found(replace(register, counts=(length,)), scope, element)]
        one = _Found(replace(register, name="", offset=0), scope, element)
        return _repeated(element, [one], offset, length, stride)

    # Fields

    def _meaning(
        self, user: Element, scope: _Scope, element: Element, access: str, lsb: int, width: int, name: str
    ) -> list[_Found[Field]]:
        """The fields of bits that ``element`` (a register, a bitfield, or a type that they name) gives a meaning.

        ``user``: the register or bitfield whose bits they are. ``name``: of those bits, "" for a whole register.
        """
        bitfields = [(one, scope) for one in element.children if one.tag == "bitfield"]
        values = [one for one in element.children if one.tag == "value"]
        words = element.attributes.get("type", "").split()
        for word in words:
            if bitset := self._named["bitset"].get(word):
                inner = self._scope(bitset, scope) or scope
                bitfields += [(one, inner) for one in bitset.children if one.tag == "bitfield"]
            elif enum := self._named["enum"].get(word):
                values += [one for one in enum.children if one.tag == "value"]
            elif spectype := self._named["spectype"].get(word):
                return self._meaning(user, scope, spectype, access, lsb, width, name)
            elif word not in _FORMS and word not in self.domains:
                raise element.error(f"there is no type {word!r}")
        if bitfields:
            return [found for one, inner in bitfields for found in self._bitfield(one, inner, access, lsb, width, name)]
        names = self._value_names(values, scope, shared=bool(words), width=width)
        form = _FORMS.get(words[0] if words else "hex", "hex")
        shift, radix = element.number("shr", 0), element.number("radix", 0)
        if not name and not names and form in ("hex", "uint") and not shift:
            return []
        return [_Found(Field(name or _WHOLE, lsb, width, access, names, form, shift, radix, user.line), scope, user)]

    def _bitfield(
        self, element: Element, outer: _Scope, access: str, lsb: int, width: int, name: str
    ) -> list[_Found[Field]]:
        scope = self._scope(element, outer)
        if scope is None:
            return []
        low, own = _bits(element, None)
        if low + own > width:
            raise element.error(f"bits {low} to {low + own - 1} are not in the {width} that there are")
        return self._meaning(element, scope, element, access, lsb + low, own, _joined(name, _name(element)))

    def _value_names(self, values: list[Element], scope: _Scope, *, shared: bool, width: int) -> dict[int, str]:
        """Names of numbers. An enum of several fields may have values that are too large for some of them."""
        names: dict[int, str] = {}
        for one in values:
            if self._scope(one, scope) is not None and "value" in one.attributes:
                number = one.number("value")
                if not shared and number >> width:
                    raise one.error(f"value {number:#x} does not fit into {width} bits")
                if not number >> width:
                    names.setdefault(number, _name(one))
        return names


def _repeated(
    element: Element, inner: list[_Found[Register]], offset: int, length: int, stride: int
) -> list[_Found[Register]]:
    """The registers of each element of an array, a stripe, or a register."""
    if length > 1 and not stride:
        raise element.error(f"<{element.tag}> of length {length} has no stride")
    if length * len(inner) > MOST:
        raise element.error(f"more than {MOST} registers")
    name = element.attributes.get("name", "")
    found = []
    for index in range(length):
        scope, begin = f"{name}[{index}]" if length > 1 else name, offset + index * stride
        found += [
            replace(one, what=replace(one.what, name=_joined(scope, one.what.name), offset=begin + one.what.offset))
            for one in inner
        ]
    return found


def _name(element: Element) -> str:
    if "name" not in element.attributes:
        raise element.error(f"<{element.tag}> has no name")
    return element.attributes["name"]


def _joined(scope: str, name: str) -> str:
    return ".".join(one for one in (scope, name) if one)


def _bits(element: Element, width: int | None) -> tuple[int, int]:
    """The lowest bit and the number of bits of an element; ``width`` where it does not say."""
    if "pos" in element.attributes:
        return element.number("pos"), 1
    if width is not None and not {"low", "high"} & element.attributes.keys():
        return 0, width
    low, high = element.number("low"), element.number("high")
    if not 0 <= low <= high:
        raise element.error(f"low={low} and high={high} are no bits")
    return low, high - low + 1


def _check_places(found: Sequence[tuple[int, int, _Found[_T]]]) -> None:
    """What is at one place, and of different variants: one of these has to be chosen. Places: begin and end."""
    ordered = sorted(found, key=lambda place: place[0])
    begins = [begin for begin, _, _ in ordered]
    for number, (_, end, one) in enumerate(ordered):
        for _, _, other in ordered[number + 1 : bisect.bisect_left(begins, end)]:
            for enum in one.scope.allowed.keys() & other.scope.allowed.keys():
                if not one.scope.allowed[enum] & other.scope.allowed[enum]:
                    names = " and ".join(dict.fromkeys((one.what.name, other.what.name)))
                    variant = min(other.scope.allowed[enum])
                    raise other.element.error(
                        f"{names}: which is there depends on the variant; choose one, as --variant {enum}={variant}"
                    )
