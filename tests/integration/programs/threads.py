"""The mmap module in several threads: slices, single bytes, find, move and resize of one file mapped often."""

import mmap
import sys
import threading
from pathlib import Path

SIZE = 8192
sums: dict[int, int] = {}


def work(number: int, path: Path) -> None:
    with path.open("r+b") as file:
        for turn in range(60):
            with mmap.mmap(file.fileno(), SIZE) as device:
                base = 1024 * number
                device[base : base + 4] = (turn * number).to_bytes(4, "little")
                device[base + 8] = turn
                device.move(base + 16, base, 12)
                device.seek(base + 64)
                device.write(b"mark %d" % turn)
                at = device.find(b"mark", base, base + 1024)
                view = memoryview(device)[base : base + 80]
                sums[number] = sums.get(number, 0) + at + sum(view) + device[base + 16]
                view.release()
                device.flush()


def main() -> None:
    path = Path(sys.argv[1])
    threads = [threading.Thread(target=work, args=(number, path)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(sorted(sums.items()))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 4096) as device:
        device.resize(SIZE)
        device[SIZE - 1] = 7
        print(device[SIZE - 1], len(device), sum(device[:]))
    try:
        with path.open("rb") as opened, mmap.mmap(opened.fileno(), 4096, prot=mmap.PROT_READ) as device:
            device[0] = 1
    except TypeError as error:
        print(error)


main()
