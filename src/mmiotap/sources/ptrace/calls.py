"""ptrace(2) as Python functions, and the few structures of the kernel that go with it (x86-64).

They are called with Python's lock held: getting it back would take longer than the call.
"""

import ctypes
import errno
import os
import signal
from dataclasses import dataclass

# Requests, linux/ptrace.h and asm/ptrace-abi.h.
_CONT, _SINGLESTEP, _GETREGS, _SETREGS, _SYSCALL = 7, 9, 12, 13, 24
_SETOPTIONS, _GETEVENTMSG, _GETSIGINFO, _SETSIGINFO = 0x4200, 0x4201, 0x4202, 0x4203
_GETREGSET, _SETREGSET, _SEIZE, _INTERRUPT, _LISTEN, _PEEKSIGINFO = 0x4204, 0x4205, 0x4206, 0x4207, 0x4208, 0x4209
_GETSIGMASK, _SETSIGMASK, _GET_SYSCALL_INFO, _DETACH = 0x420A, 0x420B, 0x420E, 17
_NT_X86_XSTATE = 0x202

#: PTRACE_O_: system call stops are marked; forks, threads, vforks and exec stop and are followed.
_OPTIONS = 0x1 | 0x2 | 0x4 | 0x8 | 0x10
_MARKED_CALLS = 0x1

# Events of a stop, the third byte of its status.
EVENT_FORK, EVENT_VFORK, EVENT_CLONE, EVENT_EXEC, EVENT_STOP = 1, 2, 3, 4, 128

#: The signal of a stop at a system call, with PTRACE_O_TRACESYSGOOD.
AT_CALL = signal.SIGTRAP | 0x80

# si_code, asm-generic/siginfo.h.
SEGV_ACCERR, SEGV_PKUERR = 2, 4
TRAP_BRKPT, TRAP_TRACE = 1, 2

#: waitpid(2): threads as well as processes; only those of the calling thread.
WALL, WNOTHREAD = 0x40000000, 0x20000000

_EXTENDED_STATE = 16384


_REGISTERS = (
    "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi", "orig_rax",
    "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs",
)  # fmt: skip


class Registers(ctypes.Structure):
    """struct user_regs_struct."""

    _fields_ = tuple((name, ctypes.c_uint64) for name in _REGISTERS)

    def copy(self) -> "Registers":
        return Registers.from_buffer_copy(self)


class SignalInfo(ctypes.Structure):
    """siginfo_t; ``address`` is that of a fault."""

    _fields_ = (
        ("number", ctypes.c_int32),
        ("errno", ctypes.c_int32),
        ("code", ctypes.c_int32),
        ("_pad", ctypes.c_int32),
        ("address", ctypes.c_uint64),
        ("_rest", ctypes.c_char * 104),
    )


class _PeekArguments(ctypes.Structure):
    """struct ptrace_peeksiginfo_args."""

    _fields_ = (("first", ctypes.c_uint64), ("flags", ctypes.c_uint32), ("count", ctypes.c_int32))


class _CallInfo(ctypes.Structure):
    """struct ptrace_syscall_info, for an entry."""

    _fields_ = (
        ("op", ctypes.c_uint8),
        ("_pad", ctypes.c_uint8 * 3),
        ("arch", ctypes.c_uint32),
        ("rip", ctypes.c_uint64),
        ("rsp", ctypes.c_uint64),
        ("_union", ctypes.c_uint64 * 8),
    )


class _Vector(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


_ptrace = ctypes.PyDLL(None, use_errno=True).ptrace
_ptrace.restype = ctypes.c_long
_ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
_byref = ctypes.byref


class Gone(Exception):  # noqa: N818  (it is no error: threads end)
    """The thread has been killed, or has ended, while it was looked at."""

    def __init__(self, tid: int) -> None:
        super().__init__(f"thread {tid} is gone")
        self.tid = tid


def _call(request: int, tid: int, address: object = None, data: object = None) -> int:
    result: int = _ptrace(request, tid, address, data)
    if result < 0:
        code = ctypes.get_errno()
        if code == errno.ESRCH:
            raise Gone(tid)
        raise OSError(code, os.strerror(code))
    return result


def seize(tid: int, *, follow: bool = True) -> None:
    """Become the tracer of a thread, without stopping it. Raises OSError (EPERM) or Gone.

    Whatever it starts is traced, too, if it is to be followed.
    """
    _call(_SEIZE, tid, None, _OPTIONS if follow else _MARKED_CALLS)


def interrupt(tid: int) -> None:
    """Have a thread stop; that comes as an EVENT_STOP."""
    _call(_INTERRUPT, tid)


def listen(tid: int) -> None:
    """Leave a thread in its group stop until SIGCONT."""
    _call(_LISTEN, tid)


def go_on(tid: int, number: int = 0) -> None:
    """Let a stopped thread run, to its next system call at most, with this signal."""
    _call(_SYSCALL, tid, None, number)


def run(tid: int, number: int = 0) -> None:
    """Let a stopped thread run, with this signal, and not stop at its system calls."""
    _call(_CONT, tid, None, number)


def single_step(tid: int) -> None:
    """Let a stopped thread run one instruction."""
    _call(_SINGLESTEP, tid)


def detach(tid: int, number: int = 0) -> None:
    """Let a stopped thread run on alone, with this signal."""
    _call(_DETACH, tid, None, number)


def registers(tid: int) -> Registers:
    found = Registers()
    _call(_GETREGS, tid, None, _byref(found))
    return found


def set_registers(tid: int, values: Registers) -> None:
    _call(_SETREGS, tid, None, _byref(values))


def signal_info(tid: int) -> SignalInfo:
    found = SignalInfo()
    _call(_GETSIGINFO, tid, None, _byref(found))
    return found


def pending_signals(tid: int) -> list[SignalInfo]:
    """The first of those that wait for a thread, and for no other of its process."""
    found = (SignalInfo * 16)()
    count = _call(_PEEKSIGINFO, tid, _byref(_PeekArguments(0, 0, len(found))), _byref(found))
    return list(found[:count])


def set_signal_info(tid: int, info: SignalInfo) -> None:
    _call(_SETSIGINFO, tid, None, _byref(info))


def signal_mask(tid: int) -> int:
    """The signals that are blocked in a thread: bit n - 1 for signal n."""
    found = ctypes.c_uint64()
    _call(_GETSIGMASK, tid, 8, _byref(found))
    return found.value


def set_signal_mask(tid: int, mask: int) -> None:
    _call(_SETSIGMASK, tid, 8, _byref(ctypes.c_uint64(mask)))


def event_message(tid: int) -> int:
    """Of a stop for fork or clone: the new thread's id; for exec: the former id of the thread."""
    found = ctypes.c_ulong()
    _call(_GETEVENTMSG, tid, None, _byref(found))
    return found.value


def extended_state(tid: int) -> bytearray:
    """The xsave area: vector registers, PKRU, ….

    The layout is the processor's standard one: xmm0 at byte 160, and so on.
    """
    area = bytearray(_EXTENDED_STATE)
    vector = _Vector(ctypes.addressof(ctypes.c_char.from_buffer(area)), len(area))
    _call(_GETREGSET, tid, _NT_X86_XSTATE, _byref(vector))
    return bytearray(area[: vector.length])


def set_extended_state(tid: int, area: bytearray) -> None:
    vector = _Vector(ctypes.addressof(ctypes.c_char.from_buffer(area)), len(area))
    _call(_SETREGSET, tid, _NT_X86_XSTATE, _byref(vector))


@dataclass(frozen=True)
class SystemCall:
    """A system call that a thread is about to make, or has made."""

    entry: bool
    number: int  #: at entry only
    arguments: tuple[int, ...]  #: at entry only
    result: int  #: at exit only


def system_call(tid: int) -> SystemCall | None:
    """What a thread that stopped AT_CALL is doing; None for what is no 64-bit system call."""
    info = _CallInfo()
    _call(_GET_SYSCALL_INFO, tid, ctypes.sizeof(info), _byref(info))
    words = info._union
    if info.op == 1 and info.arch == 0xC000003E:
        return SystemCall(True, words[0], tuple(words[1:7]), 0)
    if info.op == 2:
        return SystemCall(False, -1, (), words[0] - (1 << 64) if words[0] >> 63 else words[0])
    return None


# The status of a stop, as waitpid tells it.


def stopping_signal(status: int) -> int:
    return status >> 8 & 0xFF


def stopping_event(status: int) -> int:
    return status >> 16
