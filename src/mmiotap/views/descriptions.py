"""Descriptions of registers as tables."""

from collections.abc import Sequence

from mmiotap.registers.decode import Binding
from mmiotap.registers.model import Field, Register
from mmiotap.trace.reader import Trace
from mmiotap.views.lines import map_label
from mmiotap.views.tables import write_table
from mmiotap.views.words import printable

_COLUMNS = ["offset", "width", "register", "access", "fields"]


def write_text(bindings: Sequence[Binding], trace: Trace) -> None:
    """One table for each description, with the mappings that it is of; offsets are those of the description."""
    mappings = {mapping.map_id: map_label(mapping) for mapping in trace.mappings}
    for description in {id(one.description): one.description for one in bindings}.values():
        mine = [
            f"{mappings[one.map_id]}{f' at {one.base:+#x}' if one.base else ''}"
            for one in bindings
            if one.description is description
        ]
        title = f"{printable(description.name)}: {', '.join(mine)}"
        write_table(title, _COLUMNS, [_row(one) for one in description.registers], left=len(_COLUMNS))


def _row(one: Register) -> list[str]:
    name = one.name + "".join(f"[{count}]" for count in one.counts)
    fields = " ".join(_field(field, one.access) for field in one.fields)
    return [f"{one.offset:#x}", str(one.width), printable(name), one.access, printable(fields)]


def _field(field: Field, usual: str) -> str:
    last = field.lsb + field.width - 1
    bits = f"[{last}:{field.lsb}]" if field.width > 1 else f"[{field.lsb}]"
    return f"{field.name}{bits}{'' if field.access == usual else f':{field.access}'}"
