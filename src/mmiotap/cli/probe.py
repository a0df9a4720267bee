"""Watch, or answer, a program's accesses to a place of its device, while it runs.

A place is MAP:OFFSET+LENGTH, where MAP is a glob over paths as in 'record --map' or a mapping's number, or
ADDRESS+LENGTH. Without a script each access is printed. A script defines pre(access), called before an access, or
post(access), called after it, or both; the program waits for them, and they may answer (docs/probe.md). A script that
is saved anew is in force from the next access on.

examples:
  mmiotap probe --at '/dev/uio0:0x10+4' -- ./driver --reset
  mmiotap probe --at '**/resource0:0+0x1000' --script device.py -- ./driver
  mmiotap probe --at 0x7f3c00001000+64 4711
"""

import argparse
import contextlib
import os
import shlex
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mmiotap.trace.errors import MmiotapError

if TYPE_CHECKING:
    from mmiotap.kmmio.place import Place
    from mmiotap.kmmio.script import Script
    from mmiotap.sources.observers import Observers
    from mmiotap.sources.recording import RecordResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--at", metavar="PLACE", action="append", default=[], help="where; repeatable")
    parser.add_argument("--script", metavar="FILE", type=Path, help="Python file with pre(access) and post(access)")
    parser.add_argument(
        "--observe", action="store_true", help="the program does not wait for the script, whose post only looks"
    )
    parser.add_argument("--engine", choices=("agent", "ptrace"), help="default: the agent, if it can go in")
    parser.add_argument(
        "--on-hook-failure",
        choices=("device", "stop"),
        default="device",
        help="when the script fails or is too slow: the device answers (default), or the program is killed",
    )
    parser.add_argument("--limit", metavar="SECONDS", type=float, default=1.0, help="what too slow is (default: 1)")
    parser.add_argument("-m", "--map", metavar="GLOB", action="append", help="mappings to look for the places in")
    parser.add_argument("-o", "--output", metavar="TRACE", help="record what happens into this trace, too")
    parser.add_argument("-f", "--force", action="store_true", help="replace an existing trace")
    parser.add_argument("target", metavar="PID | -- COMMAND", nargs="*", help="a process, or a program to run")
