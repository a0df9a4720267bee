"""Both halves of the layout are the same: layout.py for Python, layout.rs for the agent."""

import re
from pathlib import Path

from mmiotap.trace import layout

RUST = Path(__file__).parents[2] / "agent" / "src" / "layout.rs"
CONSTANT = re.compile(r"^pub const ([A-Z0-9_]+): [^=]+ = (.+?);", re.MULTILINE)


def rust_constants() -> dict[str, object]:
    """Constants of layout.rs; its expressions are Python's, too, but for division and byte strings."""
    found: dict[str, object] = {}
    for name, text in CONSTANT.findall(RUST.read_text()):
        expression = text.replace('*b"', 'b"').replace(" / ", " // ")
        found[name] = eval(expression, {"__builtins__": {}}, dict(found))
    return found


def test_rust_and_python_agree() -> None:
    python = {name: value for name, value in vars(layout).items() if name.isupper()}
    assert rust_constants() == python


def test_the_arena_is_as_the_document_draws_it() -> None:
    assert layout.SEGMENTS_OFFSET == 266240
    assert layout.ROWS_PER_SEGMENT == 1023
    assert layout.RULES_OFFSET + layout.RULES_SIZE == layout.STATES_OFFSET == 4096
