"""The models in protocols/ hold, in every interleaving, and every mutant of them is refuted (docs/protocols.md)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import Run

PROTOCOLS = Path(__file__).parents[2] / "protocols"
PAGE = PROTOCOLS.parent / "docs" / "protocols.md"
#: Seconds that one search may take; a few are normal.
LIMIT = 100.0

TORN = "torn instruction"
LATE = "executed after the round"
NOBODYS = "trap of nobody"
ENDLESS = "the patcher never ends"
#: What an assertion of the models is about, by what is in it; the first that fits.
ASSERTIONS = {"held": TORN, "busy": LATE, "in_table": NOBODYS}


@dataclass(frozen=True)
class Search:
    """How a question to a model is asked."""

    spin: tuple[str, ...]
    compile: tuple[str, ...]
    pan: tuple[str, ...]


#: No partial order reduction: every interleaving.
SAFETY = Search((), ("-DSAFETY", "-DBFS", "-DNOCLAIM", "-DNOREDUCE"), ("-w22",))
#: Under weak fairness: whoever can move all the time does at some time.
LIVENESS = Search(("-DSIGNALS=3",), ("-DNFAIR=4", "-DNOREDUCE"), ("-a", "-f", "-m1000000", "-w20"))

#: The models that hold: a protocol, and perhaps the variant of it that is the agent's.
MODELS = [("breakpoint", None), ("stop_machine", None), ("stop_machine", "AGENT")]

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


def ask(run: Run, protocol: str, search: Search, *flags: str, variant: str | None = None) -> str:
    """What the checker says, in the test's folder; ``flags`` go to the compiler."""
    defines = search.spin if variant is None else (*search.spin, f"-D{variant}")
    made = run("spin", "-a", *defines, PROTOCOLS / f"{protocol}.pml", limit=LIMIT)
    assert made.status == 0, made.stdout + made.stderr
    compiled = run("gcc", "-w", *flags, *search.compile, "-o", "pan", "pan.c", limit=LIMIT)
    assert compiled.status == 0, compiled.stderr
    found = run("./pan", *search.pan, limit=LIMIT)
    assert not found.stderr
    return found.stdout


def verdict(output: str) -> str:
    """What refutes the model, with the shortest way there or the states it took to show that nothing does."""
    assertion = re.search(r"assertion violated (.*) \(at depth (\d+)\)", output)
    if assertion:
        what = next(meaning for part, meaning in ASSERTIONS.items() if part in assertion[1])
        return f"{what}, after {assertion[2]} steps"
    cycle = re.search(r"acceptance cycle \(at depth (\d+)\)", output)
    if cycle:
        return f"{ENDLESS}, from step {cycle[1]} on"
    states = re.search(r"(\d+) states, stored", output)
    assert states, output
    return f"holds, {states[1]} states"


def never_reached(output: str) -> list[str]:
    """Statements of the model that no interleaving came to; a process runs for ever and never comes to its end."""
    processes = re.split(r"^unreached in ", output, flags=re.MULTILINE)[1:]
    lines = [line for process in processes if not process.startswith("claim") for line in process.splitlines()]
    return [line for line in lines if line.startswith("\t/") and '"-end-"' not in line]


@pytest.fixture(scope="module")
def verdicts(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Filled by the tests, printed after the last one, captured or not."""
    found: dict[str, str] = {}
    yield found
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n" + "\n".join(f"    {who:<34}{what}" for who, what in found.items()))


def assert_holds(
    run: Run, protocol: str, variant: str | None, search: Search, what: str, verdicts: dict[str, str]
) -> str:
    """No interleaving refutes the model, and none was left out. Returns what the checker says."""
    output = ask(run, protocol, search, "-O1", variant=variant)
    verdicts[f"{' '.join(filter(None, (protocol, variant)))}, {what}"] = verdict(output)
    assert "errors: 0" in output
    assert "not completed" not in output
    assert "too small" not in output
    return output


@pytest.mark.parametrize(("protocol", "variant"), MODELS)
def test_nothing_torn_is_executed(protocol: str, variant: str | None, run: Run, verdicts: dict[str, str]) -> None:
    output = assert_holds(run, protocol, variant, SAFETY, "safety", verdicts)
    # No handler of the agent's starts while the flag is up: there it never comes to H2.
    assert variant or not never_reached(output)


@pytest.mark.parametrize(("protocol", "variant"), MODELS)
def test_the_patcher_always_ends(protocol: str, variant: str | None, run: Run, verdicts: dict[str, str]) -> None:
    assert_holds(run, protocol, variant, LIVENESS, "liveness", verdicts)


@pytest.mark.parametrize(
    ("protocol", "mutant"), [(protocol, mutant) for protocol, mutants in MUTANTS.items() for mutant in mutants]
)
def test_a_mutant_is_refuted(protocol: str, mutant: str, run: Run, verdicts: dict[str, str]) -> None:
    expected = MUTANTS[protocol][mutant]
    # What refutes it is near: compiling is what takes time.
    output = ask(run, protocol, LIVENESS if expected == ENDLESS else SAFETY, "-O0", variant=mutant)
    verdicts[f"{protocol} {mutant}"] = verdict(output)
    assert "errors: 1" in output
    assert verdict(output).startswith(expected)


@pytest.mark.parametrize("protocol", MUTANTS)
def test_every_mutant_is_asked_about_and_in_the_documentation(protocol: str) -> None:
    text = (PROTOCOLS / "code.pml").read_text() + (PROTOCOLS / f"{protocol}.pml").read_text()
    conditions = " ".join(re.findall(r"^#(?:if|ifdef|ifndef|elif)\b(.*)$", text, re.MULTILINE))
    assert set(re.findall(r"[A-Z][A-Z0-9_]+", conditions)) - {"SIGNALS", "AGENT"} == set(MUTANTS[protocol])
    rows = re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", PAGE.read_text().split(f"`{protocol}.pml`:")[1], re.MULTILINE)
    documented = dict(rows[: len(MUTANTS[protocol])])
    assert set(documented) == set(MUTANTS[protocol])
    assert all(documented[mutant].startswith(what) for mutant, what in MUTANTS[protocol].items())
