"""Programs that are hard on a tracer: each must run as it does untraced, and its trace must hold what it did."""

import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from conftest import WAYS, Compile, Result, Run
from mmiotap.trace import layout
from mmiotap.trace.reader import open_trace

from .tracing import PROCESSOR

SPECIAL = Path(__file__).parent / "special"
PAGES = 8
MEANT = ("read", "write", "unknown")

every_way = pytest.mark.parametrize(
    ("traced", "patching"),
    [(False, "off"), *((True, way) for way in WAYS.values())],
    ids=["untraced", *WAYS],
    indirect=["patching"],
)


@dataclass(frozen=True)
class Ended:
    """How a special program ended, and the rows of its trace (none untraced)."""

    result: Result
    rows: list[dict[str, Any]]

    def accesses(self, *, below: int = PAGES * 4096, **like: object) -> list[tuple[str, int, int]]:
        """Kind, offset and value of plain accesses, in order; only those whose columns are ``like`` this."""
        return [
            (row["kind"], row["offset"], row["value"])
            for row in self.rows
            if row["kind"] in ("read", "write")
            and row["offset"] < below
            and all(row[name] == value for name, value in like.items())
        ]


@pytest.fixture
def special(compile_c: Compile, run: Run, mmiotap: Run, tmp_path: Path) -> Any:
    """Compile a special program and run it on a device of this many pages."""

    def run_special(name: str, *arguments: str | Path, traced: bool, pages: int = PAGES) -> Ended:
        program = compile_c((SPECIAL / f"{name}.c").read_text(), name, f"-I{SPECIAL}", "-lm")
        device = tmp_path / "device"
        device.write_bytes(bytes(pages * 4096))
        if not traced:
            return Ended(run(program, device, *arguments), [])
        result = mmiotap("record", "-q", "-o", "trace", "--map", device, "--", program, device, *arguments)
        trace = open_trace(tmp_path / "trace")
        assert trace.lost == 0
        rows = trace.events().to_pylist()
        return Ended(result, [row for row in rows if row["kind"] in MEANT])

    return run_special


def assert_right(ended: Ended) -> None:
    assert (ended.result.stdout, ended.result.stderr, ended.result.status) == ("right\n", "", 0)


def counted(word: int, top: int, count: int) -> list[tuple[str, int, int]]:
    """What a loop leaves that writes ``top | i`` to a word and reads it back."""
    return [(kind, word, top | i) for i in range(count) for kind in ("write", "read")]


@every_way
def test_accesses_across_the_edges_of_a_region(special: Any, traced: bool) -> None:
    ended = special("straddle", traced=traced)
    assert_right(ended)
    if not traced:
        return
    marks = [index for index, row in enumerate(ended.rows) if row["kind"] == "write" and row["offset"] == 64]
    assert [ended.rows[index]["value"] for index in marks] == [1, 2]
    assert marks == [0, len(ended.rows) - 1]
    inside = ended.rows[1:-1]
    strings = [row for row in inside if row["flags"] & layout.STRING]
    text = bytes(i * 7 + 1 & 0xFF for i in range(48))
    for edge, part in ((0, text[20:]), (4096 - 20, text[:20])):
        written = [row for row in strings if row["kind"] == "write" and edge <= row["offset"] < edge + 64]
        assert [(row["width"], row["offset"]) for row in written] == [(1, edge + i) for i in range(len(part))]
        assert bytes(row["value"] for row in written) == part
    # Each part is known, ends with its mapping, and was run out of line.
    assert {row["kind"] for row in inside} == {"read", "write"}
    assert all(row["offset"] % 4096 + row["width"] <= 4096 for row in inside)
    assert not any(row["flags"] & (layout.STEPPED | layout.VALUE_UNKNOWN) for row in inside)
    assert {2, 3, 7, 160, 256} <= {row["width"] for row in inside}


@every_way
def test_a_stack_in_the_region(special: Any, traced: bool, patching: str) -> None:
    ended = special("inside", traced=traced)
    assert_right(ended)
    if traced:
        assert not any(row["flags"] & layout.STEPPED for row in ended.rows)
        words = Counter((row["kind"], row["offset"], row["value"]) for row in ended.rows)
        assert words["read", 64, 4711] == words["write", 64, 4711] == 50
        assert words["write", 4096 - 16, (1 << 64) - 7] == words["read", 4096 - 16, (1 << 64) - 7] == 50


@every_way
def test_a_patched_site_with_the_stack_in_the_region(special: Any, traced: bool, patching: str) -> None:
    ended = special("aside", traced=traced, pages=3)
    assert_right(ended)
    if not traced:
        return
    added = [(kind, value + (kind == "write")) for value in range(1000) for kind in ("read", "write")]
    for offset in (0, 4, 8):
        assert [(kind, value) for kind, _, value in ended.accesses(offset=offset)] == [*added, ("read", 1000)]
    assert len(ended.accesses(offset=12)) == 2 * 20000 + 1
    # The call writes where it came from to the stack, and the return reads that: all else that is there is the agent's.
    on_stack = [(row["kind"], row["offset"], row["width"]) for row in ended.rows if row["offset"] >= 4096]
    assert on_stack == [("write", 3 * 4096 - 8, 8), ("read", 3 * 4096 - 8, 8)] * 2000
    assert any(row["flags"] & layout.PATCHED for row in ended.rows) == (patching == "1")


@every_way
def test_threads_miss_nothing_while_another_one_steps(special: Any, traced: bool) -> None:
    ended = special("steps", traced=traced)
    assert_right(ended)
    if traced:
        for thread in range(2):
            assert ended.accesses(offset=4 * thread) == counted(4 * thread, thread << 24, 20000)
        assert Counter(row["kind"] for row in ended.rows)["unknown"] == 300


@every_way
@pytest.mark.parametrize(
    ("fault", "number"),
    [
        ("write-to-read-only", signal.SIGSEGV),
        ("beyond-the-end", signal.SIGBUS),
        ("protected", signal.SIGSEGV),
        ("unmapped", signal.SIGSEGV),
        ("behind", signal.SIGSEGV),
        ("null", signal.SIGSEGV),
    ],
)
def test_a_fault_ends_the_program_as_ever(special: Any, traced: bool, fault: str, number: int) -> None:
    ended = special("faults", fault, traced=traced, pages=1)
    assert (ended.result.stdout, ended.result.status) == ("before\n", -number)
    if traced:
        expected = [("write", 0, 1)] + [("read", 0, 1)] * (fault == "write-to-read-only")
        assert ended.accesses() == expected


@every_way
def test_the_programs_own_handlers_see_its_own_faults(special: Any, traced: bool) -> None:
    ended = special("handler", traced=traced, pages=1)
    assert_right(ended)
    if traced:
        assert [value for kind, _, value in ended.accesses(offset=0) if kind == "write"] == [41, 42, 43, 44, 45]
        assert ended.accesses(offset=4) == counted(4, 0, 50)


@every_way
def test_the_code_around_accesses(special: Any, traced: bool) -> None:
    ended = special("ahead", traced=traced)
    assert_right(ended)
    if traced:
        kinds = Counter(row["kind"] for row in ended.rows)
        conditions, values, reads = 16, 10, 4
        assert kinds["read"] >= conditions * values**2 * reads + 5000 + 64
        assert kinds["write"] >= conditions * values**2 + 64 + 5000
        assert set(kinds) == {"read", "write"}


@pytest.mark.skipif(not {"avx512f", "avx512vl"} <= PROCESSOR, reason="no AVX-512")
@every_way
def test_a_mask_that_leaves_out_all_of_an_operand(special: Any, traced: bool) -> None:
    ended = special("masks", traced=traced)
    assert_right(ended)
    if traced:
        loads = [4, 8, 12, 16, 64, *range(64, 128, 4)]
        for mask in (0xFFFF, 0):
            some = [row["offset"] for row in rounds_with(mask, ended.rows)]
            assert some == (loads * 200 if mask else [])


def rounds_with(mask: int, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The reads behind writes of this value."""
    chosen = False
    for row in rows:
        if row["kind"] == "write":
            chosen = row["value"] == mask
        elif chosen:
            yield row


@every_way
def test_arithmetic_errors(special: Any, traced: bool) -> None:
    ended = special("arithmetic", traced=traced)
    assert (ended.result.stdout, ended.result.stderr, ended.result.status) == ("right\n", "", -signal.SIGFPE)
    if traced:
        assert ended.accesses(offset=0) == [
            ("write", 0, 0),
            *[("read", 0, 0)] * 3,
            ("write", 0, 7),
            *[("read", 0, 7)] * 2,
            ("write", 0, 0),
            ("read", 0, 0),
        ]


@every_way
def test_threads_with_all_signals_blocked(special: Any, traced: bool) -> None:
    ended = special("blocked", traced=traced)
    assert_right(ended)
    if traced:
        for thread in range(3):
            assert ended.accesses(offset=4 * thread) == counted(4 * thread, thread << 24, 200)


@every_way
def test_a_signal_handler_and_main_touch_the_region(special: Any, traced: bool) -> None:
    ended = special("alarm", traced=traced)
    assert (ended.result.stderr, ended.result.status) == ("", 0)
    if traced:
        assert ended.accesses(offset=0) == counted(0, 0, int(ended.result.stdout))
        assert ended.accesses(offset=4) == counted(4, 0, 400)
        strings = [row["value"] for row in ended.rows if row["flags"] & layout.STRING]
        assert strings == [alarm for alarm in range(400) for _ in range(4)]


@every_way
def test_forked_children_have_rows_under_their_own_pids(special: Any, traced: bool) -> None:
    ended = special("forks", traced=traced)
    assert (ended.result.stderr, ended.result.status) == ("", 0)
    pids = [int(line) for line in ended.result.stdout.split()]
    assert len(set(pids)) == 3
    if traced:
        for who, pid in enumerate(pids):
            assert ended.accesses(pid=pid, below=16) == counted(4 * who, who << 24, 500)
        assert ended.accesses(pid=pids[0], offset=256) == [("write", 256, 0)]
        assert ended.accesses(pid=pids[1], offset=128) == [("write", 128, 77)]
        assert {row["pid"] for row in ended.rows} == set(pids)


@every_way
def test_code_that_is_loaded_and_unloaded(special: Any, compile_c: Compile, traced: bool) -> None:
    source = (SPECIAL / "library.c").read_text()
    libraries = [compile_c(source, f"step{step}.so", "-shared", "-fPIC", f"-DSTEP={step}") for step in (1, 2)]
    ended = special("loads", *libraries, traced=traced)
    assert_right(ended)
    if traced:
        expected: list[tuple[str, int, int]] = []
        for turn in range(20):
            for call in range(5):
                if turn % 2:
                    expected.append(("read", 4 * turn, 2 if call else 0))
                expected.append(("write", 4 * turn, 1 + turn % 2))
        assert ended.accesses() == expected


@every_way
def test_mappings_that_change(special: Any, traced: bool) -> None:
    ended = special("mappings", traced=traced)
    assert (ended.result.stderr, ended.result.status) == ("", 0), ended.result.stdout
    printed = [line.split() for line in ended.result.stdout.splitlines()]
    assert len(printed) == 20
    if traced:
        assert ended.accesses() == [(kind, int(offset), int(value)) for kind, offset, value in printed]


@every_way
def test_small_and_alternate_stacks(special: Any, traced: bool) -> None:
    ended = special("stacks", traced=traced)
    assert_right(ended)
    if traced:
        for word in (*range(10), 22):
            assert ended.accesses(offset=4 * word) == counted(4 * word, 0, 100)
        assert ended.accesses(offset=4 * 20) == counted(4 * 20, 0, 100) * 2
        assert ended.accesses(offset=4 * 21) == [("write", 84, 21)]


@every_way
def test_errno_and_the_red_zone_are_kept(special: Any, traced: bool) -> None:
    ended = special("kept", traced=traced)
    assert_right(ended)
    if traced:
        expected = []
        for i in range(300):
            expected += [("write", 0, i), ("read", 0, i), ("read", 0, i), ("read", 0, i), ("write", 0, i + 1)]
            expected += [("read", 0, i + 1)]
        assert ended.accesses(offset=0) == expected
