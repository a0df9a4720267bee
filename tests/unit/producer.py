"""A process that writes to an arena like a traced one, until it is killed: ``ARENA FIRST STEP TID PROGRESS``.

It takes the segments FIRST, FIRST + STEP …; values count up from 0, and every third row has a continuation. After each
row it stores in PROGRESS how many there are, so that others know what has surely been published.
"""

import mmap
import os
import sys
from pathlib import Path

from mmiotap.trace import layout
from mmiotap.trace.arena import Arena
from recordings import Producer


def main(arena_path: str, first: str, step: str, tid: str, progress_path: str) -> None:
    arena = Arena.open(Path(arena_path), writable=True)
    share = range(int(first), arena.segment_count, int(step))
    thread = Producer(arena, share, pid=os.getpid(), tid=int(tid))
    with Path(progress_path).open("r+b") as file:
        progress = memoryview(mmap.mmap(file.fileno(), 8)).cast("Q")
    index = 0
    while True:
        if thread.write(layout.WRITE, value=index, extra=index.to_bytes(8, "little") * 4 if index % 3 == 0 else b""):
            index += 1
            progress[0] = index


if __name__ == "__main__":
    main(*sys.argv[1:])
