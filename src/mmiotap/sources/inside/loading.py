"""The agent comes into a process, joins a recording, and leaves it again.

It stays loaded when it has left, and does nothing: a second recording finds it there.
"""

import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mmiotap.sources.inside import symbols
from mmiotap.sources.inside.borrowed import Borrowed, borrowed
from mmiotap.sources.inside.calling import CallFailed, HeldThread, call
from mmiotap.sources.inside.held import PATIENCE, Held, Unreachable, apart, forget_fault, has_fault, unblocked
from mmiotap.sources.inside.places import ALL_BUT_AGENTS, Places, is_taken_over, system_call
from mmiotap.sources.launch import NoAgentError
from mmiotap.sources.ptrace import calls
from mmiotap.sources.ptrace.calls import Gone
from mmiotap.trace.errors import MmiotapError

#: What the functions of agent/src/attach.rs answer.
_DONE, _AGAIN = 0, 1
#: struct Stopped: thread pointer, stack pointer, mask.
_STOPPED = struct.Struct("<QQQ")

#: dlopen's flags, bits/dlfcn.h: programs look for the agent's function for marks by name.
_RTLD_NOW, _RTLD_GLOBAL = 2, 0x100
#: Seconds for which a thread is looked for that may load the agent.
_LOOKING = 10.0
#: Seconds for which threads go on that were not where they can call something.
_TRY_AGAIN = 0.002


@apart
def load(pid: int, agent: Path) -> None:
    """Bring the agent into the process, if it is not there, and make it ready. Other threads run on meanwhile.

    Raises NoAgentError if it cannot get in, MmiotapError if nobody can, Gone if the process ends.
    """
    with Held(pid) as held:
        places, thread = _find_thread(held, agent)
        try:
            with unblocked(thread), borrowed(pid, thread) as memory:
                if places.agent is None:
                    _open(places, memory, thread, agent)
                    places = Places(pid, agent)
                call(thread, memory, _function(pid, places, "mmiotap_agent_prepare"))
        except (CallFailed, OSError) as error:
            raise _stays_out(pid, f"its thread {thread.tid} cannot load it: {error}") from error


def join(pid: int, agent: Path, arena: Path) -> None:
    """Have the agent join the recording with this arena, and take over what is mapped."""
    if _call_alone(pid, agent, "mmiotap_agent_attach", arena) != _DONE:
        raise MmiotapError(f"process {pid} belongs to another recording, or its agent to another version of mmiotap")


def leave(pid: int, agent: Path) -> None:
    """Have the agent leave its recording, which is closed, and give everything back. Raises MmiotapError, Gone."""
    _call_alone(pid, agent, "mmiotap_agent_detach", None)


def _open(places: Places, memory: Borrowed, thread: HeldThread, agent: Path) -> None:
    """dlopen: by its path, or, where the process does not see that or may not, by a descriptor of ours."""
    dlopen, dlerror = (places.function(name) for name in ("dlopen", "dlerror"))
    if dlopen is None or dlerror is None:
        raise _stays_out(memory.space.pid, "its C library has no dlopen")

    def load(path: str) -> int:
        memory.put(memory.start, os.fsencode(path) + b"\0")
        return call(thread, memory, dlopen, memory.start, _RTLD_NOW | _RTLD_GLOBAL)

    if load(str(agent)):
        return
    why = memory.text(call(thread, memory, dlerror))
    with memory.file(str(agent), os.O_RDONLY) as descriptor:
        if not load(f"/proc/self/fd/{descriptor}"):
            raise _stays_out(memory.space.pid, f"dlopen: {why}")


def _find_thread(held: Held, agent: Path) -> tuple[Places, HeldThread]:
    """A thread that may call libc, stopped. The others run, and so may give back the locks that it needs."""
    end = time.monotonic() + _LOOKING
    while True:
        for tid in held.tids():
            thread = held.hold_one(tid)
            if thread is None:
                continue
            places = Places(held.pid, agent)
            can_call = thread.usable and thread.signal is None and not has_fault(thread)
            if can_call and places.may_call_libc(thread.registers()):
                return places, thread
            held.let_one_go(thread)
        if time.monotonic() >= end:
            raise _stays_out(held.pid, "none of its threads comes to where it may load a library")
        time.sleep(_TRY_AGAIN)


@apart
def _call_alone(pid: int, agent: Path, name: str, arena: Path | None) -> int:
    """Call a function of the agent's while all threads stand still, none of them in the agent's code."""
    end = time.monotonic() + PATIENCE
    with Held(pid) as held:
        while True:
            places = _Standing(pid, agent)
            lender = held.until(places.is_clear, places.is_in_libc, "its threads do not come out of the agent's code")
            result = _call_still(held, lender, agent, name, arena)
            if result != _AGAIN:
                return result
            if time.monotonic() >= end:
                raise Unreachable(f"process {pid}: a thread does not come out of the agent's code")
            held.go_on()


class _Standing:
    """Where threads that stand still are."""

    def __init__(self, pid: int, agent: Path) -> None:
        self._pid = pid
        self._agent = agent
        self._places = Places(pid, agent)

    def is_clear(self, thread: HeldThread) -> bool:
        """Outside of the agent's code, and not on its way into a system call that the agent has to know of."""
        registers = thread.registers()
        if (path := self._places.at(registers.rip)) is None:
            self._places = Places(self._pid, self._agent)  # code that has come since
            path = self._places.at(registers.rip)
        if not self._places.is_agents(path or ""):
            forget_fault(thread)
        if not thread.usable and is_taken_over(system_call(registers)):
            return False
        mask = calls.signal_mask(thread.tid)
        return not has_fault(thread) and self._places.is_clear_of_agent(registers, mask)

    def is_in_libc(self, thread: HeldThread) -> bool:
        return self._places.is_in_libc(thread.registers())


def _call_still(held: Held, lender: HeldThread, agent: Path, name: str, arena: Path | None) -> int:
    """The function gets the arena, if any, and all threads; what it makes of their masks they have afterwards."""
    pid, threads = held.pid, held.still()
    masks = {thread.tid: calls.signal_mask(thread.tid) for thread in threads}
    function = _function(pid, Places(pid, agent), name)
    calls.set_signal_mask(lender.tid, ALL_BUT_AGENTS)
    try:
        with borrowed(pid, lender) as memory, _open_there(memory, arena) as arguments:
            memory.put(memory.start, _table(memory, threads, masks))
            result = call(lender, memory, function, *arguments, memory.start, len(threads))
            table = memory.get(memory.start, _STOPPED.size * len(threads))
    except (CallFailed, OSError) as error:
        raise MmiotapError(f"process {pid}: its thread {lender.tid} cannot call the agent: {error}") from error
    else:
        if result == _DONE:
            wanted = (mask for _, _, mask in _STOPPED.iter_unpack(table))
            masks = dict(zip(masks, wanted, strict=True))
        return result
    finally:
        for tid, mask in masks.items():
            with suppress(Gone):
                calls.set_signal_mask(tid, mask)


@contextmanager
def _open_there(memory: Borrowed, arena: Path | None) -> Iterator[tuple[int, ...]]:
    if arena is None:
        yield ()
    else:
        with memory.file(str(arena), os.O_RDWR) as descriptor:
            yield (descriptor,)


def _table(memory: Borrowed, threads: list[HeldThread], masks: dict[int, int]) -> bytes:
    """The agent keeps a word for each thread of libc's, beside what libc keeps for it: found by its thread pointer."""
    table, seen = b"", set()
    for thread in threads:
        registers = thread.registers()
        pointer = int(registers.fs_base)
        if pointer in seen or not _is_libcs(memory, pointer):
            pointer = 0
        seen.add(pointer)
        table += _STOPPED.pack(pointer, registers.rsp, masks[thread.tid])
    return table


def _is_libcs(memory: Borrowed, pointer: int) -> bool:
    """Is this the thread control block of a thread that libc knows? It points to itself twice (glibc, tcbhead_t)."""
    try:
        first, _, third = struct.unpack("<QQQ", memory.get(pointer, 24))
    except (OSError, struct.error):
        return False
    return pointer != 0 and first == third == pointer


def _function(pid: int, places: Places, name: str) -> int:
    found = symbols.find(pid, places.agent, name) if places.agent else None
    if found is None:
        raise MmiotapError(f"process {pid} has the agent of another version of mmiotap in it: start it anew")
    return found


def _stays_out(pid: int, why: str) -> NoAgentError:
    return NoAgentError(f"the agent cannot get into process {pid}: {why}", "use --engine ptrace")
