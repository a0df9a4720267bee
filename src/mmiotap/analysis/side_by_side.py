"""Work on the parts of a trace by as many threads as there are processors: numpy and Arrow let each other run."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

One = TypeVar("One")
Found = TypeVar("Found")

#: Threads at most: each holds a table and what is made of it.
MOST = 8
#: Items for each thread that are taken before what was made of the first of them is: one under way, and one that waits.
AHEAD = 2


def each(work: Callable[[One], Found], items: Iterable[One]) -> Iterator[Found]:
    """What ``work`` makes of each, in their order. What it raises ends all.

    However slowly that is taken, only what was made of a few waits.
    """
    threads = min(len(os.sched_getaffinity(0)), MOST)
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[Found]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) == AHEAD * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
