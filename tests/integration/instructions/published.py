"""docs/instructions.md: every encoding with a memory operand, and what becomes of its accesses, from the cases and a recording of them.

    python tests/integration/instructions/published.py

records all cases with this tree's agent and writes the file anew.
"""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

from instructions.case import Case  # noqa: E402
from instructions.encodings import FEATURES, LEFT_OUT, Encoding, all_encodings, left_out  # noqa: E402
from instructions.generated import cases, generated, supported  # noqa: E402
from instructions.tracing import PROCESSOR, Outcome, Runner  # noqa: E402

PAGE = HERE.parents[2] / "docs" / "instructions.md"

BEGINNING = """\
# Instructions

What becomes of the accesses of every instruction that can have an operand in memory. This page is written by
`python tests/integration/instructions/published.py`, from the cases of a test and a recording of them
(tests/integration/test_instructions.py, which also sees to it that the page is up to date). The encodings are those that the decoder
(iced-x86) knows in 64-bit mode, found by asking it for each opcode of each map under each prefix; those with an EVEX or XOP prefix and 3DNow! are
not among them.

A case is one encoding with one form of address: a base; base, index, scale and an 8-bit displacement; a 32-bit displacement; relative to
the instruction; in the segment fs; with an address-size prefix; an index alone. It is run on plain memory and then on a recorded mapping, trapped
and patched, from the same state; general registers, flags, x87, vector registers and memory must be the same afterwards, and the events what
the instruction reads and writes.

"""

STEPPED = """\
## Stepped

What is left to the [processor](architecture.md#how-a-mapping-is-taken-over), with the page open and the other threads parked:

| what | why |
|---|---|
| locked instructions across the edge of a region | two places cannot be changed at once |
| popf, far returns, iret, enter and leave with 16-bit operands, with the stack in a region | they change more than the agent keeps, and nobody was seen to do it |
| far jumps and calls into another code segment | the processor has to change its mode |
| mov, pop and lgs to gs | the register is the thread's, and so is the agent's thread |
| xsave and xrstor of protection keys, shadow stacks or tiles | the agent runs with its own rights, and does not load the others |
| tiles (AMX), shadow stacks (CET) | the agent does not load them |
| arithmetic with an AVX-512 mask, where a part of the operand cannot be loaded | what the mask leaves out must not fault |
| what is wider than 64 bytes, where it is hooked | a hook's value has 64 bytes |

"""


def document(processor: frozenset[str], outcome: Outcome) -> str:
    here = {encoding.code for encoding in supported(processor)}
    parts = [BEGINNING, "The processor of this page has: " + ", ".join(flags(processor)) + ".\n\n"]
    parts += ["\n".join(by_feature(here, outcome)), "\n\n", STEPPED, "## Events\n\n"]
    parts.append("What is in the trace for one execution.\n\n| events | encodings | instructions |\n|---|---|---|\n")
    runs = [encoding for encoding in supported(processor) if not left_out(encoding)]
    for shape, encodings in groups((shape_of(next(cases(encoding))), encoding) for encoding in runs):
        parts.append(f"| {shape} | {len(encodings)} | {named(encodings)} |\n")
    parts.append("\n## Without a case\n\n| why | encodings | instructions |\n|---|---|---|\n")
    out = ((LEFT_OUT[reason], it) for it in supported(processor) if (reason := left_out(it)))
    for reason, encodings in groups(out):
        parts.append(f"| {reason} | {len(encodings)} | {named(encodings)} |\n")
    absent = [encoding for encoding in all_encodings() if encoding.code not in here]
    parts.append(f"| this processor does not have it | {len(absent)} | {named(absent)} |\n")
    return "".join(parts)


def flags(processor: frozenset[str]) -> list[str]:
    """Those of /proc/cpuinfo that any encoding needs."""
    return sorted(set(FEATURES.values()) & processor)


def by_feature(here: set[int], outcome: Outcome) -> list[str]:
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
    if "MASKMOV" in case.code or "GATHER" in case.code:
        return f"a {kinds[0]} for each element that is chosen"
    if len(kinds) == 1:
        return f"a {kinds[0]}, of {widths[0]} bytes" if widths[0] not in (1, 2, 4, 8, 16, 32) else f"a {kinds[0]}"
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
