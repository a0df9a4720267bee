"""kmmio's four ways and its deferred release, in every interleaving (docs/protocols.md)."""

import re
from collections.abc import Iterator
from itertools import groupby

import pytest

from conftest import Run
from spin import (
    PAGE,
    SAFETY,
    Meanings,
    ask,
    ask_all,
    conditions,
    documented,
    fair,
    never_reached,
    printed_at_the_end,
    trail,
)

LIVENESS = fair()

LOST = "lost event"
AGAIN = "recursive hit"
OURS = "the program gets our fault"
IN_USE = "page forgotten while in use"
CALLED = "handler called after its probe is gone"
ENDLESS = "unregistering never ends"
MEANINGS = Meanings({"lost": LOST, "again": AGAIN, "ours": OURS, "in_use": IN_USE, "called": CALLED}, ENDLESS)

#: The ways that lose nothing, by their name in --smp.
RIGHT = ["LOCK", "PRIVATE", "EMULATE"]
#: The way of 2008, and what its thread decided to put up with.
STEP = ("STEP",)
RECURSIVE = ("STEP", "MAY_LOSE")
DECIDED = ("STEP", "MAY_LOSE", "MAY_RECUR")

#: Each mutant, with the ways in which it is asked about and what refutes it.
MUTANTS: dict[str, tuple[list[tuple[str, ...]], str]] = {
    "LOCK_ALONE": ([("LOCK",)], LOST),
    "K2_BEFORE_HOLD": ([("LOCK",)], LOST),
    "HOLD_ENDS_BEFORE_K4": ([("LOCK",)], LOST),
    "SECOND_PAGE_IGNORED": ([("PRIVATE",)], OURS),
    "NO_MASK": ([(way,) for way in RIGHT], AGAIN),
    "NO_SECOND_LOOK": ([("EMULATE",)], OURS),
    "ABSENT_IF_OPEN_NOW": ([DECIDED], OURS),
    "R1_ALTHOUGH_COUNTED": ([("EMULATE",)], LOST),
    "NO_R2": ([("EMULATE",)], IN_USE),
    "ONLY_PAGES_WAITED_FOR": ([("EMULATE",)], CALLED),
    "R3_ALTHOUGH_COUNTED": ([("EMULATE",)], IN_USE),
    "R3_ALTHOUGH_AWAITED": ([("EMULATE",)], IN_USE),
    "ARMED_ALTHOUGH_OPEN": ([("LOCK",)], AGAIN),
    "K4_ALTHOUGH_RELEASED": ([("LOCK",)], OURS),
    "K4_UNLOCKED": ([("LOCK",)], LOST),
    "K5_BEFORE_K4": ([("LOCK",)], IN_USE),
}


@pytest.fixture(scope="module")
def verdicts(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Filled by the tests, printed after the last one."""
    with printed_at_the_end(request) as found:
        yield found


def steps_of(output: str) -> list[tuple[int, str]]:
    """What each processor did on the way there."""
    return [(int(cpu), what) for cpu, what in re.findall(r"^\s*CPU (\d): (.*)$", output, re.MULTILINE)]


def picture(steps: list[tuple[int, str]]) -> str:
    """The same as the thread of 2008 drew it; on the left is who did the last step, from which it begins again."""
    left = steps[-1][0]
    rows: list[dict[int, str]] = []
    for what, same in groupby(steps, lambda step: step[1]):
        cpus = [cpu for cpu, _ in same]
        rows += [{0: what, 1: what}] if set(cpus) == {0, 1} else [{cpu: what} for cpu in cpus]
    first = next(at for at, row in enumerate(rows) if left in row)
    lines = [f"      CPU {left}          CPU {1 - left}"]
    for at, row in enumerate(rows):
        bar = ",---> " if at == first else "|     " if at > first else "      "
        lines.append(f"{bar}{row.get(left, ''):<15}{row.get(1 - left, '')}".rstrip())
    return "\n".join([*lines, "'--------'"])


@pytest.mark.parametrize("way", RIGHT)
def test_nothing_is_lost_and_no_hit_is_recursive(way: str, run: Run, verdicts: dict[str, str]) -> None:
    output = ask_all(run, "kmmio", SAFETY, [way])
    verdicts[f"{way} safety"] = MEANINGS.verdict(output)
    assert [line for line in never_reached(output) if '"assert(!(again))"' not in line] == []


@pytest.mark.parametrize("way", RIGHT)
def test_unregistering_always_ends(way: str, run: Run, verdicts: dict[str, str]) -> None:
    verdicts[f"{way} liveness"] = MEANINGS.verdict(ask_all(run, "kmmio", LIVENESS, [way]))


def test_the_way_of_2008_loses_events(run: Run, verdicts: dict[str, str]) -> None:
    verdicts["STEP"] = MEANINGS.verdict(ask(run, "kmmio", SAFETY, "-O0", STEP))
    assert verdicts["STEP"].startswith(LOST)
    (one, fault), (opener, disarm), (other, access) = steps_of(trail(run, "kmmio", STEP))
    assert (fault, disarm, access) == ("fault", "disarm", "access")
    assert one == opener != other


def test_the_way_of_2008_meets_the_recursive_hit(run: Run, verdicts: dict[str, str]) -> None:
    name = " ".join(RECURSIVE)
    verdicts[name] = MEANINGS.verdict(ask(run, "kmmio", SAFETY, "-O0", RECURSIVE))
    assert verdicts[name].startswith(AGAIN)
    steps = steps_of(trail(run, "kmmio", RECURSIVE))
    verdicts["The interleaving of 2008:"] = "\n" + picture(steps)
    me, other = steps[-1][0], 1 - steps[-1][0]
    assert [what for cpu, what in steps if cpu == me] == ["fault", "disarm", "single step"]
    assert [what for cpu, what in steps if cpu == other] == ["fault", "disarm", "single step", "arm"]
    assert steps.index((me, "disarm")) < steps.index((other, "arm")) < steps.index((me, "single step"))
    assert picture(steps) in PAGE.read_text()


def test_what_the_thread_decided_breaks_nothing_else(run: Run, verdicts: dict[str, str]) -> None:
    output = ask_all(run, "kmmio", SAFETY, DECIDED)
    verdicts[" ".join((*DECIDED, "safety"))] = MEANINGS.verdict(output)
    assert not never_reached(output)


def test_what_the_thread_decided_may_send_a_hit_back_for_ever(run: Run, verdicts: dict[str, str]) -> None:
    name = " ".join((*DECIDED, "liveness"))
    verdicts[name] = MEANINGS.verdict(ask(run, "kmmio", LIVENESS, "-O0", DECIDED))
    assert verdicts[name].startswith(ENDLESS)


def test_the_lock_alone_ends_recursion(run: Run, verdicts: dict[str, str]) -> None:
    name = ("LOCK", "LOCK_ALONE", "MAY_LOSE")
    verdicts[" ".join(name)] = MEANINGS.verdict(ask_all(run, "kmmio", SAFETY, name))


@pytest.mark.parametrize(("mutant", "way"), [(mutant, way) for mutant, (ways, _) in MUTANTS.items() for way in ways])
def test_a_mutant_is_refuted(mutant: str, way: tuple[str, ...], run: Run, verdicts: dict[str, str]) -> None:
    # What refutes it is near: compiling is what takes time.
    verdict = MEANINGS.verdict(ask(run, "kmmio", SAFETY, "-O0", [*way, mutant]))
    verdicts[" ".join((*way, mutant))] = verdict
    assert verdict.startswith(MUTANTS[mutant][1])


def test_every_mutant_is_asked_about_and_in_the_documentation() -> None:
    assert conditions("kmmio.pml") - {"STEP", *RIGHT, "MAY_LOSE", "MAY_RECUR"} == set(MUTANTS)
    rows = documented("kmmio", len(MUTANTS))
    assert set(rows) == set(MUTANTS)
    assert all(rows[mutant].startswith(what) for mutant, (_, what) in MUTANTS.items())
