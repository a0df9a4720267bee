"""Every instruction with a memory operand: right on a traced mapping, and in the trace as the table says.

The program of ``instructions/`` runs each case on plain memory and then, traced, on a file mapping, and compares all
registers, flags and memory. Here the rows of the trace are compared with what the case says and what plain memory held.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest
from iced_x86 import Code, DecoderOptions, EncodingKind, OpCodeInfo, OpCodeOperandKind
from instructions import published
from instructions.case import Case
from instructions.encodings import all_encodings, words
from instructions.generated import generated, supported
from instructions.table import all_cases
from instructions.tracing import PROCESSOR, Outcome, Runner

if TYPE_CHECKING:
    from iced_x86 import Code_

pytestmark = pytest.mark.timeout(600)

CASES = all_cases(PROCESSOR)
GENERATED = generated(PROCESSOR)


#: One form of each, for the ways in which an access is made in place: it is not taken apart there.
IN_PLACE = [
    replace(case, may_be_unknown=True)
    for case in GENERATED
    if case.name.endswith(("[base]", "[base vector*4]", "[implied]"))
]


def is_whole_vector(case: Case) -> bool:
    """All of a register of AVX-512, without a mask."""
    return case.code.startswith("EVEX") and "{k" not in case.name and case.accesses[0].width == 64


#: Of those, what the ptrace engine has as it is here; docs/limits.md says what it does not.
OUTSIDE = [
    *(case for case in IN_PLACE if case.some_of or "vector" in case.name or "FP" in case.code),
    *(replace(case, may_be_unknown=False) for case in IN_PLACE if is_whole_vector(case)),
]


#: Not found: these have an address-size prefix, or are another name of prefetches.
OTHERS = {
    *("MOVDIR64B_R32_M512", "ENQCMD_R32_M512", "ENQCMDS_R32_M512"),
    *("RESERVEDNOP_RM16_R16_0F0D", "RESERVEDNOP_RM32_R32_0F0D", "RESERVEDNOP_RM64_R64_0F0D"),
}
IN_MEMORY = ("MEM", "SEG_R", "SEG_DI", "ES_RDI", "OFFS")


def can_be_in_memory(info: OpCodeInfo) -> bool:
    kinds = words(OpCodeOperandKind)
    return any(word in kinds[info.op_kind(op)] for op in range(info.op_count) for word in IN_MEMORY)


def test_no_encoding_is_forgotten() -> None:
    """All that the decoder's tables say can be in memory in 64-bit mode were found by asking it."""
    found = {encoding.name for encoding in all_encodings()} | OTHERS
    foreign = (EncodingKind.XOP, EncodingKind.D3NOW, EncodingKind.MVEX)
    for code, name in words(Code).items():
        info = OpCodeInfo(cast("Code_", code))
        # Those with options are of other processors; with fwait, they are two instructions to the decoder.
        is_one = info.is_instruction and info.decoder_option == DecoderOptions.NONE and not info.fwait
        if is_one and info.intel_decoder64 and info.encoding not in foreign and can_be_in_memory(info):
            assert name in found


@pytest.fixture(scope="module")
def in_place(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return Runner.build([*CASES, *IN_PLACE], tmp_path_factory.mktemp("in-place"))


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return Runner.build([*CASES, *OUTSIDE], tmp_path_factory.mktemp("outside"))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Cases that were written by hand: operands, values and places that matter."""
    return Runner.build(CASES, tmp_path_factory.mktemp("instructions"))


@pytest.fixture(scope="module")
def every_encoding(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Cases from the decoder's own tables."""
    return Runner.build(GENERATED, tmp_path_factory.mktemp("encodings"))


@pytest.fixture(scope="module")
def encodings_traced(every_encoding: Runner, patching: str) -> Outcome:
    return every_encoding.trace_all("--patch", patching, rounds=4)


def assert_right(outcome: Outcome, runner: Runner) -> None:
    assert outcome.all_wrong() == ""
    assert outcome.ran == {case.name for case in runner.cases}


def test_the_program_finds_no_difference_without_mmiotap(written: Runner) -> None:
    assert len(written.cases) > 600
    written.check_untraced()


def test_nor_does_it_with_every_encoding(every_encoding: Runner) -> None:
    assert len(every_encoding.cases) > 5000
    every_encoding.check_untraced()


def test_traced(written: Runner, patching: str) -> None:
    outcome = written.trace_all("--patch", patching)
    assert_right(outcome, written)
    assert bool(outcome.patched) == (patching != "off")


def test_every_encoding_traced(encodings_traced: Outcome, every_encoding: Runner, patching: str) -> None:
    assert_right(encodings_traced, every_encoding)
    assert encodings_traced.stepped == set()
    assert bool(encodings_traced.patched) == (patching != "off")


def test_the_page_of_instructions_is_up_to_date(encodings_traced: Outcome) -> None:
    page = published.PAGE.read_text()
    if f": {', '.join(published.flags(PROCESSOR))}.\n" in page:
        assert page == published.document(PROCESSOR, encodings_traced), f"python {published.__file__} writes it anew"
    else:
        # Another processor: what both have is the same.
        here = {encoding.code for encoding in supported(PROCESSOR)}
        _, _, *table = published.by_feature(here, encodings_traced)
        rows = [line.split(" | ") for line in table]
        there = {line.split(" | ")[0]: line.split(" | ") for line in page.splitlines()}
        assert all(row == there[row[0]] for row in rows if "0" not in (row[2], there[row[0]][2]))


@pytest.mark.parametrize("way", ["step", "lock"])
def test_stepped(in_place: Runner, way: str) -> None:
    """Each access as it is; its value, too, where registers or ordinary memory tell it."""
    outcome = in_place.trace_all("--smp", way, rounds=3, exact=False)
    # A pop moves the red zone's far end, and the kernel writes the trap's frame behind that.
    for name, lines in outcome.wrong.items():
        if name.startswith("pop"):
            lines[:] = [line for line in lines if "stack byte" not in line]
    assert_right(outcome, in_place)
    words = "mov movabs movb movw movl movzbl movswl movups movdqu movaps vmovdqu movnti xchg pushq popq call jmp stosb"
    assert {name for name in outcome.untold if name.split()[0] in words.split()} == set()


@pytest.mark.parametrize("way", ["emulate", "lock"])
def test_from_outside(outside: Runner, way: str) -> None:
    """The same, by the ptrace engine."""
    assert_right(outside.trace_all("--engine", "ptrace", "--smp", way, rounds=2, exact=False), outside)
