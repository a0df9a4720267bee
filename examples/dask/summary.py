"""What ``mmiotap summary`` says, found by Dask: each part of the trace on some worker, and what they find in pairs.

    python examples/dask/summary.py TRACE [ADDRESS OF A SCHEDULER]

Workers must see the trace under the same path. Without an address they are processes of this machine.
"""

import sys
from typing import Any

import dask
from dask.distributed import Client

import mmiotap
from mmiotap.analysis import partitions
from mmiotap.analysis.clock import start_ns
from mmiotap.analysis.phases import Marks
from mmiotap.analysis.summary import Summary, analyses, named
from mmiotap.registers import choose
from mmiotap.views.summary import write_text


def summary(trace: mmiotap.Trace) -> Summary:
    """What :func:`mmiotap.analysis.summary.summary` returns; the work is done where Dask's scheduler wants it."""
    if trace.live.num_rows:
        raise mmiotap.MmiotapError(f"{trace.path} has events that are in no part yet; mmiotap recover completes it")
    wanted = analyses(Marks.of(trace))
    every = list(wanted.values())
    find, merge = dask.delayed(partitions.find_in_file), dask.delayed(partitions.merge)
    found: list[Any] = [find(every, path) for path in trace.parts]
    while len(found) > 1:  # neighbours, and only these, become one
        pairs = [merge(every, *found[at : at + 2]) for at in range(0, len(found) - 1, 2)]
        found = pairs + found[2 * len(pairs) :]
    whole = dask.compute(*found)[0] if found else partitions.fold(every, [])
    return named(dict(zip(wanted, partitions.tables(every, whole), strict=True)), trace, choose.decoder(trace))


def main(path: str, scheduler: str | None = None) -> None:
    trace = mmiotap.open(path)
    with Client(scheduler) if scheduler else Client(n_workers=2, threads_per_worker=1, dashboard_address=None):
        found = summary(trace)
    write_text(found, [name for name in vars(found) if name != "notes"], trace.mappings, start_ns(trace), limit=10)


if __name__ == "__main__":
    main(*sys.argv[1:])
