"""A QEMU whose log goes to us: one that we start, or one that runs already."""

import contextlib
import errno
import fcntl
import itertools
import os
import re
import select
import signal
import socket
import stat
import tempfile
import threading
from collections import deque
from pathlib import Path
from typing import Any

from mmiotap.sources import launch
from mmiotap.sources.child import Child
from mmiotap.sources.guest.qmp import Qmp
from mmiotap.sources.guest.regions import Inventory, inventory
from mmiotap.trace.errors import MmiotapError

#: The events that tell of every access: see docs/guest.md.
EVENTS = ("memory_region_ops_read", "memory_region_ops_write")
#: How the pipe's folder, in the temporary one, begins, and the pipe is called.
FOLDER, PIPE = "mmiotap-", "log"
_PIPE_BYTES = 1 << 20
_READ_BYTES = 1 << 20
#: Bytes of the log that may wait here. QEMU waits, and with it the guest, when there are more.
MAX_WAITING = 64 << 20
#: Seconds that a QEMU that was just started may take until it answers.
START_PATIENCE = 60.0
KILL_MS = 10_000


class Log:
    """A named pipe that QEMU takes for its log file; nothing of it is ever on a disk.

    It is emptied by a thread of its own, so that QEMU can always go on to answer us. Reads end when nobody writes.
    """

    def __init__(self, path: Path, copy_to: Path | None = None) -> None:
        """What comes is written to ``copy_to``, too, as it is."""
        self.path = path
        # It has its name when somebody reads it, as sweep() asks.
        hidden = path.with_name(f".{path.name}")
        os.mkfifo(hidden, 0o600)
        # For writing too: so that there is no end while QEMU has not opened it, or opens it again.
        self._fd = os.open(hidden, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        hidden.rename(path)
        with contextlib.suppress(OSError):  # more than an ordinary user may have
            fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._copy = copy_to.open("wb", buffering=0) if copy_to else None
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._over = False
        self._thread = threading.Thread(target=self._empty, name="mmiotap-log", daemon=True)
        self._thread.start()

    def read(self, seconds: float) -> bytes:
        """What has come since; waits so long for something."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._over, seconds)
            data = b"".join(self._waiting)
            self._waiting.clear()
            self._bytes = 0
            self._changed.notify_all()
        return data

    def finish(self) -> bytes:
        """What is left. Call it when QEMU writes no more; a second time there is nothing."""
        if self._over:
            return b""
        with self._changed:
            self._over = True
            self._changed.notify_all()
        self._thread.join()
        data = self.read(0)
        os.close(self._fd)
        if self._copy:
            self._copy.close()
        return data

    def _empty(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        while True:
            over = self._over  # asked before we look, so that nothing is left behind
            if not poll.poll(0 if over else 50):
                if over:
                    return
                continue
            data = os.read(self._fd, _READ_BYTES)
            if self._copy:
                with contextlib.suppress(OSError):  # as QEMU does when its log cannot be written
                    self._copy.write(data)
            with self._changed:
                self._changed.wait_for(lambda: self._bytes < MAX_WAITING or self._over)
                self._waiting.append(data)
                self._bytes += len(data)
                self._changed.notify_all()


def sweep() -> None:
    """Take away the folders of recorders that were killed: ours, with a pipe that nobody reads.

    Nobody else can put something into a folder of ours, or something else in its place: the temporary folder is sticky.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER}*"):
        with contextlib.suppress(OSError):
            status = folder.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and _is_unread(folder / PIPE):
                (folder / PIPE).unlink()
                folder.rmdir()


def _is_unread(pipe: Path) -> bool:
    if not stat.S_ISFIFO(pipe.lstat().st_mode):
        return False
    try:
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        return error.errno == errno.ENXIO  # fifo(7)
    return False


class Machine:
    """A virtual machine whose accesses can be switched on and off."""

    qmp: Qmp
    pid: int
    exit_code: int | None = None  #: of one that we started and that has ended: its status, or minus its signal

    def check(self) -> None:
        """Raises MmiotapError if this QEMU cannot log."""
        if "trace:" not in self.qmp.monitor("help log"):
            raise MmiotapError(
                "this QEMU was built without the trace backend 'log'; use one that has it (Debian's has), "
                "or configure it with --enable-trace-backends=log"
            )

    def switch(self, enabled: bool) -> None:
        """Accesses are logged from now on, or no longer."""
        for name in EVENTS:
            self.qmp.command("trace-event-set-state", name=name, enable=enabled)

    def inventory(self) -> Inventory:
        return inventory(self.qmp.monitor("info mtree"), self.qmp.command("query-pci"))


class Running(Machine):
    """A machine that runs already. Its events and its log file are put back by :meth:`leave`."""

    def __init__(self, path: str, log: Path) -> None:
        self.qmp = Qmp.connect(path)
        self.pid = self.qmp.peer()
        self._log = log
        self._before: dict[str, bool] = {}

    def meet(self) -> bool:
        """Send its log to us."""
        self.check()
        before = {name: self._state(name) for name in EVENTS}
        self._send_log(self._log)
        self._before = before
        return True

    def go(self) -> None:
        """It runs already."""

    def wait(self, milliseconds: int) -> bool:
        """Has it ended, now or within this time?"""
        return self.qmp.closed.wait(milliseconds / 1000)

    def leave(self) -> str | None:
        """As it was before; what could not be put back is said. Only the first call does something."""
        trouble = None
        try:
            for name, enabled in self._before.items():
                self.qmp.command("trace-event-set-state", name=name, enable=enabled)
            if self._before:
                self._send_log(Path(self._log_before()))
        except MmiotapError as error:
            trouble = None if self.qmp.closed.is_set() else f"the machine's log is not as it was: {error}"
        self._before = {}
        return trouble

    def close(self) -> None:
        """Nothing is asked any more."""
        self.qmp.close()

    def _state(self, name: str) -> bool:
        states: list[dict[str, Any]] = self.qmp.command("trace-event-get-state", name=name)
        return any(one["state"] == "enabled" for one in states)

    def _send_log(self, path: Path) -> None:
        if refused := self.qmp.monitor(f'logfile "{path}"').strip():
            raise MmiotapError(f"QEMU (process {self.pid}) cannot write its log to {path}: {refused}")

    def _log_before(self) -> str:
        """Where it logged before: QEMU does not say, but its command line does. Without an option: standard error."""
        try:
            words = Path(f"/proc/{self.pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return "/dev/stderr"
        return log_file([os.fsdecode(word) for word in words]) or "/dev/stderr"


class Started(Machine):
    """A machine that we start. It waits for us before its first instruction."""

    def __init__(self, command: list[str], log: Path) -> None:
        if "-daemonize" in command:
            raise MmiotapError(
                "a QEMU that goes to the background (-daemonize) cannot be followed: leave that out, "
                "or start it first with -qmp unix:PATH,server=on,wait=off and use mmiotap guest --qmp PATH"
            )
        program = launch.find_program(command[0])
        self._connection, its = socket.socketpair()
        options = ["-S", "-D", str(log), "-chardev", f"socket,id=mmiotap,fd={its.fileno()}"]
        options += ["-mon", "chardev=mmiotap,mode=control"]
        if "-msg" not in command:
            options += ["-msg", "timestamp=on"]
        with its:
            its.set_inheritable(True)
            self.child = Child(launch.start(program, [*command, *options], dict(os.environ)))
        self.pid = self.child.pid
        self._paused = "-S" in command

    def meet(self) -> bool:
        """Wait until QEMU answers. False: it has ended before, and has said why."""
        try:
            self.qmp = Qmp(self._connection, "QEMU", patience=START_PATIENCE)
        except MmiotapError:
            if self.wait(1000):
                return False
            raise
        self.check()
        return True

    def go(self) -> None:
        """Let it run, unless its user wants it to wait for him."""
        if not self._paused:
            self.qmp.command("cont")

    def wait(self, milliseconds: int) -> bool:
        """Has it ended, now or within this time?"""
        ended = self.child.wait(milliseconds)
        self.exit_code = self.child.exit_code
        return ended

    def leave(self) -> str | None:
        """It has ended, or it will never be seen: then it is not left behind."""
        if not self.wait(0):
            self.child.send(signal.SIGKILL)
            self.wait(KILL_MS)
        return None

    def close(self) -> None:
        self._connection.close()


def log_file(command: list[str]) -> str | None:
    """The file that a QEMU was told to log to."""
    found = None
    for word, value in itertools.pairwise(command):
        if word in ("-D", "--D"):
            found = value
        elif word in ("-trace", "--trace") and (match := re.search(r"(?:^|,)file=([^,]+)", value)):
            found = match[1]
    return found
