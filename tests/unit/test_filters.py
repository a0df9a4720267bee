"""The filter language: against a plain evaluator, its errors, and in every command that takes it."""

import contextlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmiotap.analysis import narrow
from mmiotap.analysis.filters import FIELDS, Filter, compiled
from mmiotap.analysis.select import FilterError
from mmiotap.cli import main
from mmiotap.registers.decode import Binding, Decoder
from mmiotap.registers.model import Description, Field, Register
from mmiotap.trace import layout
from mmiotap.trace.model import Site
from mmiotap.trace.reader import Trace, open_trace
from recordings import Producer, new_recording
from synthetic import START, UIO, row, write_trace

DEVICE = Description(
    "device",
    (
        Register("CTRL", 0x0, 4, fields=(Field("EN", 0, 1), Field("MODE", 4, 3))),
        Register("TX", 0x10, 4, counts=(4,)),
    ),
)

ROWS = [
    row(0, "map", value=UIO.address, text="{}"),
    row(1_000, "write", 4, 0x0, 0x31, pc=0x401000, flags=layout.PATCHED),
    row(2_000, "read", 4, 0x14, 0x1, pc=0x401010, took=70),
    row(2_500, "read", 1, 0x1C, 2**64 - 1, tid=101, took=4_000),
    row(3_000, "write", 16, 0x100, 2**63, data=bytes(range(16)), flags=layout.LOCKED),
    row(3_500, "write", 4, 0x0, flags=layout.VALUE_UNKNOWN | layout.REASON_LOCKED << layout.REASON_SHIFT),
    row(4_000, "read", 4, 0x0, 7, map_id=2, pid=200, tid=201),
    row(1_500_000, "mark", map_id=0, text="TX done"),
    row(2_000_000_000, "lost", map_id=0, value=3),
    row(2_000_000_001, "unknown", 0, 0x10, data=b"\x0f\xae\x07", flags=layout.STEPPED),
] + [row(10**10 + n, "write", 4, 4 * n, n) | {"cpu": n - 1} for n in range(3)]


def decoder() -> Decoder:
    return Decoder([Binding(DEVICE, 1, 0)])


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    return open_trace(write_trace(tmp_path_factory.mktemp("filters") / "t[1]*", ROWS[:4], ROWS[4:]))


def times(trace: Trace, text: str) -> list[int]:
    """When the events are that a filter chooses; only this column is read."""
    found: list[Any] = trace.only(compiled(text, trace, decoder)).events(["time_ns"])["time_ns"].to_pylist()
    return [time - START for time in found]


# A plain evaluator: what an event has, or None where it has not. Every strategy makes a text and what it means.

Event = dict[str, Any]


def plain(trace: Trace) -> list[Event]:
    events = trace.events()
    decoded = decoder().decode(events)
    names = zip(decoded.register.to_pylist(), decoded.fields.to_pylist(), strict=True)
    found = []
    for event, (register, fields) in zip(events.to_pylist(), names, strict=True):
        access = event["kind"] in ("read", "write", "unknown")
        known = event["kind"] in ("read", "write") and not event["flags"] & layout.VALUE_UNKNOWN
        found.append(
            {
                "kind": event["kind"],
                "access": access,
                "known": known,
                "offset": event["offset"] if access else None,
                "width": event["width"] if access else None,
                "value": event["value"] if known else None,
                "reg": register,
                "fields": fields,
                "time": event["time_ns"] - START,
                "duration": event["duration_ns"],
                "map": event["map_id"],
                "cpu": event["cpu"] if event["cpu"] >= 0 else None,
                **{name: event[name] for name in ("pc", "pid", "tid", "flags", "text")},
                "locked": bool(event["flags"] & layout.LOCKED),
            }
        )
    return found


Value = tuple[str, Callable[[Event], Any]]
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda a, b: a == b, "!=": lambda a, b: a != b, "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b, ">": lambda a, b: a > b, ">=": lambda a, b: a >= b,
    "=~": lambda a, b: re.search(b, a) is not None, "!~": lambda a, b: re.search(b, a) is None,
}  # fmt: skip
MASK = 2**64 - 1


def getter(name: str) -> Value:
    return name, lambda event: event[name]


def constant(number: int) -> Value:
    return (hex(number) if number % 2 else str(number)), lambda event: number


def bits(sign: str, left: Value, right: Value, apply: Callable[[int, int], int]) -> Value:
    def value(event: Event) -> int | None:
        a, b = left[1](event), right[1](event)
        return None if a is None or b is None else apply(a, b)

    return f"({left[0]} {sign} {right[0]})", value


def compare(sign: str, left: Value, right: Value) -> Value:
    def truth(event: Event) -> bool:
        a, b = left[1](event), right[1](event)
        return a is not None and b is not None and COMPARE[sign](a, b)

    return f"{left[0]} {sign} {right[0]}", truth


NUMBERS = st.sampled_from([0, 1, 3, 4, 7, 0x10, 0x31, 0x80, 0x100, 101, 2**63, MASK])
FIELD = st.sampled_from(["offset", "width", "value", "pc", "flags"]).map(getter)
SHIFT = st.integers(0, 63).map(constant)
BITS: st.SearchStrategy[Value] = st.recursive(
    FIELD,
    lambda inner: st.one_of(
        st.builds(lambda a, b: bits("&", a, b, lambda x, y: x & y), inner, inner | NUMBERS.map(constant)),
        st.builds(lambda a, b: bits("|", a, b, lambda x, y: x | y), inner, inner),
        st.builds(lambda a, b: bits("^", a, b, lambda x, y: x ^ y), NUMBERS.map(constant), inner),
        st.builds(lambda a, b: bits("<<", a, b, lambda x, y: x << y & MASK), inner, SHIFT),
        st.builds(lambda a, b: bits(">>", a, b, lambda x, y: x >> y), inner, SHIFT),
    ),
    max_leaves=4,
)
ORDER = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
SMALL = st.sampled_from([-1, 0, 1, 2, 100, 101, 201, 2**40]).map(lambda n: (str(n), lambda event: n))
TIMES = st.sampled_from(
    [("1us", 1_000), ("2.5us", 2_500), ("70ns", 70), ("1.5ms", 1_500_000), ("2", 2 * 10**9), ("-1s", -(10**9))]
).map(lambda pair: (pair[0], lambda event: pair[1]))


def text(name: str) -> st.SearchStrategy[Value]:
    words = st.sampled_from(["CTRL", "TX", "TX[1]", "EN", "EN MODE=3", "^T", "TX.*", r"\[3\]", "done$", "C|X", ""])
    quoted = words.map(lambda word: (f'"{word}"', lambda event: word))
    return st.builds(compare, st.sampled_from(["==", "!=", "=~", "!~"]), st.just(getter(name)), quoted)


TRUTH: st.SearchStrategy[Value] = st.recursive(
    st.one_of(
        st.builds(compare, ORDER, BITS, NUMBERS.map(constant) | BITS),
        st.builds(compare, ORDER, NUMBERS.map(constant), BITS),
        st.builds(compare, ORDER, st.sampled_from(["pid", "tid", "cpu", "map"]).map(getter), SMALL),
        st.builds(compare, ORDER, st.sampled_from(["time", "duration"]).map(getter), TIMES),
        BITS.map(lambda value: (value[0], lambda event: bool(value[1](event)))),
        st.sampled_from(["access", "known", "locked"]).map(getter),
        st.sampled_from(["read", "write", "mark", "lost", "unknown", "unmap"]).map(
            lambda kind: (kind, lambda event: event["kind"] == kind)
        ),
        text("reg"),
        text("fields"),
        text("text"),
    ),
    lambda inner: st.one_of(
        st.builds(lambda a, b: (f"({a[0]} and {b[0]})", lambda e: a[1](e) and b[1](e)), inner, inner),
        st.builds(lambda a, b: (f"({a[0]} or {b[0]})", lambda e: a[1](e) or b[1](e)), inner, inner),
        inner.map(lambda a: (f"not ({a[0]})", lambda e: not a[1](e))),
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(TRUTH)
def test_a_filter_chooses_what_it_says(trace: Trace, truth: Value) -> None:
    assert times(trace, truth[0]) == [event["time"] for event in plain(trace) if truth[1](event)]


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("read or write and locked", "read or (write and locked)"),
        ("not read and known", "(not read) and known"),
        ("value & 0xf0 == 0x30", "(value & 0xf0) == 0x30"),
        ("value >> 4 & 3 == 3", "((value >> 4) & 3) == 3"),
        ("flags | 1 << 2 == 0xc", "(flags | (1 << 2)) == 0xc"),
        ("value & ~0x1 == 0x30", "value & 0xfffffffffffffffe == 0x30"),
        ("0x30 < value", "value > 0x30"),
        ("kind == write", 'kind == "write"'),
        ("kind in (read, mark)", "read or mark"),
        ("offset in 0x4..0x1c", "offset >= 4 and offset <= 0x1c"),
        ("offset in (0, 0x14..0x1c, 0x100)", "offset == 0 or offset == 0x14 or offset == 0x1c or offset == 0x100"),
        ("time in 1us..2.5us", "time >= 0.000001 and time <= 0.0000025"),
        ('map == "uio0"', "map == 1"),
        ('map =~ "uring"', "map == 2"),
        ('map != "/dev/*"', "map == 2"),
        ('device == "0000:00:03.0"', "map == 1"),
        ("reg in (\"CTRL\", 'TX[1]')", 'reg =~ "^(CTRL|TX.1.)$"'),
        (r'text == "a\"b"', "text == 'a\"b'"),
        ('text =~ "\\d" or  \t text=~"X d"', 'text == "TX done"'),
    ],
)
def test_filters_that_mean_the_same(trace: Trace, text: str, means: str) -> None:
    assert times(trace, text) == times(trace, means)
    assert times(trace, text) != times(trace, f"not ({means})")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "column 1: expected a value"),
        ("read and", 'column 9: expected a value after "and"'),
        ("value & 0x1 ==", 'column 15: expected a value after "=="'),
        ("value == == 3", 'column 10: expected a value after "==", not "=="'),
        ("value = 3", 'column 7: expected "==", not "="'),
        ("value 3", 'column 7: expected an operator, not "3"'),
        ("(read or write", 'column 15: expected ")" for the "(" of column 1, not the end'),
        ("read)", 'column 5: expected an operator, not ")"'),
        ("1 < value < 3", 'column 11: "<" cannot follow another comparison; join them with "and"'),
        ("vlaue == 3", 'column 1: no field is "vlaue"; did you mean "value"? mmiotap fields lists them'),
        ("read and zzz", 'column 10: no field is "zzz"; mmiotap fields lists them'),
        ("kind == reed", 'column 9: no kind of event is "reed"; kinds are read, write,'),
        ("value == 0x1g", 'column 10: "0x1g" is no number'),
        ("value == 1.5", "column 10: value has no fractions"),
        ("value == 1ms", "column 10: value is no time, and has no unit"),
        ("value == -1", "column 10: less than 0"),
        ("value == 0x10000000000000000", "column 10: more than 64 bits"),
        ("value << 64 == 0", 'column 10: "<<" shifts by a number from 0 to 63'),
        ("value & 1.5", 'column 9: "&" takes whole numbers'),
        ("tid & 1", 'column 1: "&" takes numbers of bits, not tid'),
        ("tid", "column 1: tid is neither true nor false; compare it with something"),
        ("1 == 1", "column 3: compares two constants; there must be a field"),
        ('value == "x"', "column 10: value is compared with a number, not with a text"),
        ("text == 3", "column 9: text is compared with a text, not with a number"),
        ('reg < "x"', 'column 7: reg is a text; it can be compared by ==, !=, =~ and !~, not "<"'),
        ('value =~ "x"', 'column 7: "=~" compares a text field with a "text"'),
        ('reg =~ "("', "column 8: no regular expression: "),
        ('reg == "x', 'column 8: the text has no closing "'),
        ("time == duration", "column 9: time cannot be compared with duration"),
        ("time == 0.1ns", "column 9: time has no fractions of nanoseconds"),
        ("read == 1", "column 1: read is true or false, and has no value"),
        ("value == (read or write)", "column 16: expected a value, not something true or false"),
        ('source == "x"', "column 1: only a merged trace has sources"),
        ("read ; write", "column 6: ';' has no meaning here"),
        ("(" * 1000, "column 151: too long; a filter has at most 150 operators"),
        (" or ".join(["read"] * 1000), "column 1206: too long; a filter has at most 150 operators"),
    ],
)
def test_what_is_wrong_has_its_place(trace: Trace, text: str, why: str) -> None:
    with pytest.raises(FilterError) as wrong:
        compiled(text, trace, decoder)
    assert str(wrong.value).startswith(f"filter: {why}")
    assert "\n" not in str(wrong.value)


def test_the_longest_filter_works(trace: Trace) -> None:
    assert times(trace, " or ".join(["read"] * 151)) == times(trace, "read")
    assert times(trace, "not " * 150 + "read") == times(trace, "read")


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ['"', "'", "(", ")", "..", "in", "not", "-", "~", "µs", "\\", *FIELDS, *COMPARE, "1", "0x", "é"]
        )
        | st.text(max_size=3)
    )
)
def test_nothing_else_goes_wrong(trace: Trace, words: list[str]) -> None:
    with contextlib.suppress(FilterError):
        times(trace, " ".join(words))


def test_names_need_a_description(trace: Trace) -> None:
    with pytest.raises(FilterError, match="column 10: nothing names this trace's registers; give a description"):
        compiled('read and reg == "CTRL"', trace, lambda: None)


def test_a_running_recording_is_filtered_too(tmp_path: Path) -> None:
    arena = new_recording(tmp_path / "t")
    producer = Producer(arena, range(4), pid=100, tid=100)
    for value in range(4):
        producer.write(layout.WRITE, width=4, map_id=1, offset=4, value=value, time_ns=5 + value)
    trace = open_trace(tmp_path / "t")
    only = trace.only(compiled("value & 2", trace, lambda: None))
    assert only.events(["value"])["value"].to_pylist() == [2, 3]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("offset == 0x100", [1]),
        ("write and value & 1 and offset in (0x14, 0x18)", [0]),
        ("tid in (1..3, 201..300)", [1]),
        ("offset == 0x9999", []),
        ("offset == 0x100 and tid == 101", []),
        ('map == 1 and reg == "TX[1]"', [0, 1]),
        ("offset == 0x100 or tid == 101", [0, 1]),
        ("not offset == 0x100", [0, 1]),
        ("tid == -1", [0, 1]),
        ('map == "uio0"', [0, 1]),
    ],
)
def test_parts_without_such_events_are_not_read(
    trace: Trace, monkeypatch: pytest.MonkeyPatch, text: str, parts: list[int]
) -> None:
    expected = times(trace, text)
    monkeypatch.setattr(narrow, "WORTH", 0)
    chosen = compiled(text, trace, decoder).parts(trace.parts)
    assert list(chosen) == [trace.parts[number] for number in parts]
    assert times(trace, text) == expected


@pytest.mark.parametrize(
    ("offset", "tids", "parts"),
    [("0x100", [], [1]), ("0x14..0x18", [], [0]), ("0x50..", [], [1]), (None, [201, 7], [1]), (None, [-1], [0, 1])],
)
def test_options_tell_parts_apart_too(
    trace: Trace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    offset: str | None,
    tids: list[int],
    parts: list[int],
) -> None:
    options = [*(["--offset", offset] if offset else []), *(f"--tid={tid}" for tid in tids)]
    assert main(["show", str(trace.path), *options]) == 0
    expected = capsys.readouterr().out
    monkeypatch.setattr(narrow, "WORTH", 0)
    chosen = Filter(None, sql=narrow.of_options(offset, tids)).parts(trace.parts)
    assert list(chosen) == [trace.parts[number] for number in parts]
    assert main(["show", str(trace.path), *options]) == 0
    assert capsys.readouterr().out == expected


def test_every_command_that_chooses_takes_it(trace: Trace, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(trace.path)
    chosen = ["--filter", "write and value & 0x30 == 0x30"]
    assert main(["show", path, *chosen]) == 0
    assert [line.split()[2] for line in capsys.readouterr().out.splitlines()] == ["write"]
    assert main(["show", path, "--kind", "read", *chosen]) == 0
    assert capsys.readouterr().out == ""
    assert main(["export", path, "--format", "csv", *chosen]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main(["stats", path, *chosen]) == 0
    assert capsys.readouterr().out.startswith("1 events (1 write)")
    assert main(["diff", path, path, *chosen]) == 0
    assert capsys.readouterr().out == "equal: 1 accesses\n"
    for command in (["show", path], ["stats", path], ["sites", path], ["diff", path, path]):
        assert main([*command, "--filter", "value =="]) == 2
        captured = capsys.readouterr()
        assert (captured.out, captured.err) == ("", 'mmiotap: filter: column 9: expected a value after "=="\n')


def test_sites_are_those_of_the_events(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sites = [Site(100, pc, 4, "seen", 1, "89", 1) for pc in (0x401000, 0x401010)]
    path = write_trace(tmp_path / "t", ROWS[:4], sites=sites)
    assert main(["sites", str(path), "--format", "csv", "--filter", "write"]) == 0
    assert [line.split(",")[1] for line in capsys.readouterr().out.splitlines()[1:]] == [str(0x401000)]


def test_fields_lists_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fields"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()[3:]]
    assert listed == list(FIELDS)
    assert main(["fields", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["field"], row["is"], row["meaning"]) for row in rows] == [(name, *FIELDS[name]) for name in FIELDS]
    documented = (Path(__file__).parents[2] / "docs" / "fields.md").read_text()
    assert [name for name in FIELDS if f"`{name}`" not in documented] == []
