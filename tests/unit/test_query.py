"""``mmiotap query``: what SQL sees of a trace, how answers are written, and that a trace is only read."""

import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mmiotap.analysis import query
from mmiotap.cli import main
from mmiotap.registers import choose
from mmiotap.trace import layout
from mmiotap.trace.model import Site
from mmiotap.trace.reader import open_trace
from recordings import Producer, new_recording
from synthetic import DRIVER, UIO, row, write_trace

RDL = """
addrmap device {
    reg { field { sw = rw; hw = r; } EN[0:0]; field { sw = rw; hw = r; } MODE[6:4]; } CTRL @ 0x0;
    reg { field { sw = r; hw = w; } BUSY[0:0]; } STATUS @ 0x4;
};
"""

ROWS = [
    row(1_000, "write", 4, 0x0, 0x31, pc=0x401000),
    row(2_000, "read", 4, 0x4, 0x1, pc=0x401010, took=70),
    row(3_000, "read", 16, 0x100, 0x0706050403020100, data=bytes(range(16))),
    row(4_000, "mark", map_id=0, text="done"),
    row(5_000, "lost", map_id=0, value=3),
]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Its name has what DuckDB would take for a pattern, and for the end of a string."""
    sites = [Site(100, 0x401000, 4, "jump", 3, "89", 1)]
    return write_trace(tmp_path / "t'[1]*", ROWS[:2], ROWS[2:], sites=sites)


def ask(trace: Path, sql: str, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert main(["query", str(trace), sql, *options]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def as_json(trace: Path, sql: str, capsys: pytest.CaptureFixture[str], *options: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(ask(trace, sql, capsys, "--format", "json", *options))
    return found


def test_events_have_all_columns(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(trace, "FROM events ORDER BY time_ns", capsys)
    assert [row["seconds"] for row in found] == [1e-6, 2e-6, 3e-6, 4e-6, 5e-6]
    names = open_trace(trace).schema.names
    expected = open_trace(trace).events().to_pylist()
    expected[2]["data"] = bytes(range(16)).hex()
    assert [{name: row[name] for name in names} for row in found] == expected


def test_a_table_is_for_reading(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sql = "SELECT kind, count(*) AS n, max(value) AS most FROM events GROUP BY kind ORDER BY kind"
    assert ask(trace, sql, capsys).splitlines() == [
        "kind   n                most",
        "lost   1                   3",
        "mark   1                   0",
        "read   2  506097522914230528",
        "write  1                  49",
    ]


def test_registers_and_fields_have_names(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    description = tmp_path / "device.rdl"
    description.write_text(RDL)
    regs = ["--regs", f"{description}@1"]
    found = as_json(trace, "SELECT kind, register, fields FROM events ORDER BY time_ns", capsys, *regs)
    assert [tuple(row.values()) for row in found[:3]] == [
        ("write", "CTRL", "EN MODE=3"),
        ("read", "STATUS", "BUSY"),
        ("read", None, None),
    ]
    choose.remember(open_trace(trace), choose.asked([f"{description}@1"], [], perl=False))
    found = as_json(trace, 'SELECT register, "offset", width, "count", access FROM registers', capsys)
    assert [tuple(row.values()) for row in found] == [("CTRL", 0, 4, 1, "RW"), ("STATUS", 4, 4, 1, "RO")]
    sql = """SELECT field, (value >> lsb) & ((1 << bits) - 1) AS it FROM events JOIN fields
             USING (map_id, "offset", register) WHERE kind = 'write' ORDER BY lsb"""
    assert as_json(trace, sql, capsys) == [{"field": "EN", "it": 1}, {"field": "MODE", "it": 3}]
    assert as_json(trace, "SELECT count(register) AS n FROM events", capsys, "--no-regs") == [{"n": 0}]


def test_mappings_and_sites(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(trace, "FROM mappings WHERE map_id = 1", capsys)
    assert found == [UIO.to_json() | {"name": "uio0"}]
    found = as_json(trace, "SELECT pc, hits, state FROM sites ORDER BY pc", capsys)
    assert [tuple(row.values()) for row in found] == [(0x401000, 1, "jump"), (0x401010, 1, None)]


def test_what_a_running_recording_has_not_sealed_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arena = new_recording(tmp_path / "t")
    Producer(arena, range(4), pid=100, tid=100).write(layout.WRITE, width=4, map_id=1, offset=8, value=7, time_ns=5)
    sql = 'SELECT kind, "offset", value FROM events'
    assert as_json(tmp_path / "t", sql, capsys) == [{"kind": "write", "offset": 8, "value": 7}]


def test_an_empty_trace_has_views_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_trace(tmp_path / "t", mappings=[], processes=[DRIVER])
    assert as_json(path, "FROM events", capsys) == []
    assert as_json(path, "SELECT count(*) AS n FROM sites, registers, fields, mappings", capsys) == [{"n": 0}]


def test_a_format_alone_goes_to_the_standard_output(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ask(trace, "SELECT 1 AS one", capsys, "-o", "csv").split() == ['"one"', "1"]
    ask(trace, "SELECT 1 AS one", capsys, "-o", "./csv", "--format", "csv")
    assert Path("csv").read_text().split() == ['"one"', "1"]


@pytest.mark.parametrize("format", ["csv", "json", "parquet"])
def test_the_name_of_the_file_says_the_format(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], format: str
) -> None:
    out = tmp_path / f"found.{format}"
    sql = "SELECT kind, data, [value, 2] AS pair, sum(value) AS total FROM events WHERE width = 16 GROUP BY ALL"
    assert ask(trace, sql, capsys, "-o", str(out)) == ""
    data, total = bytes(range(16)), 0x0706050403020100
    if format == "csv":
        assert out.read_text().splitlines() == [
            '"kind","data","pair","total"',
            f'"read","{data.hex()}","[{total}, 2]",{total}',
        ]
    elif format == "json":
        assert json.loads(out.read_text()) == [{"kind": "read", "data": data.hex(), "pair": [total, 2], "total": total}]
    else:
        assert pq.read_table(out).to_pylist() == [{"kind": "read", "data": data, "pair": [total, 2], "total": total}]
    assert main(["query", str(trace), sql, "-o", str(out)]) == 1
    assert "exists; choose another name, or replace it with -f" in capsys.readouterr().err
    assert ask(trace, sql, capsys, "-o", str(out), "-f") == ""


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("SELECT nothing FROM events", 'line 1, column 8: Referenced column "nothing" not found'),
        ("SELECT '€',\n  nothing FROM events", 'line 2, column 3: Referenced column "nothing" not found'),
        ("SELCT 1", 'line 1, column 1: syntax error at or near "SELCT"'),
        ("FROM event", "line 1, column 6: Table with name event does not exist! Did you mean"),
        ("SELECT 'x'::INTEGER", "line 1, column 11: Could not convert string 'x'"),
        ("SELECT error(kind) FROM events", "write"),
        ("SELECT 1; SELECT 2", "2 statements, and one is answered"),
        ("", "0 statements, and one is answered"),
        ("CREATE TABLE t AS FROM events", "CREATE is no question"),
        ("COPY events TO 'x.csv'", "COPY is no question"),
        ("SET memory_limit = '1TB'", "SET is no question"),
        ("EXPLAIN ANALYZE COPY events TO 'x.csv'", "EXPLAIN is no question"),
        ("INSTALL httpfs", "LOAD is no question"),
        ("ATTACH 'x.db'", "ATTACH is no question"),
    ],
)
def test_what_is_wrong_is_one_line(trace: Path, capsys: pytest.CaptureFixture[str], sql: str, why: str) -> None:
    assert main(["query", str(trace), sql]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"mmiotap: SQL: {why}")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    "sql",
    [
        "FROM read_text('{other}')",
        "FROM read_csv('{other}')",
        "FROM '{other}'",
        "FROM read_parquet('{folder}/*.parquet')",
        "FROM glob('{folder}/*')",
        "FROM query('FROM read_text(''{other}'')')",
        "WITH x AS (COPY (SELECT 1) TO '{new}') FROM x",
        "WITH x AS (COPY (SELECT 1) TO '{part}') FROM x",
        "WITH x AS (COPY (SELECT 1) TO '{part}' (use_tmp_file false)) FROM x",
        "WITH x AS (COPY (SELECT 1) TO '{part}' (FORMAT csv, use_tmp_file false)) SELECT 1",
        "WITH x AS MATERIALIZED (COPY (FROM range(9)) TO '{part}' (FORMAT parquet, use_tmp_file false)) SELECT 1",
        "FROM query('WITH x AS (COPY (SELECT 1) TO ''{part}'' (use_tmp_file false)) FROM x')",
        "FROM sqlite_scan('{other}', 't')",
    ],
)
def test_no_other_file_is_read_and_none_is_written(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], sql: str
) -> None:
    other, new = tmp_path / "other", tmp_path / "new.parquet"
    other.write_text("secret\n")
    parts = {path: path.read_bytes() for path in trace.rglob("*") if path.is_file()}
    # As DuckDB knows the parts, by the descriptor that it will get, and as everybody does.
    descriptor = os.open(trace, os.O_RDONLY)
    os.close(descriptor)
    for folder in (f"/proc/self/fd/{descriptor}", str(trace / "events").replace("'", "''")):
        asked = sql.format(other=other, new=new, folder=folder, part=f"{folder}/part-000000.parquet")
        main(["query", str(trace), asked])
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        assert "secret" not in captured.err
    assert {path: path.read_bytes() for path in trace.rglob("*") if path.is_file()} == parts
    assert not new.exists()


def test_python_is_not_in_reach(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["query", str(trace), "FROM trace"]) == 1
    assert "Table with name trace does not exist" in capsys.readouterr().err


def test_a_damaged_part_is_one_line(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = trace / "events" / "part-000001.parquet"
    data = bytearray(part.read_bytes())
    data[4:200] = bytes(196)
    part.write_bytes(data)
    assert main(["query", str(trace), "SELECT sum(value), max(time_ns), max(kind) FROM events"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("mmiotap: SQL: ")
    assert captured.err.count("\n") == 1


def test_a_long_table_is_cut_short(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["query", str(trace), "SELECT range AS n FROM range(5000)"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == ["  n", *(f"{n:>3}" for n in range(1000))]
    assert "the first 1000 rows" in captured.err


def test_memory_is_bounded(trace: Path) -> None:
    """A sort of more than it may take is spilled, and where it cannot be, refused."""
    rows = 200_000_000
    with query.answer(open_trace(trace), "SELECT current_setting('memory_limit') AS most") as found:
        assert [table.to_pylist() for table in found.tables] == [[{"most": "1.0 GiB"}]]
    with query.answer(open_trace(trace), f"SELECT range AS n FROM range({rows})") as found:
        assert next(found.tables).num_rows <= query.ROWS


def test_names_may_repeat(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert as_json(trace, "SELECT 1 AS n, 2 AS n", capsys) == [{"n": 1, "n_2": 2}]
