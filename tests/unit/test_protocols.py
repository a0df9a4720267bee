"""The models of the patching protocols hold, in every interleaving, and every mutant is refuted (docs/protocols.md)."""

from collections.abc import Iterator

import pytest

from conftest import Run
from spin import SAFETY, Meanings, ask, ask_all, conditions, documented, fair, never_reached, printed_at_the_end

LIVENESS = fair("-DSIGNALS=3")

TORN = "torn instruction"
LATE = "executed after the round"
NOBODYS = "trap of nobody"
ENDLESS = "the patcher never ends"
MEANINGS = Meanings({"held": TORN, "busy": LATE, "in_table": NOBODYS}, ENDLESS)

#: The models that hold: a protocol, and perhaps the variant of it that is the agent's.
MODELS = [("breakpoint", ()), ("stop_machine", ()), ("stop_machine", ("AGENT",))]

#: Each mutant, as the models know it, with what refutes it.
MUTANTS = {
    "breakpoint": {
        "NO_B1": TORN,
        "NO_B2": TORN,
        "NO_B4": TORN,
        "NO_B6": LATE,
        "B5_BEFORE_B3": TORN,
        "TABLE_AFTER_B1": NOBODYS,
        "TURN_WITHOUT_B4": TORN,
        "SYNC_SPARES_CALLER": TORN,
    },
    "stop_machine": {
        "NO_PARK": TORN,
        "ONE_NOT_WAITED_FOR": TORN,
        "PARK_AFTER_S2": TORN,
        "PARK_KEEPS_COUNT": ENDLESS,
        "S2_BEFORE_S1": TORN,
        "NO_S3": TORN,
        "SEED_ORDER": TORN,
        "WAITS_FOR_ITSELF": ENDLESS,
        "NO_SYNC": TORN,
        "SYNC_AFTER_S5": TORN,
        "SYNC_SPARES_CALLER": TORN,
        "S5_BEFORE_S4": TORN,
        "NO_S6": TORN,
        "NO_H1": TORN,
        "FLAG_BEFORE_H1": TORN,
        "NO_H2": TORN,
        "NO_H3": TORN,
        "H5_BEFORE_H4": TORN,
    },
}


@pytest.fixture(scope="module")
def verdicts(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Filled by the tests, printed after the last one."""
    with printed_at_the_end(request) as found:
        yield found


@pytest.mark.parametrize(("protocol", "variant"), MODELS)
def test_nothing_torn_is_executed(protocol: str, variant: tuple[str, ...], run: Run, verdicts: dict[str, str]) -> None:
    output = ask_all(run, protocol, SAFETY, variant)
    verdicts[" ".join((protocol, *variant, "safety"))] = MEANINGS.verdict(output)
    # No handler of the agent's starts while the flag is up: there it never comes to H2.
    assert variant or not never_reached(output)


@pytest.mark.parametrize(("protocol", "variant"), MODELS)
def test_the_patcher_always_ends(protocol: str, variant: tuple[str, ...], run: Run, verdicts: dict[str, str]) -> None:
    output = ask_all(run, protocol, LIVENESS, variant)
    verdicts[" ".join((protocol, *variant, "liveness"))] = MEANINGS.verdict(output)


@pytest.mark.parametrize(
    ("protocol", "mutant"), [(protocol, mutant) for protocol, mutants in MUTANTS.items() for mutant in mutants]
)
def test_a_mutant_is_refuted(protocol: str, mutant: str, run: Run, verdicts: dict[str, str]) -> None:
    expected = MUTANTS[protocol][mutant]
    # What refutes it is near: compiling is what takes time.
    output = ask(run, protocol, LIVENESS if expected == ENDLESS else SAFETY, "-O0", [mutant])
    verdicts[f"{protocol} {mutant}"] = MEANINGS.verdict(output)
    assert "errors: 1" in output
    assert MEANINGS.verdict(output).startswith(expected)


@pytest.mark.parametrize("protocol", MUTANTS)
def test_every_mutant_is_asked_about_and_in_the_documentation(protocol: str) -> None:
    mutants = MUTANTS[protocol]
    assert conditions("code.pml", f"{protocol}.pml") - {"SIGNALS", "AGENT"} == set(mutants)
    rows = documented(protocol, len(mutants))
    assert set(rows) == set(mutants)
    assert all(rows[mutant].startswith(what) for mutant, what in mutants.items())
