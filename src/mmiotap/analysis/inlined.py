"""The functions around an instruction, those that were inlined into others included, from DWARF.

Debug information is looked for in the file itself and, by its build id, under /usr/lib/debug (gdb's manual, "Debugging
Information in Separate Files"). What has none has no frames; :class:`~mmiotap.analysis.symbols.Symbols` still
names its functions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elftools.dwarf.descriptions import describe_form_class
from elftools.dwarf.ranges import BaseAddressEntry
from elftools.elf.elffile import ELFFile

from mmiotap.analysis.symbols import Symbols, build_id
from mmiotap.trace.model import Module

DEBUG = Path("/usr/lib/debug/.build-id")

_FUNCTIONS = ("DW_TAG_subprogram", "DW_TAG_inlined_subroutine")


@dataclass(frozen=True)
class Frame:
    """A function, and where in the source it was when it made the access, or called what did."""

    function: str
    file: str | None
    line: int | None


class Frames:
    """Frames of instruction addresses in a trace. A file is read when an address lies in it."""

    def __init__(self, symbols: Symbols) -> None:
        self._symbols = symbols
        self._files: dict[tuple[str, str], Any] = {}

    def of(self, pids: Sequence[int], pcs: Sequence[int]) -> list[list[Frame]]:
        """The frames of each pair, the innermost first; none where there is no debug information."""
        found: dict[tuple[int, int], list[Frame]] = {}
        for pid in dict.fromkeys(pids):
            mine = [pc for one, pc in zip(pids, pcs, strict=True) if one == pid]
            for module, inside in self._symbols.places(pid, mine):
                if dwarf := self._dwarf(module):
                    found |= {(pid, pc): _frames(dwarf, (pc - module.bias) % 2**64) for pc in inside}
        return [found.get(pair, []) for pair in zip(pids, pcs, strict=True)]

    def _dwarf(self, module: Module) -> Any:
        key = (module.path, module.build_id)
        if key not in self._files:
            self._files[key] = _read(module)
        return self._files[key]


class _Units:
    """The compilation units of a file, each with the addresses that its code has."""

    def __init__(self, dwarf: Any) -> None:
        self.dwarf = dwarf
        self._units = [(unit, list(_ranges(dwarf, unit, unit.get_top_DIE()))) for unit in dwarf.iter_CUs()]

    def around(self, address: int) -> Any:
        for unit, ranges in self._units:
            if any(low <= address < high for low, high in ranges):
                return unit
        return None


def _read(module: Module) -> _Units | None:
    separate = DEBUG / module.build_id[:2] / f"{module.build_id[2:]}.debug"
    for path in (Path(module.path), separate):
        try:
            file = path.open("rb")  # pyelftools reads what it needs when it is asked
            elf = ELFFile(file)
            if build_id(elf) == module.build_id and elf.has_dwarf_info(strict=True):
                return _Units(elf.get_dwarf_info())
            file.close()
        except Exception:  # no such file; or a damaged one, on which pyelftools raises whatever it stumbles over
            continue
    return None


def _frames(units: _Units, address: int) -> list[Frame]:
    try:
        unit = units.around(address)
        if unit is None:
            return []
        chain = list(_chain(units.dwarf, unit, unit.get_top_DIE(), address))
        file, line = _line(units.dwarf, unit, address)
        frames = []
        for die in reversed(chain):
            frames.append(Frame(_name(die), file, line))
            file, line = _called_from(units.dwarf, unit, die)
        return frames
    except Exception:  # a damaged file, as above: it has no frames
        return []


def _chain(dwarf: Any, unit: Any, die: Any, address: int) -> Iterator[Any]:
    """The functions around an address, the outermost first."""
    for child in die.iter_children():
        mine = child.tag in _FUNCTIONS and any(low <= address < high for low, high in _ranges(dwarf, unit, child))
        if mine:
            yield child
        if mine or child.tag in ("DW_TAG_lexical_block", "DW_TAG_namespace"):
            inner = list(_chain(dwarf, unit, child, address))
            yield from inner
            if mine or inner:
                return


def _ranges(dwarf: Any, unit: Any, die: Any) -> Iterator[tuple[int, int]]:
    attributes = die.attributes
    if "DW_AT_high_pc" in attributes and "DW_AT_low_pc" in attributes:
        low, high = attributes["DW_AT_low_pc"].value, attributes["DW_AT_high_pc"]
        yield low, high.value if describe_form_class(high.form) == "address" else low + high.value
    elif "DW_AT_ranges" in attributes:
        top = unit.get_top_DIE().attributes
        base = top["DW_AT_low_pc"].value if "DW_AT_low_pc" in top else 0
        for entry in dwarf.range_lists().get_range_list_at_offset(attributes["DW_AT_ranges"].value, unit):
            if isinstance(entry, BaseAddressEntry):
                base = entry.base_address
            elif entry.is_absolute:
                yield entry.begin_offset, entry.end_offset
            else:
                yield base + entry.begin_offset, base + entry.end_offset


def _name(die: Any) -> str:
    for origin in ("DW_AT_abstract_origin", "DW_AT_specification"):
        if "DW_AT_name" not in die.attributes and origin in die.attributes:
            return _name(die.get_DIE_from_attribute(origin))
    return die.attributes["DW_AT_name"].value.decode("utf-8", "replace") if "DW_AT_name" in die.attributes else "?"


def _called_from(dwarf: Any, unit: Any, die: Any) -> tuple[str | None, int | None]:
    attributes = die.attributes
    if "DW_AT_call_line" not in attributes:
        return None, None
    program = dwarf.line_program_for_CU(unit)
    file = attributes["DW_AT_call_file"].value if "DW_AT_call_file" in attributes else None
    return _file(program, file), attributes["DW_AT_call_line"].value


def _line(dwarf: Any, unit: Any, address: int) -> tuple[str | None, int | None]:
    """The row of the line table that holds an address."""
    program = dwarf.line_program_for_CU(unit)
    before = None
    for entry in program.get_entries() if program else ():
        state = entry.state
        if state is None:
            continue
        if before is not None and before.address <= address < state.address:
            return _file(program, before.file), before.line
        before = None if state.end_sequence else state
    return None, None


def _file(program: Any, number: int | None) -> str | None:
    """Its name. Files are counted from 0 since DWARF 5, from 1 before."""
    if number is None or program is None:
        return None
    version = program.header.version
    entries = program.header.file_entry
    at = number if version >= 5 else number - 1
    return entries[at].name.decode("utf-8", "replace") if 0 <= at < len(entries) else None
