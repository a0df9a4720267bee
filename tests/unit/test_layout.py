"""Both halves of a layout are the same: layout.py for Python, layout.rs for the agent."""

import re
from pathlib import Path
from types import ModuleType

import pytest

from mmiotap.sources import hook_layout
from mmiotap.trace import layout

SOURCES = Path(__file__).parents[2] / "agent" / "src"
CONSTANT = re.compile(r"^pub const ([A-Z0-9_]+): [^=]+ = (.+?);", re.MULTILINE)


def rust_constants(path: Path) -> dict[str, object]:
    """Constants of a layout.rs; its expressions are Python's, too, but for division and byte strings."""
    found: dict[str, object] = {}
    for name, text in CONSTANT.findall(path.read_text()):
        expression = text.replace('*b"', 'b"').replace(" / ", " // ")
        found[name] = eval(expression, {"__builtins__": {}}, dict(found))
    return found


@pytest.mark.parametrize(
    ("rust", "module"), [("layout.rs", layout), ("hook/layout.rs", hook_layout)], ids=["arena", "hooks"]
)
def test_rust_and_python_agree(rust: str, module: ModuleType) -> None:
    python = {name: value for name, value in vars(module).items() if name.isupper()}
    assert rust_constants(SOURCES / rust) == python


def test_the_arena_is_as_the_document_draws_it() -> None:
    assert layout.SEGMENTS_OFFSET == 266240
    assert layout.ROWS_PER_SEGMENT == 1023
    assert layout.RULES_OFFSET + layout.RULES_SIZE == layout.STATES_OFFSET == 4096


def test_the_hooks_channel_is_as_the_document_draws_it() -> None:
    assert (hook_layout.SLOTS_OFFSET, hook_layout.HOOKS_SIZE) == (528384, 1052672)
    assert hook_layout.S_PROBES + 2 * hook_layout.MAX_HIT <= hook_layout.S_PATH_MAP_ID
