"""CMSIS-SVD, by cmsis-svd. What that passes over in silence is looked for first, with lines, which it does not keep."""

import bisect
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cmsis_svd.model import SVDFieldArray, SVDRegisterArray, SVDRegisterClusterArray
from cmsis_svd.parser import SVDParser

from mmiotap.registers.effects import SVD_ACCESS, SVD_READ, SVD_WRITE, word
from mmiotap.registers.markup import Element
from mmiotap.registers.model import Description, Field, Register, wrong
from mmiotap.registers.tree import describe

#: Elements with a name; a register's in its fields' lines.
_NAMED = ("peripheral", "cluster", "register", "field")
_NEEDED = {"peripheral": "baseAddress", "cluster": "addressOffset", "register": "addressOffset"}
_NUMBERS = ("baseAddress", "addressOffset", "size", "bitOffset", "bitWidth", "lsb", "msb", "dim", "dimIncrement")
_SIZES = (8, 16, 32, 64, 128)
#: Registers and fields of a file, with those that arrays stand for.
_MOST = 1 << 18
#: Words of the standard, and what cmsis-svd takes for one of them.
_WORDS = {
    "access": (*SVD_ACCESS, "writeonce", "read-writeonce", "write"),
    "modifiedWriteValues": tuple(SVD_WRITE),
    "readAction": tuple(SVD_READ),
}


def read(path: Path, part: str | None, root: Element) -> Description:
    """The peripheral ``part``, from its begin; or the whole device, by bus addresses. One that has a single peripheral
    is that. Raises MmiotapError with place and cause."""
    _check(root)
    try:
        device: Any = SVDParser.for_xml_file(str(path)).get_device()
        peripherals = device.get_peripherals()
    except Exception as error:
        raise wrong(path, None, f"cmsis-svd cannot read it: {type(error).__name__}: {error}") from error
    names = [one.name for one in peripherals]
    if part is not None and part not in names:
        there = ", ".join(names[:10]) + (" …" if len(names) > 10 else "")
        raise wrong(path, None, f"it has no peripheral {part!r}; there are {there or 'none'}")
    chosen = [one for one in peripherals if part in (None, one.name)]
    single = len(chosen) == 1
    reader = _Reader(str(path), root)
    registers = [
        one
        for peripheral in chosen
        for one in reader.peripheral(
            peripheral, "" if single else f"{peripheral.name}.", 0 if single else peripheral.base_address
        )
    ]
    name = f"{path.name}:{part}" if part else path.name
    return describe(name, str(path), reader.without_alternates(registers), absolute=not single)


def _check(root: Element) -> None:
    names: dict[str, set[str]] = {tag: set() for tag in (*_NAMED, "enumeratedValues")}
    for element in root.all():
        if element.tag in names and (name := _child(element, "name")):
            names[element.tag].add(name.text.strip())
    for element in root.all():
        if element.tag in _NAMED:
            _check_named(element)
        source = element.attributes.get("derivedFrom", "") if element.tag in names else ""
        if source and source.rpartition(".")[2] not in names[element.tag]:
            raise element.error(f"it is derived from {element.tag} {source!r}, which is not there")
        if element.tag in _WORDS and element.text.strip() not in _WORDS[element.tag]:
            words = ", ".join(_WORDS[element.tag])
            raise element.error(f"<{element.tag}> {element.text.strip()!r} is none of {words}")
        if element.tag in _NUMBERS and not _is_number(element.text.strip()):
            raise element.error(f"<{element.tag}> {element.text.strip()!r} is no number")
        if element.tag == "size" and _number(element) not in _SIZES:
            raise element.error(f"a register has {', '.join(map(str, _SIZES))} bits, not {element.text.strip()}")
    _count(root)


def _count(element: Element) -> int:
    """How many registers and fields an element stands for; cmsis-svd makes all of them."""
    dim = _child(element, "dim")
    times = 1 if dim is None else _number(dim)
    found = times * ((element.tag in ("register", "field")) + sum(map(_count, element.children)))
    if found > _MOST:
        raise element.error(f"<{element.tag}> stands for {found} registers and fields; more than {_MOST} are too many")
    return found


def _check_named(element: Element) -> None:
    if _child(element, "name") is None:
        raise element.error(f"<{element.tag}> has no <name>")
    needed = _NEEDED.get(element.tag)
    if needed and _child(element, needed) is None:
        raise element.error(f"<{element.tag}> has no <{needed}>")
    if element.tag == "field" and "derivedFrom" not in element.attributes:
        ways = (("bitOffset",), ("lsb", "msb"), ("bitRange",))
        if not any(all(_child(element, one) for one in way) for way in ways):
            raise element.error("<field> has neither <bitOffset>, <lsb> and <msb>, nor <bitRange>")


def _child(element: Element, tag: str) -> Element | None:
    return next((one for one in element.children if one.tag == tag), None)


def _is_number(text: str) -> bool:
    """scaledNonNegativeInteger of the standard: decimal, 0x…, #binary."""
    return re.fullmatch(r"\+?(0x[0-9a-f]+|[0-9]+|#[01x]+)", text, re.IGNORECASE) is not None


def _number(element: Element) -> int:
    """Of an element that is one."""
    text = element.text.strip().lower().lstrip("+")
    return int(text[1:].replace("x", "0"), 2) if text.startswith("#") else int(text, 16 if "x" in text else 10)


class _Reader:
    def __init__(self, path: str, root: Element) -> None:
        self._path = path
        #: Of registers, and of fields in registers; in the peripheral (0: any) with this line.
        self._lines: dict[tuple[str, str, str], int] = {}
        for peripheral in (one for one in root.all() if one.tag == "peripheral"):
            for register in (one for one in peripheral.all() if one.tag == "register"):
                self._note(peripheral, register, None)
                for field in (one for one in register.all() if one.tag == "field"):
                    self._note(peripheral, register, field)
        self._alternates: list[Register] = []

    def _note(self, peripheral: Element, register: Element, field: Element | None) -> None:
        names = [_text(one) if one else "" for one in (peripheral, register, field)]
        line = (field or register).line
        self._lines.setdefault((names[0], names[1], names[2]), line)
        self._lines.setdefault(("", names[1], names[2]), line)

    def _line(self, peripheral: str, register: str, field: str = "") -> int:
        """Where it is described; what a peripheral is derived from has it elsewhere."""
        found = self._lines.get((peripheral, register, field)) or self._lines.get(("", register, field))
        return found or (self._line(peripheral, register) if field else 0)

    def peripheral(self, peripheral: Any, prefix: str, base: int) -> Iterator[Register]:
        return self._inside(peripheral.registers or (), str(peripheral.name), prefix, base, "")

    def without_alternates(self, registers: list[Register]) -> list[Register]:
        """Alternate descriptions of a place are left out where it has another."""
        alternates = set(map(id, self._alternates))
        rest = [one for one in registers if id(one) not in alternates]
        starts = sorted(one.offset for one in rest)
        ends = {one.offset: one.end for one in rest}
        free = [one for one in self._alternates if not _overlaps(one, starts, ends)]
        return rest + free

    def _inside(
        self, members: Iterable[Any], peripheral: str, prefix: str, base: int, cluster: str
    ) -> Iterator[Register]:
        """``cluster``: the name that cmsis-svd has put before those of its registers."""
        for member in members:
            if isinstance(member, SVDRegisterArray):
                meta: Any = member.meta_register
                raw = str(meta.name)
                for one in member.registers:
                    yield self._register(one, peripheral, prefix, base, cluster, raw)
            elif isinstance(member, SVDRegisterClusterArray):
                yield from self._clusters(member.clusters, peripheral, prefix, base)
            elif hasattr(member, "clusters"):
                yield from self._clusters([member], peripheral, prefix, base)
            else:
                raw = str(member.name).removeprefix(cluster)
                yield self._register(member, peripheral, prefix, base, cluster, raw)

    def _clusters(self, clusters: Any, peripheral: str, prefix: str, base: int) -> Iterator[Register]:
        for one in clusters:
            scope = f"{prefix}{one.name}."
            # The offsets of its own registers have been made those of the scope around; its clusters' have not.
            yield from self._inside(one.registers, peripheral, scope, base, f"{one.name}_")
            yield from self._inside(one.clusters, peripheral, scope, base + one.address_offset, "")

    def _register(self, one: Any, peripheral: str, prefix: str, base: int, cluster: str, raw: str) -> Register:
        members = [(field, str(meta.name)) for meta, several in map(_field_and_all, one.fields) for field in several]
        fields = tuple(self._field(field, one, self._line(peripheral, raw, name)) for field, name in members)
        bits = one.size or 32
        register = Register(
            prefix + str(one.name).removeprefix(cluster),
            base + one.address_offset,
            -(-bits // 8),
            (),
            fields,
            word(_sw(one.access)) if not fields else "RW",
            self._path,
            self._line(peripheral, raw),
        )
        if one.alternate_register or one.alternate_group:
            self._alternates.append(register)
        return register

    @staticmethod
    def _field(field: Any, register: Any, line: int) -> Field:
        onwrite = field.modified_write_values or register.modified_write_values
        onread = field.read_action or register.read_action
        access = word(
            _sw(field.access or register.access),
            onread and SVD_READ[onread.value],
            onwrite and SVD_WRITE[onwrite.value],
        )
        values = {
            one.value: str(one.name)
            for each in reversed(field.enumerated_values or ())
            for one in reversed(each.enumerated_values)
            if one.value is not None
        }
        width = 1 if field.bit_width is None else field.bit_width
        return Field(str(field.name), field.bit_offset, width, access, dict(sorted(values.items())), line=line)


def _overlaps(one: Register, starts: list[int], ends: dict[int, int]) -> bool:
    """With one that begins before it, or within it."""
    before = bisect.bisect_left(starts, one.end)
    return before > 0 and max(starts[before - 1], ends[starts[before - 1]] - 1) >= one.offset


def _field_and_all(member: Any) -> tuple[Any, list[Any]]:
    """A field of the file, and those that it stands for."""
    return (member.meta_field, member.fields) if isinstance(member, SVDFieldArray) else (member, [member])


def _sw(access: Any) -> str:
    return "rw" if access is None else SVD_ACCESS[access.value]


def _text(element: Element) -> str:
    name = _child(element, "name")
    return "" if name is None else name.text.strip()
