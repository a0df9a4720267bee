"""What a call in a process needs: memory for its stack and its arguments, and files of ours under its own numbers."""

import ctypes
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mmiotap.kmmio.registry import Registry
from mmiotap.sources.ptrace import maps
from mmiotap.sources.ptrace.calls import Gone
from mmiotap.sources.ptrace.space import MMAP, MUNMAP, Space
from mmiotap.sources.ptrace.thread import Thread

#: System calls, asm/unistd_64.h.
_CLOSE, _RECVMSG, _SOCKETPAIR, _PIDFD_GETFD = 3, 47, 53, 438
_MAP_PRIVATE, _MAP_ANONYMOUS = 0x2, 0x20
_SOCK_CLOEXEC, _MSG_CMSG_CLOEXEC = 0o2000000, 0x40000000

#: Room for arguments, below the stack.
_ROOM = 1 << 20
_STACK = 1 << 18


class Borrowed:
    """Memory of ours in a process, that one of its stopped threads has mapped for us."""

    def __init__(self, space: Space, start: int) -> None:
        self.space = space
        self.start = start  #: arguments
        self.top = start + _ROOM + _STACK
        self.syscall_at = space.find_syscall()

    def put(self, address: int, data: bytes) -> None:
        self.space.write(address, data)

    def get(self, address: int, length: int) -> bytes:
        return self.space.read(address, length)

    def text(self, address: int) -> str:
        """A string that ends with a zero, as far as it can be read."""
        with suppress(OSError):
            return self.get(address, 4096).partition(b"\0")[0].decode(errors="replace")
        return ""

    @contextmanager
    def file(self, path: str, flags: int) -> Iterator[int]:
        """The number, in the process, of a file that we open: it may not have the right to, or not see it."""
        ours = os.open(path, flags | os.O_CLOEXEC)
        try:
            theirs = self._send(ours)
        finally:
            os.close(ours)
        try:
            yield theirs
        finally:
            with suppress(OSError, Gone):
                self.space.call(_CLOSE, theirs)

    def _send(self, descriptor: int) -> int:
        """Through a pair of sockets that the process makes, and of which we take one."""
        self.space.call(_SOCKETPAIR, socket.AF_UNIX, socket.SOCK_STREAM | _SOCK_CLOEXEC, 0, self.start)
        near, far = struct.unpack("<ii", self.get(self.start, 8))
        try:
            with _taken(self.space.pid, far) as end:
                socket.send_fds(end, [b"x"], [descriptor])
                return self._receive(near)
        finally:
            for one in (near, far):
                self.space.call(_CLOSE, one)

    def _receive(self, descriptor: int) -> int:
        """recvmsg(2), with one byte of data and one descriptor."""
        message, vector, data, control = (self.start + at for at in (64, 128, 144, 192))
        room = socket.CMSG_SPACE(4)
        self.put(vector, struct.pack("<QQ", data, 1))
        self.put(message, struct.pack("<QIxxxxQQQQI", 0, 0, vector, 1, control, room, 0))
        self.space.call(_RECVMSG, descriptor, message, _MSG_CMSG_CLOEXEC)
        (received,) = struct.unpack("<i", self.get(control + socket.CMSG_LEN(0), 4))
        return int(received)


@contextmanager
def borrowed(pid: int, thread: Thread) -> Iterator[Borrowed]:
    """Inside, a stopped thread of a process works for us. Raises OSError if it cannot."""
    space = Space(pid, lambda pages: Registry(pages, open_while_hit=False), lambda _: thread)
    try:
        flags = _MAP_PRIVATE | _MAP_ANONYMOUS
        start = space.call(MMAP, 0, _ROOM + _STACK, maps.READ | maps.WRITE, flags, -1, 0)
        try:
            yield Borrowed(space, start)
        finally:
            with suppress(OSError, Gone):
                space.call(MUNMAP, start, _ROOM + _STACK)
    finally:
        space.close()


@contextmanager
def _taken(pid: int, descriptor: int) -> Iterator[socket.socket]:
    """A socket of another process, as ours."""
    process = os.pidfd_open(pid)
    try:
        ours = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, process, descriptor, 0)
    finally:
        os.close(process)
    if ours < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    with socket.socket(fileno=ours) as end:
        yield end
