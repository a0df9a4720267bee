"""What commands that record have in common: options, what they say, and how they end."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmiotap.trace.errors import MmiotapError

if TYPE_CHECKING:
    from mmiotap.sources.recording import Progress, RecordResult

#: At most this many mapped paths are named when no rule selected any.
PATHS_NAMED = 8


def add_options(parser: argparse.ArgumentParser, smp: Sequence[str]) -> None:
    """Of what records a program; ``smp`` are the ways in which its other threads may be held."""
    parser.add_argument("-o", "--output", metavar="TRACE", help="trace folder to make (default: PROGRAM.PID.mmiotap)")
    parser.add_argument(
        "-m", "--map", metavar="GLOB", action="append", help="record mappings of such paths; repeatable"
    )
    parser.add_argument(
        "--on-full",
        choices=("wait", "drop"),
        default="wait",
        help="when sealing falls behind: the program waits (default), or events are dropped and counted",
    )
    parser.add_argument("--latency", action="store_true", help="measure how long each access takes")
    parser.add_argument(
        "--buffer", metavar="SIZE", type=size, help="memory for unsealed events, e.g. 16M (default: 64M)"
    )
    parser.add_argument(
        "--patch",
        metavar="auto|off|N",
        type=patch,
        default="auto",
        help="accesses of a site that trap before it is patched (default: auto, a few); off: all trap",
    )
    parser.add_argument(
        "--protocol",
        choices=("breakpoint", "stop-machine"),
        default="breakpoint",
        help="how code is changed while it runs (default: breakpoint)",
    )
    parser.add_argument(
        "--engine",
        choices=("agent", "ptrace"),
        help="from inside or from outside, see docs/attach.md (default: the agent, where it can get in)",
    )
    parser.add_argument(
        "--smp",
        choices=smp,
        default="emulate",
        help="what other threads do while one makes an access, see docs/smp.md (default: emulate)",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress, no summary; trouble is still reported")
    parser.add_argument("-f", "--force", action="store_true", help="replace an existing trace")


def size(text: str) -> int:
    """A number of bytes: digits, then nothing, K, M or G."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    number = text[:-1] if text[-1:].upper() in units else text
    if not number.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write 65536, 512K, 16M or 1G")
    return int(number) * units.get(text[-1].upper(), 1)


def patch(text: str) -> str:
    from mmiotap.sources import agent

    try:
        agent.patch_after(text)
    except MmiotapError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def say(text: str) -> None:
    """A line on standard error; standard output is the program's."""
    print(f"mmiotap: {text}", file=sys.stderr, flush=True)


def summary(result: "RecordResult", again: list[str]) -> str:
    """What was recorded, and the exact command to type next; ``again`` is what would record PATH, too."""
    lines = [
        f"mmiotap: {_count(result.events, 'event')}, {_count(result.mappings, 'mapping')}, "
        f"{_count(result.threads, 'thread')}, {f'stepped: {result.stepped}, ' * bool(result.stepped)}"
        f"lost: {result.lost}, {result.seconds:.2f} s"
    ]
    if result.still_running:
        pids = ", ".join(map(str, result.still_running))
        lines.append(f"mmiotap: the program has ended, so the recording has too; still running, unrecorded: {pids}")
    if result.mappings:
        lines.append(f"mmiotap: next: mmiotap show {shlex.quote(str(result.path))}")
    elif result.not_selected:
        named = ", ".join(result.not_selected[:PATHS_NAMED])
        more = len(result.not_selected) - PATHS_NAMED
        lines.append(f"mmiotap: no rule selects what was mapped: {named}" + (f" and {more} more" if more > 0 else ""))
        words = [result.not_selected[0] if word == "PATH" else word for word in again]
        lines.append(f"mmiotap: next: {shlex.join(words)}")
    elif not result.trouble:
        lines.append("mmiotap: nothing was mapped: the program mapped no file and no device that a --map could select")
    return "\n".join(lines)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


def die_of(number: int) -> None:
    """End as the program ended, so that a shell sees the same; its core file is the one that counts."""
    import resource
    import signal

    sys.stdout.flush()
    sys.stderr.flush()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    os.kill(os.getpid(), number)


class ProgressLine:
    """One line on the terminal, rewritten."""

    def __init__(self) -> None:
        self.wanted = sys.stderr.isatty()
        self._shown = False

    def show(self, progress: "Progress") -> None:
        # A background job that writes may be stopped by the terminal, and its heartbeat with it.
        if progress.events and os.tcgetpgrp(sys.stderr.fileno()) == os.getpgrp():
            text = f"mmiotap: {progress.events} events, lost: {progress.lost}, {progress.seconds:.0f} s"
            print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)
            self._shown = True

    def clear(self) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._shown = False
