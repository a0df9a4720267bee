"""Why a process cannot be traced, in one line; and starting one so that it can be from its first instruction on."""

import errno
import os
import signal
from contextlib import suppress
from pathlib import Path

from mmiotap.sources import elf
from mmiotap.sources.ptrace import maps
from mmiotap.trace.errors import MmiotapError

_X86_64 = 62
_YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")


def check(pid: int) -> None:
    """Raises MmiotapError if it is clear beforehand that this process cannot be traced."""
    try:
        status = maps.status(pid)
    except (FileNotFoundError, ProcessLookupError):
        raise MmiotapError(f"there is no process {pid}") from None
    name = status.get("Name", "?")
    if status.get("Tgid") != str(pid):
        raise MmiotapError(f"{pid} is a thread of process {status.get('Tgid')}: attach to that")
    if pid == os.getpid():
        raise MmiotapError(f"process {pid} is mmiotap itself")
    if status.get("State", "")[:1] in "ZX":
        raise MmiotapError(f"process {pid} ({name}) has ended: it is a zombie that its parent has not waited for")
    if status.get("State", "")[:1] == "T":
        raise MmiotapError(f"process {pid} ({name}) is stopped: let it run first, kill -CONT {pid}")
    if tracer := int(status.get("TracerPid", "0")):  # one of its threads
        with suppress(OSError, KeyError):
            tracer = int(maps.status(tracer)["Tgid"])
        raise MmiotapError(f"process {pid} ({name}) is traced already, by process {tracer}: detach that one first")
    if "VmSize" not in status:
        raise MmiotapError(f"process {pid} ({name}) is a thread of the kernel")
    if problem := word_size(pid):
        raise MmiotapError(f"process {pid} ({name}) {problem}")


def word_size(pid: int) -> str | None:
    """Why the program that a process runs is none for us."""
    try:
        header = elf.read(Path(f"/proc/{pid}/exe"))
    except OSError:
        return None  # not ours to see; ptrace will tell
    if header and header.bits != 64:
        return f"runs a {header.bits}-bit program; mmiotap traces 64-bit ones"
    if header and header.machine != _X86_64:
        return f"runs a program for {header.machine_name}; mmiotap traces x86-64 from outside"
    return None


def refused(pid: int, error: OSError) -> MmiotapError:
    """What it means that the kernel does not let us trace a process."""
    if error.errno not in (errno.EPERM, errno.EACCES):
        return MmiotapError(f"process {pid} cannot be traced: {error.strerror}")
    status = maps.status(pid)
    scope = int(_YAMA.read_text()) if _YAMA.exists() else 0
    owner = int(status.get("Uid", "0").split()[0])
    if scope == 3:
        return MmiotapError(f"process {pid} cannot be traced: this system forbids it to all (Yama, {_YAMA} is 3)")
    if scope and os.geteuid() != 0:
        return MmiotapError(
            f"process {pid} cannot be traced: this system lets only root trace what it did not start "
            f"(Yama, {_YAMA} is {scope}): sudo mmiotap …"
        )
    if owner != os.geteuid():
        return MmiotapError(f"process {pid} belongs to user {owner}: no permission to trace it, try sudo mmiotap …")
    return MmiotapError(f"process {pid} cannot be traced: no permission (it is setuid, or protects itself)")


class Waiting:
    """A forked child of ours that will become the program as soon as it may: until then it does nothing."""

    def __init__(self, program: str, command: list[str]) -> None:
        may_run, self._let_run = os.pipe()
        self._trouble, trouble = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them for itself
                    signal.signal(number, signal.SIG_DFL)
                os.close(self._let_run)  # so that it ends if we do
                if os.read(may_run, 1):
                    os.execv(program, command)
            except OSError as error:
                os.write(trouble, str(error.errno).encode())
            finally:
                os._exit(126)
        os.close(may_run)
        os.close(trouble)

    def run(self) -> None:
        """Let it become the program. Raises OSError if that is not possible."""
        os.write(self._let_run, b"x")
        os.close(self._let_run)
        with os.fdopen(self._trouble, "rb") as pipe:
            code = pipe.read()
        if code:
            raise OSError(int(code), os.strerror(int(code)))
