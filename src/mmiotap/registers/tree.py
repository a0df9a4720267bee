"""systemrdl-compiler's elaborated tree: made of other languages' registers, checked by it, and flattened."""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from systemrdl import AddressableNode, AddrmapNode, MemNode, RDLCompileError, RDLCompiler, RDLImporter, RegNode
from systemrdl.component import Field as FieldComponent
from systemrdl.component import Reg
from systemrdl.messages import MessagePrinter, Severity
from systemrdl.node import FieldNode, RegfileNode
from systemrdl.rdltypes import AccessType, OnReadType, OnWriteType
from systemrdl.rdltypes.user_enum import UserEnum, UserEnumMemberContainer
from systemrdl.source_ref import DetailedFileSourceRef, FileSourceRef, SourceRefBase
from systemrdl.udp import UDPDefinition

from mmiotap.registers.effects import EFFECTS, word
from mmiotap.registers.model import Description, Field, Register, wrong
from mmiotap.trace.errors import MmiotapError

#: Registers that a description may have; an array without gaps counts as one.
MOST = 1 << 20
_TOP = "description"
#: SystemRDL wants a field in each register; this one stands in for none.
_NO_FIELD = ""


class Messages(MessagePrinter):
    """Keeps the first error, with its place, for the one line that a user sees."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._first: MmiotapError | None = None

    def print_message(self, severity: Severity, text: str, src_ref: SourceRefBase | None) -> None:
        if severity < Severity.ERROR or self._first is not None:
            return
        line = src_ref.line if isinstance(src_ref, DetailedFileSourceRef | _Line) else None
        self._first = wrong(src_ref.path if isinstance(src_ref, FileSourceRef) else self._path, line, text)

    def error(self, error: RDLCompileError) -> MmiotapError:
        return self._first or wrong(self._path, None, str(error))


class _Line(FileSourceRef):
    def __init__(self, path: str, line: int) -> None:
        super().__init__(path)
        self.line = line or None


class _Form(UDPDefinition):
    """What SystemRDL cannot say of a field: its form, shift and radix."""

    name = "mmiotap_form"
    valid_components = {FieldComponent}  # noqa: RUF012 (the library asks for a set)
    valid_type = str


class _Importer(RDLImporter):
    """Registers of another language become an address map."""

    def __init__(self, compiler: RDLCompiler, path: str) -> None:
        super().__init__(compiler)
        self.default_src_ref = FileSourceRef(path)
        self._enums: dict[tuple[tuple[int, str], ...], Any] = {}

    def register(self, registers: Sequence[Register]) -> None:
        top = self.create_addrmap_definition(_TOP)
        names = _Identifiers()
        for one in sorted(registers, key=lambda one: one.offset):
            self.add_child(top, self._register(one, names))
        self.register_root_component(top)

    def _register(self, one: Register, names: "_Identifiers") -> Reg:
        place = _Line(one.path, one.line)
        component = self.create_reg_definition(src_ref=place)
        stride = one.width if one.counts else None
        instance = self.instantiate_reg(
            component, names.of(one.name), one.offset, list(one.counts) or None, stride, src_ref=place
        )
        self.assign_property(instance, "name", one.name, place)
        self.assign_property(instance, "regwidth", 8 * one.width, place)
        fields = one.fields or (Field(_NO_FIELD, 0, 8 * one.width, one.access, line=one.line),)
        inside = _Identifiers()
        for field in sorted(fields, key=lambda field: field.lsb):
            self.add_child(instance, self._field(field, inside, one.path))
        return instance

    def _field(self, field: Field, names: "_Identifiers", path: str) -> FieldComponent:
        place = _Line(path, field.line)
        component = self.create_field_definition(src_ref=place)
        instance = self.instantiate_field(component, names.of(field.name), field.lsb, field.width, place)
        effect = EFFECTS[field.access]
        self.assign_property(instance, "name", field.name, place)
        self.assign_property(instance, "sw", AccessType[effect.sw], place)
        if effect.onread:
            self.assign_property(instance, "onread", OnReadType[effect.onread], place)
        if effect.onwrite:
            self.assign_property(instance, "onwrite", OnWriteType[effect.onwrite], place)
        if field.values:
            self.assign_property(instance, "encode", self._enum(field.values), place)
        self.assign_property(instance, "mmiotap_form", f"{field.form} {field.shift} {field.radix}", place)
        return instance

    def _enum(self, values: dict[int, str]) -> Any:
        key = tuple(values.items())
        if key not in self._enums:
            names = _Identifiers()
            members = [UserEnumMemberContainer(names.of(name), value, name) for value, name in key]
            self._enums[key] = UserEnum.define_new(f"enum_{len(self._enums)}", members)
        return self._enums[key]


class _Identifiers:
    """Names as SystemRDL takes them, none of them twice."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def of(self, name: str) -> str:
        plain = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "unnamed"
        if plain[0].isdigit():
            plain = f"_{plain}"
        free = next(one for one in _numbered(plain) if one not in self._taken)
        self._taken.add(free)
        return free


def _numbered(name: str) -> Iterator[str]:
    return itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))


def describe(name: str, path: str, registers: Sequence[Register], *, absolute: bool = False) -> Description:
    """Registers that a reader has found, checked as a tree of their own. Raises MmiotapError with place and cause."""
    if not registers:
        raise wrong(path, None, f"no register is described{'' if name == path else f' in {name}'}")
    messages = Messages(path)
    compiler = RDLCompiler(message_printer=messages)
    compiler.register_udp(_Form, soft=False)
    _Importer(compiler, path).register(registers)
    try:
        top = compiler.elaborate(_TOP).top
    except RDLCompileError as error:
        raise messages.error(error) from error
    return replace(flatten(name, path, top, imported=True), absolute=absolute)


def flatten(name: str, path: str, top: AddrmapNode, *, imported: bool = False) -> Description:
    """All registers of an elaborated address map. ``imported``: it was made by :func:`describe`."""
    found = sorted(_Flat(path, imported).inside(top), key=lambda one: one.offset)
    for one in found:
        if one.offset < 0 or one.end > 1 << 64:
            raise wrong(one.path or path, one.line, f"{one.name} is at {one.offset:#x}, which no address is")
    return Description(name, tuple(found))


class _Flat:
    def __init__(self, path: str, imported: bool) -> None:
        self._path = path
        self._imported = imported
        self._found = 0

    def inside(self, node: AddressableNode) -> list[Register]:
        """What is within a scope, offsets and names as seen from there."""
        found: list[Register] = []
        for child in node.children(unroll=False):
            if isinstance(child, RegNode):
                size = int(child.get_property("regwidth")) // 8
                found += self._repeated(child, [self._register(child, size)], size)
            elif isinstance(child, MemNode) and not any(True for _ in child.registers()):
                size = -(-int(child.get_property("memwidth")) // 8)
                entries = int(child.get_property("mementries"))
                memory = Register("", 0, size, (entries,), (), word(child.get_property("sw").name))
                found += self._repeated(child, [memory], None)
            elif isinstance(child, AddrmapNode | RegfileNode | MemNode):
                behind = [replace(one, name=f".{one.name}") for one in self.inside(child)]
                found += self._repeated(child, behind, None)
        return found

    def _repeated(self, node: AddressableNode, registers: list[Register], size: int | None) -> list[Register]:
        """Registers of one element of an array of ``node``, for all its elements; size: ``node`` is a register's."""
        name = self._name(node)
        begin = node.raw_address_offset
        counts = tuple(node.array_dimensions or ())
        if not counts or node.array_stride == size:
            self._count(len(registers))
            return [
                replace(one, name=_joined(name, one.name), offset=begin + one.offset, counts=counts or one.counts)
                for one in registers
            ]
        found: list[Register] = []
        for number, indexes in enumerate(itertools.product(*map(range, counts))):
            self._count(len(registers))
            element = f"{name}{''.join(f'[{index}]' for index in indexes)}"
            offset = begin + number * int(node.array_stride or 0)
            found += [replace(one, name=_joined(element, one.name), offset=offset + one.offset) for one in registers]
        return found

    def _count(self, more: int) -> None:
        self._found += more
        if self._found > MOST:
            raise wrong(self._path, None, f"more than {MOST} registers; choose a part of it, FILE:PART")

    def _register(self, node: RegNode, size: int) -> Register:
        """One at offset 0, and without a name: its array has that."""
        fields = tuple(self._field(field) for field in node.fields())
        readable = any(field.readable for field in fields)
        access = "WO" if not readable else "RW" if any(field.writable for field in fields) else "RO"
        place = node.inst_src_ref
        line = place.line if isinstance(place, DetailedFileSourceRef | _Line) else None
        path = place.path if isinstance(place, FileSourceRef) else self._path
        named = tuple(field for field in fields if field.name != _NO_FIELD)
        return Register("", 0, size, (), named, access, path, line or 0)

    def _field(self, node: FieldNode) -> Field:
        onread, onwrite = node.get_property("onread"), node.get_property("onwrite")
        access = word(node.get_property("sw").name, onread and onread.name, onwrite and onwrite.name)
        form, shift, radix = "hex", "0", "0"
        if self._imported:
            form, shift, radix = node.get_property("mmiotap_form").split()
        encode = node.get_property("encode")
        values = {} if encode is None else {int(one): self._value_name(one) for one in encode}
        return Field(self._name(node), node.low, node.width, access, values, form, int(shift), int(radix))

    def _value_name(self, member: Any) -> str:
        return str(member.rdl_name if self._imported else member.name)

    def _name(self, node: Any) -> str:
        return str(node.get_property("name") if self._imported else node.inst_name)


def _joined(scope: str, name: str) -> str:
    return scope if not name else f"{scope}{name}" if name.startswith(".") else f"{scope}.{name}"
