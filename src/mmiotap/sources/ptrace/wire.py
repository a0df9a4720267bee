"""What the tracer's process and the user's say to each other (tracer.py, remote.py).

There are two channels. On the one go requests, what comes of them, and news; on the other the questions of an access
that is being made, one at a time, and their answers: a packet each, for the program waits. Both are socket pairs
without a name, so nobody else can speak.
"""

import marshal
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mmiotap.sources.ptrace.instruction import GENERAL

#: The order of a question's registers.
REGISTERS = (*GENERAL, "rip", "rflags")


@dataclass(frozen=True)
class Settings:
    """How the tracer is to work. Sent first."""

    questions: int  #: the descriptor of the other channel
    user: int  #: the process id of the user's process
    mask: list[int]  #: signals that the user's process has blocked, and so the program
    way: str
    rules: list[str]
    arena: Path | None  #: where rows go
    enabled: bool
    limit: float  #: seconds that a handler may take
    stops: bool  #: whether a program whose handlers fail is killed


class Request(NamedTuple):
    """Have the tracer do something: one of the methods of tracer.Tracer that are named there."""

    number: int
    in_handler: bool  #: asked for by the thread that runs handlers, so perhaps while an access waits for it
    what: str
    arguments: tuple[Any, ...]


class Done(NamedTuple):
    """What came of a request."""

    number: int
    result: Any
    error: Exception | None


class Report(NamedTuple):
    """A line for the user."""

    text: str


@dataclass(frozen=True)
class End:
    """It is over: the program has ended, or was left."""

    exit_code: int | None = None
    left_behind: list[int] = field(default_factory=list)
    unanswered: int = 0  #: accesses that went on without the answer of a handler that was too slow
    trouble: Exception | None = None


#: The first arguments of kmmio.access.Access: kind, address, offset, width, value, pc, pid, tid, time, map id, path and
#: flags.
AccessArguments = tuple[str, int, int, int, int | None, int, int, int, int, int, str, int]


class Question(NamedTuple):
    """What do these handlers say to an access?"""

    probes: list[int]
    access: AccessArguments
    phase: str  #: the name of its kmmio.access.Phase
    registers: tuple[int, ...]  #: in the order of REGISTERS; none where there are none


class Answer(NamedTuple):
    """They say this."""

    fine: bool  #: none of them has failed
    verdict: str  #: the name of a kmmio.access.Verdict
    value: int | None


#: No packet is larger: a path has 4 KiB at most.
_PACKET = 1 << 16


def tell(channel: socket.socket, what: Question | Answer) -> None:
    """Send one. There is always room, for the other end waits for it. Raises OSError if there is no other end."""
    channel.send(marshal.dumps(tuple(what)))  # both ends are the same Python


def hear(channel: socket.socket) -> tuple[Any, ...]:
    """Receive one. Raises EOFError, or OSError, if the other end is gone."""
    packet = channel.recv(_PACKET)
    if not packet:
        raise EOFError
    fields: tuple[Any, ...] = marshal.loads(packet)
    return fields
