"""Work on the parts of a trace by as many threads as there are processors: numpy and Arrow let each other run."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

One = TypeVar("One")
Found = TypeVar("Found")

#: Threads at most: each holds a table and what is made of it.
MOST = 8


def each(work: Callable[[One], Found], items: Iterable[One]) -> Iterator[Found]:
    """What ``work`` makes of each, in their order. What it raises ends all."""
    pool = ThreadPoolExecutor(min(len(os.sched_getaffinity(0)), MOST))
    try:
        yield from pool.map(work, items)
    finally:
        pool.shutdown(cancel_futures=True)
