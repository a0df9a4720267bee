"""Handlers: what they may answer, what becomes of one that raises, and scripts that change while they run."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mmiotap.kmmio import handlers
from mmiotap.kmmio.access import Access, AnswerError, Phase, Verdict
from mmiotap.kmmio.probe import Probe
from mmiotap.kmmio.script import Script
from mmiotap.trace.errors import MmiotapError


def access(kind: str = "read", phase: Phase = Phase.PRE, value: int | None = None, *, width: int = 4) -> Access:
    return Access(kind, 0x7F0000001008, 8, width, value, 0x401234, 10, 11, 1_000, 1, "/dev/uio0", 0, phase, {"rax": 7})


def probe(*, pre: Callable[[Access], None] | None = None, post: Callable[[Access], None] | None = None) -> Probe:
    return Probe(0x7F0000001008, 4, pre, post)


def run(seen: Access, *probes: Probe) -> list[str]:
    """What was reported."""
    reports: list[str] = []
    assert handlers.run(probes, seen, reports.append) == (not reports)
    return reports


def change(value: int) -> Callable[[Access], None]:
    def handler(seen: Access) -> None:
        seen.value = value

    return handler


def answer(value: int) -> Callable[[Access], None]:
    return lambda seen: seen.answer(value)


def swallow(seen: Access) -> None:
    seen.swallow()


def observe(seen: Access) -> None:
    assert seen.registers["rax"] == 7


@pytest.mark.parametrize(
    ("kind", "phase", "value", "handler", "verdict", "after"),
    [
        ("read", Phase.PRE, None, answer(5), Verdict.ANSWER, 5),
        ("write", Phase.PRE, 1, swallow, Verdict.SWALLOW, 1),
        ("write", Phase.PRE, 1, change(2), Verdict.CHANGE, 2),
        ("read", Phase.POST, 1, change(2), Verdict.CHANGE, 2),
        ("read", Phase.PRE, None, observe, Verdict.DEVICE, None),
        ("write", Phase.POST, 1, observe, Verdict.DEVICE, 1),
    ],
)
def test_what_may_be_answered(
    kind: str, phase: Phase, value: int | None, handler: Callable[[Access], None], verdict: Verdict, after: int | None
) -> None:
    seen = access(kind, phase, value)
    assert run(seen, probe(pre=handler) if phase is Phase.PRE else probe(post=handler)) == []
    assert (seen.verdict, seen.value) == (verdict, after)


@pytest.mark.parametrize(
    ("kind", "phase", "handler"),
    [
        ("read", Phase.PRE, swallow),
        ("read", Phase.PRE, change(1)),
        ("read", Phase.POST, answer(1)),
        ("read", Phase.POST, swallow),
        ("write", Phase.PRE, answer(1)),
        ("write", Phase.POST, change(1)),
        ("write", Phase.POST, swallow),
        ("read", Phase.OVER, answer(1)),
        ("write", Phase.OVER, swallow),
        ("unknown", Phase.PRE, answer(1)),
        ("read", Phase.PRE, answer(1 << 32)),
        ("read", Phase.PRE, answer(-1)),
        ("write", Phase.PRE, change(1 << 32)),
    ],
)
def test_what_may_not(kind: str, phase: Phase, handler: Callable[[Access], None]) -> None:
    seen = access(kind, phase, 9)
    with pytest.raises(AnswerError):
        handler(seen)
    assert (seen.verdict, seen.value) == (Verdict.DEVICE, 9)


def test_an_answer_that_comes_too_late() -> None:
    kept: list[Access] = []
    run(access(), probe(pre=kept.append))
    with pytest.raises(AnswerError, match="over"):
        kept[0].answer(1)


def test_the_last_answer_counts() -> None:
    seen = access("write", value=1)
    assert run(seen, probe(pre=change(2)), probe(post=swallow), probe(pre=swallow)) == []
    assert seen.verdict is Verdict.SWALLOW


def test_a_handler_that_raises_is_reported_in_one_line_and_no_answer_counts() -> None:
    def broken(seen: Access) -> None:
        seen.value = 3
        raise ValueError("two\nlines")

    seen = access("write", value=1)
    line = broken.__code__.co_firstlineno + 2
    assert run(seen, probe(pre=change(2)), probe(pre=broken)) == [
        f"pre of <write 4 at /dev/uio0:0x8, value 0x00000001, pc 0x401234>: ValueError: two lines ({__file__}:{line})"
    ]
    assert (seen.verdict, seen.value) == (Verdict.DEVICE, 1)


def test_an_answer_that_is_none_is_reported_where_it_was_given() -> None:
    [report] = run(access(), probe(pre=answer(1 << 40)))
    assert "AnswerError: 0x10000000000 is no value of 4 bytes" in report
    assert f"({__file__}:" in report


class TestScript:
    def test_functions_are_called(self, tmp_path: Path) -> None:
        script, _ = load(tmp_path, "def pre(access): access.answer(1)\ndef post(access): access.value = 2\n")
        before, after = access(), access(phase=Phase.POST, value=0)
        script.pre(before)
        script.post(after)
        assert (before.value, after.value) == (1, 2)

    def test_one_of_them_is_enough(self, tmp_path: Path) -> None:
        script, _ = load(tmp_path, "def post(access): pass\n")
        script.pre(access())
        assert [script.defines(name) for name in ("pre", "post")] == [False, True]

    def test_a_changed_file_is_in_force_at_the_next_access(self, tmp_path: Path) -> None:
        script, reports = load(tmp_path, "def pre(access): access.answer(1)\n")
        for value in (2, 3):
            save(tmp_path, f"def pre(access): access.answer({value})\n")
            seen = access()
            script.pre(seen)
            assert seen.value == value
        assert reports == [f"{tmp_path / 'script.py'}: loaded anew"] * 2

    @pytest.mark.parametrize(
        ("bad", "why"),
        [
            ("def pre(access:\n", r"script.py:1: SyntaxError: .*never closed"),
            ("\n\nimport no_such_module\n", r"script.py:3: ModuleNotFoundError: "),
            ("raise SystemExit(3)\n", r"script.py:1: SystemExit: 3"),
            ("", r"script.py defines neither pre\(access\) nor post\(access\)"),
            ("\0", r"script.py.*: .*null byte"),
        ],
    )
    def test_a_new_version_that_cannot_be_loaded(self, tmp_path: Path, bad: str, why: str) -> None:
        script, reports = load(tmp_path, "def pre(access): access.answer(1)\n")
        save(tmp_path, bad)
        for _ in range(2):
            seen = access()
            script.pre(seen)
            assert seen.value == 1
        [report] = reports
        assert report.endswith("; the version before stays in force")
        with pytest.raises(MmiotapError, match=why) as error:
            Script(tmp_path / "script.py", reports.append)
        assert str(error.value) in report
        assert "\n" not in report

    def test_a_file_that_is_removed_stays_in_force(self, tmp_path: Path) -> None:
        script, reports = load(tmp_path, "def pre(access): access.answer(1)\n")
        (tmp_path / "script.py").unlink()
        seen = access()
        script.pre(seen)
        assert seen.value == 1
        assert reports == [f"{tmp_path / 'script.py'}: No such file or directory; the version before stays in force"]

    def test_dataclasses_work_in_it(self, tmp_path: Path) -> None:
        load(tmp_path, DATACLASS)


DATACLASS = """\
from __future__ import annotations
from dataclasses import dataclass
@dataclass
class Device:
    value: int = 0
def pre(access): pass
"""


def save(folder: Path, text: str) -> None:
    """As most editors do it: the new file takes the place of the old one."""
    new = folder / "new"
    new.write_text(text)
    new.replace(folder / "script.py")


def load(folder: Path, text: str) -> tuple[Script, list[str]]:
    save(folder, text)
    reports: list[str] = []
    return Script(folder / "script.py", reports.append), reports
