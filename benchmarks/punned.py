"""The punned share: how many instructions that access memory can become a jump, and how.

Real programs, where real processes have them: libc and CPython of this machine, and Debian's optimised DPDK driver of
the e1000. Asked is what the agent asks: where a jump from a site can lead (jump.rs), and which pages may be mapped
(room.rs). Each site stands for itself, as if no other were patched: punned neighbours lean on each other's bytes, and
the agent then patches the one over what the other has become.

    python -m benchmarks.punned      the tables of docs/performance.md
"""

import os
import subprocess
import sys
import tempfile
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.result import Result
from benchmarks.sites import PAGE, Code, Site, code_of

#: The DPDK driver: how Debian's package begins, and the file in it.
PACKAGE = "librte-net-e1000-"
DRIVER = "librte_net_e1000.so.*"
#: Processes whose layouts are tried: each has its libraries at other addresses.
LAYOUTS = 8
TIME_LIMIT = 120

#: As in jump.rs, room.rs and space.rs.
JUMP, PAGES, STEP, LANDING = 5, 64, 16, 14
HEAP_GROWS, STACK_GROWS = 64 << 20, 72 << 20
LOWEST, HIGHEST = 0x10000, 0x7FFF_FFFF_F000

WAYS = {"plain": "a plain jump", "punned": "a punned jump", "none": "no jump"}
#: Bytes of a site; the last stands for all longer ones too.
LENGTHS = {2: "2 bytes", 3: "3", 4: "4", 5: "5 or more"}

#: Loads what it is given, tells where CPython and libc have some function, and all its mappings.
PROCESS = """
import ctypes, pathlib, sys
for library in sys.argv[1:]:
    ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
for function in ctypes.pythonapi.Py_Initialize, ctypes.CDLL(None).getpid:
    print(ctypes.cast(function, ctypes.c_void_p).value)
print(pathlib.Path("/proc/self/maps").read_text(), end="")
"""


@dataclass(frozen=True)
class Share:
    """What becomes of one file's sites, in all layouts together."""

    name: str
    code: Code
    counts: Counter[tuple[int, str]]  #: by length and way

    def percent(self, lengths: list[int], way: str) -> float:
        """Of the sites of these lengths."""
        return 100 * self._count(lengths, [way]) / self._count(lengths, list(WAYS))

    def of_length(self, length: int) -> str:
        """Of all sites, those of this length; of these, those that get no jump."""
        share = 100 * self._count([length], list(WAYS)) / self._count(list(LENGTHS), list(WAYS))
        return f"{share:.1f} % / {self.percent([length], 'none'):.1f} %"

    def _count(self, lengths: list[int], ways: list[str]) -> int:
        return sum(self.counts[length, way] for length in lengths for way in ways)


class Layout:
    """Where everything is in a process."""

    def __init__(self, driver: Path | None) -> None:
        command = [sys.executable, "-c", PROCESS, *([str(driver)] if driver else [])]
        environment = os.environ | ({"LD_LIBRARY_PATH": str(driver.parent)} if driver else {})
        said = subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=TIME_LIMIT, env=environment
        ).stdout.splitlines()
        mappings = sorted(map(_mapping, said[2:]))
        self.starts: dict[str, int] = {}  #: where each file's first page is
        self._taken: list[tuple[int, int]] = []  # in order, and apart
        for start, end, path in mappings:
            self.starts.setdefault(path, start)
            low, high = start - STACK_GROWS * (path == "[stack]"), end + HEAP_GROWS * (path == "[heap]")
            if self._taken and low <= self._taken[-1][1]:
                before = self._taken.pop()
                low, high = before[0], max(before[1], high)
            self._taken.append((low, high))
        cpython, libc = (next(path for start, end, path in mappings if start <= int(at) < end) for at in said[:2])
        #: What is looked at: name and path.
        self.files = {"libc": libc, "CPython": cpython}
        if driver:
            self.files["DPDK's e1000"] = str(driver.resolve())

    def way(self, site: Site, at: int) -> str:
        """What becomes of a site at this address."""
        if site.length >= JUMP:
            return "plain"  # somewhere within 2 GiB thunks always find room
        return "punned" if any(self._lands(site, at, prefixes) for prefixes in (0, 1)) else "none"

    def _lands(self, site: Site, at: int, prefixes: int) -> bool:
        """Can a jump with so many prefixes, whose last bytes are those behind the site, lead anywhere?"""
        free = site.length - prefixes - 1
        if free < 0:
            return False
        displacement = int.from_bytes(bytes(free) + site.behind[: 4 - free], "little", signed=True)
        window = at + prefixes + JUMP + displacement
        end = window + (1 << 8 * free)
        for page in range(window // PAGE * PAGE, end, PAGE)[:PAGES]:
            places = range(max(page, window), min(end, page + PAGE), STEP)
            if self._is_free(page) and any(place % PAGE + LANDING <= PAGE for place in places):
                return True
        return False

    def _is_free(self, page: int) -> bool:
        before = bisect_right(self._taken, (page + PAGE - 1, HIGHEST)) - 1
        return LOWEST <= page < HIGHEST and (before < 0 or self._taken[before][1] <= page)


def run() -> list[Result]:
    """Of each file's sites, the share that goes each way."""
    return [
        Result(f"sites in {share.name} that get {words}", "", share.percent(list(LENGTHS), way), "%", True)
        for share in shares()
        for way, words in WAYS.items()
    ]


def main() -> None:
    """The tables, in Markdown."""
    found = shares()
    rows = [
        [share.name, f"{share.code.accesses:,}", f"{len(share.code.sites):,}"]
        + [f"{share.percent(list(LENGTHS), way):.2f} %" for way in WAYS]
        for share in found
    ]
    _print_table(["", "memory instructions", "sites", *WAYS.values()], rows)
    rows = [[share.name] + [share.of_length(length) for length in LENGTHS] for share in found]
    _print_table(["share of the sites / of these no jump", *LENGTHS.values()], rows)


def _print_table(head: list[str], rows: list[list[str]]) -> None:
    for row in [head, ["---"] * len(head), *rows]:
        print("| " + " | ".join(row) + " |")
    print()


def shares() -> list[Share]:
    """Of each file."""
    with _driver() as driver:
        layouts = [Layout(driver) for _ in range(LAYOUTS)]
        return [_share(name, path, layouts) for name, path in layouts[0].files.items()]


def _share(name: str, path: str, layouts: list[Layout]) -> Share:
    code = code_of(Path(path))
    counts = Counter(
        (min(site.length, JUMP), layout.way(site, layout.starts[path] + site.offset))
        for layout in layouts
        for site in code.sites
    )
    return Share(name, code, counts)


@contextmanager
def _driver() -> Iterator[Path | None]:
    """DPDK's e1000 driver and beside it the libraries that it needs, out of Debian's packages; nothing is installed."""
    with tempfile.TemporaryDirectory(prefix="mmiotap-bench-") as folder:
        driver = None
        try:
            driver = _unpacked(Path(folder))
        except (OSError, subprocess.CalledProcessError, StopIteration):
            print("punned: without DPDK's e1000: apt-get could not download it (apt-get update?)", file=sys.stderr)
        yield driver


def _unpacked(folder: Path) -> Path:
    search = ["apt-cache", "search", "--names-only", f"^{PACKAGE}"]
    found = subprocess.run(search, check=True, capture_output=True, text=True, timeout=TIME_LIMIT).stdout.split()
    package = next(word for word in found if word.startswith(PACKAGE))
    (folder / "partial").mkdir()
    download = ["apt-get", "install", "--download-only", "--reinstall", "--no-install-recommends", "-qq", "-y"]
    download += ["-o", f"Dir::Cache::archives={folder}", "-o", "Debug::NoLocking=1", package]
    subprocess.run(download, check=True, capture_output=True, timeout=TIME_LIMIT)
    for archive in folder.glob("*.deb"):
        subprocess.run(["dpkg", "-x", archive, folder], check=True, timeout=TIME_LIMIT)
    return next(folder.glob(f"usr/lib/*/{DRIVER}"))


def _mapping(line: str) -> tuple[int, int, str]:
    """Start, end and path of a line of /proc/PID/maps."""
    words = line.split(maxsplit=5)
    start, end = words[0].split("-")
    return int(start, 16), int(end, 16), words[5] if len(words) > 5 else ""


if __name__ == "__main__":
    main()
