"""Why the kernel's mmiotrace cannot be used here, in one line that says what to do."""

import errno
import os
from pathlib import Path

from mmiotap.sources.kernel.tracefs import Tracefs
from mmiotap.trace.errors import MmiotapError

TRACER = "mmiotrace"
#: A boot parameter of the kernel: nothing can change it later (arch/x86/mm/mmio-mod.c).
TRACE_PC = "mmiotrace.trace_pc"


def check(root: Path = Path("/")) -> Tracefs:
    """Everything that can be known before. Raises MmiotapError for what is in the way."""
    if os.geteuid() != 0:
        raise MmiotapError("only root may trace the kernel: use sudo mmiotap kernel")
    try:
        tracefs = Tracefs.mounted()
        tracers = tracefs.read("available_tracers").split()
        current = tracefs.read("current_tracer")
    except PermissionError as error:
        raise MmiotapError(refusal(error, root)) from error
    if TRACER not in tracers:
        raise MmiotapError(
            f"the kernel {os.uname().release} has no mmiotrace (CONFIG_MMIOTRACE; only x86 has it): "
            "boot one that has, e.g. Debian's or Fedora's"
        )
    if current != "nop":
        raise MmiotapError(f"the tracer {current} is in use: end it first, or: echo nop >{tracefs.path}/current_tracer")
    return tracefs


def check_trace_pc(root: Path = Path("/")) -> None:
    """Raises MmiotapError if this kernel was not told at boot to record where accesses come from."""
    words = (root / "proc/cmdline").read_text(errors="replace").split()
    value = next((word.partition("=")[2] for word in reversed(words) if word.partition("=")[0] == TRACE_PC), "0")
    if value not in ("", "1", "y", "Y", "on"):
        raise MmiotapError(f"the kernel records instruction addresses only if it is booted with {TRACE_PC}=1")


def refusal(error: OSError, root: Path = Path("/")) -> str:
    """What to say when the kernel does not let root trace."""
    if error.errno == errno.EBUSY:
        return "the tracer is busy: somebody reads trace_pipe; end that first (fuser /sys/kernel/tracing/trace_pipe)"
    mode = locked_down(root)
    if error.errno in (errno.EPERM, errno.EACCES) and mode:
        return f"this kernel is locked down ({mode}), which forbids tracing: boot it without Secure Boot or lockdown="
    return f"{error.filename}: {error.strerror}: the kernel does not let us trace; is this a container?"


def locked_down(root: Path = Path("/")) -> str | None:
    """The mode that the kernel is locked down in."""
    try:
        modes = (root / "sys/kernel/security/lockdown").read_text().split()
    except OSError:
        return None
    mode = next((mode.strip("[]") for mode in modes if mode.startswith("[")), "none")
    return None if mode == "none" else mode
