"""A traced thread: its stops, its registers, one step at a time.

Everything here is called by the tracer's own Python thread, for the kernel lets nobody else.
"""

import os
import signal

from mmiotap.sources.ptrace import calls
from mmiotap.sources.ptrace.calls import Gone, Registers, SignalInfo

#: Signals that an instruction raises, when the kernel sends them (si_code > 0).
FAULTS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
STOPPING = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)

#: Blocked while a signal waits: all but those that a step may raise, which cannot be blocked without harm.
_BLOCKED = (1 << 64) - 1 - sum(1 << number - 1 for number in (*FAULTS, signal.SIGTRAP))


class Thread:
    """A thread that is traced.

    Invariant: while it runs on our behalf (a step, a system call of ours) the program's signals wait, so no handler
    ever sees registers or memory that are not the program's own. The first that comes is kept in ``signal``, and the
    others by the kernel, for they are blocked from then on; :meth:`go_on` ends that.
    """

    def __init__(self, tid: int, pid: int) -> None:
        self.tid = tid
        self.pid = pid
        self.stopped = False
        #: Whether it can make system calls for us where it has stopped: not on its way into one of its own.
        self.usable = False
        self.call: calls.SystemCall | None = None  #: the system call that it is in
        self.signal: SignalInfo | None = None  #: it gets this one when it goes on
        self._late: tuple[int, int, int] | None = None  #: see may_be_late()
        self._mask: int | None = None  #: the program's own, while we have blocked everything
        self._group_stop = False  #: its process was stopped (SIGSTOP) while it was busy with us

    def stop(self, status: int) -> None:
        """It has stopped with this status. A signal is kept for it, whatever else we do with it meanwhile."""
        number, event = calls.stopping_signal(status), calls.stopping_event(status)
        self.stopped = True
        if number == calls.AT_CALL:
            call = calls.system_call(self.tid)
            self.usable = call is not None and not call.entry
        else:
            self.usable = event in (0, calls.EVENT_STOP)
            if not event:
                self.signal = calls.signal_info(self.tid)

    def registers(self) -> Registers:
        return calls.registers(self.tid)

    def set_registers(self, values: Registers) -> None:
        calls.set_registers(self.tid, values)

    def vectors(self) -> bytearray:
        """Its vector registers, as calls.extended_state has them."""
        return calls.extended_state(self.tid)

    def set_vectors(self, area: bytearray) -> None:
        calls.set_extended_state(self.tid, area)

    def step(self) -> SignalInfo | None:
        """Run one instruction. None: done. Otherwise it could not be done: the signal that it raised instead."""
        if self.signal is not None:
            self._block_signals()
        while True:
            calls.single_step(self.tid)
            status = self.wait()
            number, event = calls.stopping_signal(status), calls.stopping_event(status)
            if event:
                self._group_stop |= event == calls.EVENT_STOP and number in STOPPING
                continue
            info = calls.signal_info(self.tid)
            if number == signal.SIGTRAP and info.code in (calls.TRAP_TRACE, calls.TRAP_BRKPT):
                return None
            if number in FAULTS and info.code > 0:
                return info
            self.signal = info
            self._block_signals()

    def has_faulted(self) -> bool:
        """Whether it has raised a signal that it has not stopped for yet, because it was to stop anyway."""
        return any(info.number in FAULTS and info.code > 0 for info in calls.pending_signals(self.tid))

    def may_be_late(self, pc: int, address: int, armings: int) -> bool:
        """Whether a fault where nothing is armed can be one from before: then the instruction is run again.

        If it faults again, and nothing was armed meanwhile, the fault is the program's own.
        """
        now = (pc, address, armings)
        known, self._late = self._late == now, now
        return not known

    def wait(self) -> int:
        """The next stop's status. Raises Ended if there is none any more."""
        _, status = os.waitpid(self.tid, calls.WALL)
        if not os.WIFSTOPPED(status):
            raise Ended(self.tid, status)
        return status

    def stay_stopped(self) -> None:
        """Its process is stopped (SIGSTOP): leave it so."""
        try:
            calls.listen(self.tid)
            self.stopped = False
        except OSError:  # it has run on our behalf meanwhile, and so left its group stop
            self._group_stop = True
            self.go_on()

    def go_on(self) -> None:
        """Let it run, to its next system call at most. It gets its signal now."""
        if self._group_stop:
            self._group_stop = False
            calls.interrupt(self.tid)  # it comes back at once, in its group stop
        calls.go_on(self.tid, self._take_signal())
        self.stopped = self.usable = False

    def run(self) -> None:
        """Let it run, and not stop at its system calls. It gets its signal now."""
        calls.run(self.tid, self._take_signal())
        self.stopped = self.usable = False

    def detach(self) -> None:
        """Let it run on without us. It gets its signal now."""
        calls.detach(self.tid, self._take_signal())

    def _block_signals(self) -> None:
        """There is a signal for it already: the others are to wait."""
        if self._mask is None:
            self._mask = calls.signal_mask(self.tid)
            calls.set_signal_mask(self.tid, self._mask | _BLOCKED)

    def _take_signal(self) -> int:
        if self._mask is not None:
            calls.set_signal_mask(self.tid, self._mask)
            self._mask = None
        info, self.signal = self.signal, None
        if info is None:
            return 0
        calls.set_signal_info(self.tid, info)
        return int(info.number)


class Ended(Gone):
    """Its last status has come."""

    def __init__(self, tid: int, status: int) -> None:
        super().__init__(tid)
        self.status = status
