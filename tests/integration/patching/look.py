"""Run by gdb in looked_at: steps through thunks, and writes the stack before each instruction to $STACKS, in JSON.

Each function's access is stepped through twice: as it is made in the thunk, and as it is left to trap. Which way
it goes is decided by turning the branch by which a thunk finds its clock too old.
"""

import json
import os
from pathlib import Path
from typing import TextIO

import gdb  # type: ignore[import-untyped]

#: The functions, and their accesses as they were before they were patched.
ACCESSES = {
    "read_register": "mov (%rdi),%eax",
    "write_register": "mov %esi,0x190(%rdi)",
    "add_to_register": "add %esi,0x320(%rdi)",
}
#: More instructions than are between a site and the code behind it.
MOST = 400


def instruction() -> str:
    frame = gdb.newest_frame()
    return " ".join(frame.architecture().disassemble(frame.pc())[0]["asm"].split())


def stack() -> dict[str, object]:
    """Names from the innermost frame on; rip, rsp and rdi of the innermost that is the program's own."""
    frames = [gdb.newest_frame()]
    while (caller := frames[-1].older()) is not None:
        frames.append(caller)
    own = next(frame for frame in frames if not is_agents(frame))
    names = [frame.name() for frame in frames]
    registers = {name: int(own.read_register(name)) & (1 << 64) - 1 for name in ("rip", "rsp", "rdi")}
    return {"names": names, **registers}


def is_agents(frame: gdb.Frame) -> bool:
    return (frame.name() or "").startswith("mmiotap_")


def step_through(function: str, way: str, file: TextIO) -> None:
    gdb.execute(f"tbreak *{function}", to_string=True)
    gdb.execute("continue", to_string=True)
    for _ in range(MOST):
        file.write(json.dumps({"function": function, "way": way, **stack()}) + "\n")
        if way == "left to trap" and instruction() == ACCESSES[function]:
            return  # stepping over it would lead through the agent's handler
        if instruction().startswith("jae"):
            gdb.execute("set $eflags |= 1" if way == "made" else "set $eflags &= ~1", to_string=True)
        gdb.execute("stepi", to_string=True)
        if not is_agents(gdb.newest_frame()):
            return


gdb.execute("set pagination off")
gdb.execute("handle SIGSEGV nostop noprint pass", to_string=True)
with Path(os.environ["STACKS"]).open("w") as output:
    for one in ACCESSES:
        for each in ("made", "left to trap"):
            step_through(one, each, output)
