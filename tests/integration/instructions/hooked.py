"""hooked.py WAY TRACE PATCH BEHIND WINDOW PROGRAM DEVICE…: record a program with a hook on its device's first bytes.

WAY is what the hook does: it observes; it answers, so that BEHIND takes the place of a device that is never touched; or
it changes what is read and written, every bit of it.
"""

import os
import sys

from mmiotap.kmmio.access import Access
from mmiotap.kmmio.place import InMapping
from mmiotap.kmmio.probe import Probe
from mmiotap.sources import agent, hooks

way, trace, patch, behind_path, window, *command = sys.argv[1:]
behind = os.open(behind_path, os.O_RDWR)


def invert(access: Access) -> None:
    if access.value is not None:
        access.value = access.value ^ ((1 << 8 * access.width) - 1)


def pre(access: Access) -> None:
    if way == "answered" and access.kind == "read":
        access.answer(int.from_bytes(os.pread(behind, access.width, access.offset), "little"))
    elif way == "answered" and access.kind == "write":
        assert access.value is not None
        os.pwrite(behind, access.value.to_bytes(access.width, "little"), access.offset)
        access.swallow()
    elif way == "changed" and access.kind == "write":
        invert(access)


def post(access: Access) -> None:
    if way == "changed" and access.kind == "read":
        invert(access)


hooked = hooks.Hooks(limit=20)
hooked.add(InMapping(command[1], 0, int(window)), Probe(0, int(window), pre, post))
result = agent.record(
    command, maps=[command[1]], path=trace, hooks=hooked, patch=int(patch) if patch.isdecimal() else patch
)
counts = hooked.counts
assert counts.unanswered == counts.failed == 0, counts
sys.exit(99 if result.status is None else result.status)
