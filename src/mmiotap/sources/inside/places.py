"""Where a thread stands: may it call libc there, is it in the middle of something of the agent's?

A thread that holds one of libc's locks must not be made to call dlopen, which would wait for that lock for ever. Nobody
can tell which locks are held, but where they are: in libc and the dynamic loader, and in objects that have a malloc of
their own.
"""

from pathlib import Path

from mmiotap.sources.inside import symbols
from mmiotap.sources.ptrace import maps
from mmiotap.sources.ptrace.calls import Registers

#: Numbers of system calls (asm/unistd_64.h) in which libc waits for something without a lock that dlopen takes.
_WAITING = frozenset(
    {
        *(0, 1, 17, 18, 19, 20),  # read, write, pread, pwrite, readv, writev
        *(7, 271, 23, 270, 232, 281, 441),  # poll, ppoll, select, pselect, epoll_wait, epoll_pwait, epoll_pwait2
        *(16, 73, 74),  # ioctl, flock, fsync
        *(24, 34, 35, 230, 219),  # sched_yield, pause, nanosleep, clock_nanosleep, restart_syscall
        *(42, 43, 288, 44, 45, 46, 47, 299),  # connect, accept, accept4, sendto, recvfrom, sendmsg, recvmsg, recvmmsg
        *(61, 247, 128, 130),  # wait4, waitid, rt_sigtimedwait, rt_sigsuspend
        *(65, 220, 69, 70, 243),  # semop, semtimedop, msgsnd, msgrcv, mq_timedreceive
        *(208, 426),  # io_getevents, io_uring_enter
    }
)
_FUTEX, _RESTART, _FUTEX_WAIT_BITSET = 202, 219, 9
#: Calls that libc makes with all signals blocked, for the agent or as a part of something of its own. They end soon.
_SHORT = frozenset(
    {
        *(228, 309, 13, 14),  # clock_gettime, getcpu; rt_sigaction, rt_sigprocmask
        *(56, 57, 58, 435, 273, 334),  # clone, fork, vfork, clone3; set_robust_list, rseq: of a thread that begins
        *(11, 28, 39, 186, 234),  # munmap, madvise; getpid, gettid, tgkill
    }
)
#: Those by which a program maps, and sets up its signals: mmap, mprotect, munmap, mremap; rt_sigaction, rt_sigprocmask.
#: And futex, which is to have another address when it is in a mapping that is taken over, or given back.
_TAKEN_OVER = frozenset({9, 10, 11, 25, 13, 14, _FUTEX})
#: SIGSEGV, SIGBUS, SIGTRAP and SIGFPE; SIGKILL and SIGSTOP, which nobody blocks.
AGENTS_SIGNALS = 1 << 10 | 1 << 6 | 1 << 4 | 1 << 7
_NEVER_BLOCKED = 1 << 8 | 1 << 18
_ALL = (1 << 64) - 1
ALL_BUT_AGENTS = _ALL & ~AGENTS_SIGNALS

_CODE_FILE = "/memfd:mmiotap-code"


class Places:
    """The code of a process, as it is mapped at one moment."""

    def __init__(self, pid: int, agent: Path) -> None:
        self._pid = pid
        self.lines = maps.read(pid)
        self.objects = symbols.objects(self.lines)
        status = agent.stat()
        self.agent = next(
            (
                line
                for path, line in self.objects.items()
                if path == str(agent) or (line.inode == status.st_ino and Path(path).name == agent.name)
            ),
            None,
        )

    def at(self, address: int) -> str | None:
        """The path of the file that an address is in: empty for memory; None if nothing is there."""
        return next((line.path for line in self.lines if line.start <= address < line.end), None)

    def may_call_libc(self, registers: Registers) -> bool:
        """Does a thread with these registers surely hold no lock of libc's?"""
        path = self.at(registers.rip)
        if path is None or _is_loader(path) or self.is_agents(path):
            return False
        call = system_call(registers)
        if call is not None:
            waits = call == _FUTEX and registers.rsi & 0x7F == _FUTEX_WAIT_BITSET
            return call in _WAITING or waits
        line = self.objects.get(path)
        return path != "[vdso]" and (line is None or symbols.find(self._pid, line, "malloc") is None)

    def is_clear_of_agent(self, registers: Registers, mask: int) -> bool:
        """Is a thread that has this mask surely not in the agent's code, or in what that calls?

        While the agent is at work all signals but its own are blocked; and it calls very little: functions of the vdso,
        and of libc's that end soon. Libc itself blocks all where it starts threads and processes, and then sets the
        mask again that it has found: that mask would be taken for the thread's own, or be the wrong one by then.
        (Nobody else does: programs that block all signals through libc leave it two of its own.)
        """
        path = self.at(registers.rip) or ""
        if self.is_agents(path) and not self._waits_for_lock(path, registers):
            return False
        if (mask | AGENTS_SIGNALS | _NEVER_BLOCKED) != _ALL:
            return True
        call = system_call(registers)
        if call is not None:
            return call not in _SHORT
        return not (path == "[vdso]" or _is_loader(path) or _is_libc(path))

    def _waits_for_lock(self, path: str, registers: Registers) -> bool:
        """Is it in a copy of libc's futex, in which it may be for ever, and which stays valid (agent/src/futex.rs)?"""
        return path.startswith(_CODE_FILE) and system_call(registers) in (_FUTEX, _RESTART)

    def is_in_libc(self, registers: Registers) -> bool:
        """Does a thread run libc's code, and not because it waits in a system call?"""
        return system_call(registers) is None and _is_libc(self.at(registers.rip) or "")

    def is_agents(self, path: str) -> bool:
        return path.startswith(_CODE_FILE) or (self.agent is not None and path == self.agent.path)

    def function(self, name: str) -> int | None:
        """The address of a function of libc's."""
        for path, line in self.objects.items():
            if _is_libc(path) and (address := symbols.find(self._pid, line, name)):
                return address
        return None


def system_call(registers: Registers) -> int | None:
    """The number of the system call that a stopped thread is in, or has just come out of."""
    number = int(registers.orig_rax)
    return number if number < 1 << 32 else None


def is_taken_over(call: int | None) -> bool:
    """Does the agent have to know of this system call?"""
    return call in _TAKEN_OVER


def _is_loader(path: str) -> bool:
    return Path(path).name.startswith("ld-")


def _is_libc(path: str) -> bool:
    name = Path(path).name
    return name.startswith(("libc.so", "libc-2", "libdl.so", "libdl-2"))
