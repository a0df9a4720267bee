"""examples/dask: the analyses of ``summary`` on Dask's distributed scheduler, part by part."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from dask.distributed import Client

from mmiotap.analysis import summary as here
from mmiotap.cli import main
from mmiotap.registers import choose
from mmiotap.trace.reader import Trace, open_trace
from mmiotap.trace.writer import TraceWriter

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "dask" / "summary.py"
PARTS = 7


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """Linux's e1000 starting up, in several parts, cut anywhere."""
    folder = tmp_path_factory.mktemp("dask")
    assert main(["import", str(ROOT / "tests" / "data" / "mmiotrace-e1000.log.xz"), "-o", str(folder / "whole")]) == 0
    whole = open_trace(folder / "whole")
    events = whole.events()
    writer = TraceWriter.create(folder / "t", whole.info | {"state": "recording"})
    writer.add_mappings(whole.mappings)
    rows = events.num_rows // PARTS + 1
    for at in range(0, events.num_rows, rows):
        writer.append(events.slice(at, rows))
    writer.finish()
    assert len(open_trace(folder / "t").parts) == PARTS
    return open_trace(folder / "t")


def tables(found: here.Summary) -> dict[str, list[str]]:
    return {name: sorted(map(repr, table.to_pylist())) for name, table in vars(found).items() if name != "notes"}


def test_it_finds_what_one_process_finds(trace: Trace) -> None:
    spec = importlib.util.spec_from_file_location("example", EXAMPLE)
    assert spec
    assert spec.loader
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    with Client(n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
        assert len(client.scheduler_info()["workers"]) == 2
        found = example.summary(trace)
    expected = here.summary(trace, choose.decoder(trace))
    assert tables(found) == tables(expected)
    assert found.modifies.num_rows > 40


def test_the_example_runs(trace: Trace) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, EXAMPLE, trace.path], capture_output=True, text=True, timeout=100, env=environment
    )
    assert done.returncode == 0, done.stderr
    alone = subprocess.run(
        [sys.executable, "-m", "mmiotap", "summary", trace.path],
        capture_output=True,
        text=True,
        timeout=100,
        env=environment,
    )
    assert sorted(done.stdout.split("\n")) == sorted(alone.stdout.split("\n"))
