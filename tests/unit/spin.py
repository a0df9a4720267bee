"""Asking spin about the models in protocols/, and reading what it answers."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import Run

PROTOCOLS = Path(__file__).parents[2] / "protocols"
PAGE = PROTOCOLS.parent / "docs" / "protocols.md"
#: Seconds that one search may take; a few are normal.
LIMIT = 100.0


@dataclass(frozen=True)
class Search:
    """How a question to a model is asked."""

    spin: tuple[str, ...]
    compile: tuple[str, ...]
    pan: tuple[str, ...]


#: No partial order reduction: every interleaving.
SAFETY = Search((), ("-DSAFETY", "-DBFS", "-DNOCLAIM", "-DNOREDUCE"), ("-w22",))


def fair(*defines: str) -> Search:
    """Under weak fairness: whoever can move all the time does at some time."""
    return Search(defines, ("-DNFAIR=4", "-DNOREDUCE"), ("-a", "-f", "-m1000000", "-w20"))


def ask(run: Run, protocol: str, search: Search, flag: str, defines: Iterable[str] = ()) -> str:
    """What the checker says, in the test's folder; ``flag`` goes to the compiler."""
    named = (f"-D{define}" for define in defines)
    made = run("spin", "-a", *search.spin, *named, PROTOCOLS / f"{protocol}.pml", limit=LIMIT)
    assert made.status == 0, made.stdout + made.stderr
    compiled = run("gcc", "-w", flag, *search.compile, "-o", "pan", "pan.c", limit=LIMIT)
    assert compiled.status == 0, compiled.stderr
    found = run("./pan", *search.pan, limit=LIMIT)
    assert not found.stderr
    return found.stdout


def ask_all(run: Run, protocol: str, search: Search, defines: Iterable[str] = ()) -> str:
    """The same of a model that holds: nothing refutes it, and no interleaving was left out."""
    output = ask(run, protocol, search, "-O1", defines)
    assert "errors: 0" in output
    assert "not completed" not in output
    assert "too small" not in output
    return output


@dataclass(frozen=True)
class Meanings:
    """What it means that a model is refuted."""

    #: What an assertion is about, by what is in it; the first that fits.
    assertions: Mapping[str, str]
    endless: str

    def verdict(self, output: str) -> str:
        """What refutes the model, with the shortest way there or the states it took to show that nothing does."""
        assertion = re.search(r"assertion violated (.*) \(at depth (\d+)\)", output)
        if assertion:
            what = next(meaning for part, meaning in self.assertions.items() if part in assertion[1])
            return f"{what}, after {assertion[2]} steps"
        cycle = re.search(r"acceptance cycle \(at depth (\d+)\)", output)
        if cycle:
            return f"{self.endless}, from step {cycle[1]} on"
        states = re.search(r"(\d+) states, stored", output)
        assert states, output
        return f"holds, {states[1]} states"


def never_reached(output: str) -> list[str]:
    """Statements of the model that no interleaving came to; a process runs for ever and never comes to its end."""
    processes = re.split(r"^unreached in ", output, flags=re.MULTILINE)[1:]
    lines = [line for process in processes if not process.startswith("claim") for line in process.splitlines()]
    return [line for line in lines if line.startswith("\t/") and '"-end-"' not in line]


def trail(run: Run, protocol: str, defines: Iterable[str]) -> str:
    """What the model prints on the way that refuted it, which :func:`ask` has left in the test's folder."""
    named = (f"-D{define}" for define in defines)
    return run("spin", "-t", "-T", *named, "-k", f"{protocol}.pml.trail", PROTOCOLS / f"{protocol}.pml").stdout


def conditions(*files: str) -> set[str]:
    """All that a -D may change in these models."""
    text = "".join((PROTOCOLS / file).read_text() for file in files)
    lines = " ".join(re.findall(r"^#(?:if|ifdef|ifndef|elif)\b(.*)$", text, re.MULTILINE))
    return set(re.findall(r"[A-Z][A-Z0-9_]+", lines))


def documented(protocol: str, count: int) -> dict[str, str]:
    """The first so many rows of the model's table in the documentation: each mutant, with what refutes it."""
    section = PAGE.read_text().split(f"`{protocol}.pml`:")[1]
    return dict(re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", section, re.MULTILINE)[:count])


@contextmanager
def printed_at_the_end(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """A dictionary for verdicts, or pictures, which are printed at the end, captured or not."""
    found: dict[str, str] = {}
    yield found
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n" + "\n".join(f"    {who:<48}{what}" for who, what in found.items()))
