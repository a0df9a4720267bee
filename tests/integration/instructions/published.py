"""docs/instructions.md: every encoding with an operand in memory, and its accesses, by a recording of the cases.

    python tests/integration/instructions/published.py

records all cases with this tree's agent and writes the file anew.
"""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path

from iced_x86 import OpCodeInfo, OpKind

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

from instructions.case import Case  # noqa: E402
from instructions.encodings import FEATURES, LEFT_OUT, Encoding, all_encodings, left_out  # noqa: E402
from instructions.generated import PACKED, cases, generated, is_chosen, supported  # noqa: E402
from instructions.tracing import PROCESSOR, Outcome, Runner  # noqa: E402

PAGE = HERE.parents[2] / "docs" / "instructions.md"
#: The page's own words, with places for the tables.
TEMPLATE = HERE / "page.md"


def document(processor: frozenset[str], outcome: Outcome) -> str:
    here = {encoding.code for encoding in supported(processor)}
    runs = [encoding for encoding in supported(processor) if not left_out(encoding)]
    events = groups((shape_of(next(cases(encoding))), encoding) for encoding in runs)
    out = groups((LEFT_OUT[reason], it) for it in supported(processor) if (reason := left_out(it)))
    absent = [encoding for encoding in all_encodings() if encoding.code not in here]
    masked = groups((masked_shape_of(it), it) for it in runs if OpCodeInfo(it.code).can_use_op_mask_register)
    tables = {
        "@FLAGS": ", ".join(flags(processor)),
        "@FEATURES": "\n".join(by_feature(here, outcome)),
        "@EVENTS": "\n".join(map(row, events)),
        "@MASKED": "\n".join(map(row, masked)),
        "@LEFT_OUT": "\n".join(map(row, [*out, ("this processor does not have it", absent)])),
    }
    page = TEMPLATE.read_text()
    for place, table in tables.items():
        page = page.replace(place, table)
    return page


def row(group: tuple[str, list[Encoding]]) -> str:
    what, encodings = group
    return f"| {what} | {len(encodings)} | {named(encodings)} |"


def flags(processor: frozenset[str]) -> list[str]:
    """Those of /proc/cpuinfo that any encoding needs."""
    return sorted(set(FEATURES.values()) & processor)


def by_feature(here: Collection[int], outcome: Outcome) -> list[str]:
    """A table of what the encodings need."""
    lines = [
        "| needs | encodings | on this processor | without a case | cases | run out of line | stepped | wrong |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for needs, encodings in groups((feature(encoding), encoding) for encoding in all_encodings()):
        is_here = [encoding for encoding in encodings if encoding.code in here]
        written = [case for encoding in is_here for case in cases(encoding)]
        names = {case.name for case in written}
        stepped, wrong = names & outcome.stepped, {name for name in names if outcome.wrong.get(name)}
        out_of_line = (names & outcome.ran) - stepped
        without = sum(left_out(encoding) is not None for encoding in is_here)
        numbers = (len(encodings), len(is_here), without, len(names), len(out_of_line), len(stepped), len(wrong))
        lines.append(f"| {needs} | " + " | ".join(map(str, numbers)) + " |")
    return lines


def feature(encoding: Encoding) -> str:
    return ", ".join(encoding.features)


def groups(pairs: Iterable[tuple[str, Encoding]]) -> list[tuple[str, list[Encoding]]]:
    found: dict[str, list[Encoding]] = defaultdict(list)
    for key, encoding in pairs:
        found[key].append(encoding)
    return sorted(found.items())


PLAIN_WIDTHS = (1, 2, 4, 8, 16, 32, 64)


def masked_shape_of(encoding: Encoding) -> str:
    """Its events in words, with a mask."""
    instruction = encoding.instruction
    kind = "write" if instruction.op0_kind == OpKind.MEMORY else "read"
    if encoding.mnemonic in PACKED:
        return f"a {kind} for each element that is chosen, one behind the other"
    if instruction.is_vsib or is_chosen(encoding):
        return f"a {kind} for each element that is chosen"
    return f"a {kind} of all of the operand, if any element is chosen"


def shape_of(case: Case) -> str:
    """Its events in words."""
    if case.some_of:
        return ("a read of the header, " if case.accesses else "") + "a write for each run of bytes that is written"
    kinds = [access.kind for access in case.accesses]
    widths = sorted({access.width for access in case.accesses})
    if not kinds:
        return "none"
    if case.accesses[0].rmw:
        return "a read and a write"
    if any(word in case.code for word in ("MASKMOV", "GATHER", "SCATTER")):
        return f"a {kinds[0]} for each element that is chosen"
    if len(kinds) == 1:
        return f"a {kinds[0]}, of {widths[0]} bytes" if widths[0] not in PLAIN_WIDTHS else f"a {kinds[0]}"
    if len(kinds) == 2:
        return "two reads" if kinds == ["read", "read"] else "a read and a write, at two places"
    return "a read for the header, and for each component that is loaded"


def named(encodings: Iterable[Encoding]) -> str:
    return ", ".join(sorted({encoding.mnemonic for encoding in encodings}))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner.build(generated(PROCESSOR), Path(folder))
        PAGE.write_text(document(PROCESSOR, runner.trace_all("--patch", "off", rounds=1)))


if __name__ == "__main__":
    main()
