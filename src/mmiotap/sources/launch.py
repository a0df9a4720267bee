"""Start a program with the agent in it: find it, say clearly why it cannot be recorded, start it."""

import os
import signal
import stat
from pathlib import Path

from mmiotap.sources import elf
from mmiotap.trace import layout
from mmiotap.trace.errors import MmiotapError

#: Rules of a recording that names none: where Linux shows devices to programs.
DEVICE_PATHS = (
    "/dev/mem",
    "/dev/uio*",
    "/dev/vfio/*",
    "/sys/**/resource*",
    "/dev/infiniband/*",
    "/dev/dri/*",
    "/dev/nvidia*",
    "/dev/kfd",
    "/dev/xdma*",
)

#: ``#!`` lines may name an interpreter that is itself a script; the kernel follows five of them.
MAX_INTERPRETERS = 5


class NotStartedError(MmiotapError):
    """The program could not be started; ``status`` is what a shell would exit with (126 or 127)."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class NoAgentError(MmiotapError):
    """The loader would not put the agent into the program; from outside it can be traced. ``reason`` says why not."""

    def __init__(self, reason: str, way_out: str) -> None:
        super().__init__(f"{reason}: {way_out}")
        self.reason = reason


def find_program(name: str) -> str:
    """The path that a shell would run for this word. Raises NotStartedError (127: none, 126: not executable)."""
    candidates = [name] if "/" in name else [f"{folder or '.'}/{name}" for folder in os.get_exec_path()]
    present = [path for path in candidates if Path(path).exists() and ("/" in name or not Path(path).is_dir())]
    for path in present:
        if Path(path).is_file() and os.access(path, os.X_OK):
            return path
    if present:
        reason = "is a folder" if Path(present[0]).is_dir() else "is not executable (chmod +x makes it so)"
        raise NotStartedError(f"{present[0]} {reason}", 126)
    where = "no such file" if "/" in name else "no such program in PATH"
    raise NotStartedError(f"{name}: {where}", 127)


def find_agent() -> Path:
    """The agent library of this installation, as an absolute path that LD_PRELOAD can express."""
    package = Path(__file__).resolve().parent.parent
    libraries = sorted(package.glob("_agent*.so"), key=lambda path: path.stat().st_mtime)
    if not libraries:
        raise MmiotapError(
            f"the agent library _agent*.so is missing from {package}: install mmiotap again (pip install .)"
        )
    agent = libraries[-1]
    if any(char in " :\t\n" for char in str(agent)):
        raise MmiotapError(
            f"LD_PRELOAD cannot name {str(agent)!r}: install mmiotap where no path has a space or a colon"
        )
    return agent


def check_rules(rules: list[str]) -> None:
    """Raises MmiotapError for rules that the arena cannot hold (docs/trace-format.md)."""
    if any(not rule or "\0" in rule for rule in rules):
        raise MmiotapError("an empty --map selects nothing: give a path or a glob, for example --map '/dev/uio*'")
    size = sum(len(os.fsencode(rule)) + 1 for rule in rules) + 1
    if size > layout.RULES_SIZE:
        raise MmiotapError(
            f"the --map rules take {size} bytes, more than the {layout.RULES_SIZE} there is room for: "
            "use fewer, or shorter ones with * and **"
        )


def check_program(path: Path, agent: Path) -> None:
    """Raises MmiotapError, with the reason, if the loader would not put the agent into the program.

    It is a NoAgentError if that is no reason against tracing it from outside.
    """
    _check_privileges(path)
    file = path
    for _ in range(MAX_INTERPRETERS):
        try:
            header = elf.read(file)
            interpreter = None if header else _interpreter(file)
        except PermissionError:
            return  # may be run but not read: nothing can be said about it
        except OSError as error:
            raise NotStartedError(f"{file}: {error.strerror}", 126) from error
        if header:
            _check_elf(path, file, header, agent)
            return
        if interpreter is None:
            raise NotStartedError(f"{path} is neither an ELF program nor a script with a #! line", 126)
        if not interpreter.is_file():
            raise NotStartedError(f"{path}: its interpreter {interpreter} does not exist", 126)
        file = interpreter
    raise NotStartedError(f"{path}: too many interpreters, one after the other", 126)


def environment(arena: Path, agent: Path) -> dict[str, str]:
    """The environment of the traced program: ours with the agent in front and the way to its arena.

    A program built with AddressSanitizer refuses to start where another library is in front, unless told not to look.
    """
    result = dict(os.environ)
    preloaded = result.get("LD_PRELOAD", "")
    others = [name for name in preloaded.replace(" ", ":").split(":") if name and name != str(agent)]
    result["LD_PRELOAD"] = ":".join([str(agent), *others])
    result["MMIOTAP_ARENA"] = str(arena)
    options = [result.get("ASAN_OPTIONS", ""), "verify_asan_link_order=0"]
    result["ASAN_OPTIONS"] = ":".join(option for option in options if option)
    return result


def start(program: str, command: list[str], env: dict[str, str]) -> int:
    """Start the program and return its pid; the caller has to wait for it.

    It gets our terminal, process group, files and signal mask. Signals that Python ignores for itself, and those we
    have a handler for, have their default effect in it.
    """
    try:
        return os.posix_spawn(program, command, env, setsigdef=[signal.SIGPIPE, signal.SIGXFSZ])
    except OSError as error:
        raise NotStartedError(f"{program} does not start: {error.strerror}", 126) from error


def _interpreter(script: Path) -> Path | None:
    with script.open("rb") as file:
        line = file.read(256).split(b"\n", 1)[0]
    words = line[2:].split(maxsplit=1)
    return Path(os.fsdecode(words[0])) if line.startswith(b"#!") and words else None


def _check_privileges(path: Path) -> None:
    """The loader ignores LD_PRELOAD where the kernel sets AT_SECURE: see secureexec in security/commoncap.c.

    From outside only root can trace such a program: for others the kernel takes its privileges away.
    """
    status = path.stat()
    if os.statvfs(path).f_flag & os.ST_NOSUID:
        return
    if status.st_mode & stat.S_ISUID and status.st_uid != os.getuid():
        raise _privileged(f"{path} is setuid, so the loader ignores LD_PRELOAD", "run it as its owner, or a copy of it")
    if status.st_mode & stat.S_ISGID and status.st_mode & stat.S_IXGRP and status.st_gid != os.getgid():
        raise _privileged(f"{path} is setgid, so the loader ignores LD_PRELOAD", "run a copy of it without that bit")
    if os.getuid() != 0 and _has_capabilities(path):
        raise MmiotapError(f"{path} has file capabilities, so the loader ignores LD_PRELOAD: run it as root, or a copy")


def _privileged(reason: str, way_out: str) -> MmiotapError:
    return NoAgentError(reason, way_out) if os.geteuid() == 0 else MmiotapError(f"{reason}: {way_out}")


def _has_capabilities(path: Path) -> bool:
    try:
        return "security.capability" in os.listxattr(path)
    except OSError:
        return False  # a file system without extended attributes


def _check_elf(program: Path, file: Path, header: elf.Elf, agent: Path) -> None:
    what = str(program) if file == program else f"{program}: its interpreter {file}"
    ours = elf.read(agent)
    if ours is None:
        raise MmiotapError(f"{agent} is no shared object: install mmiotap again (pip install .)")
    if header.bits != ours.bits:
        raise MmiotapError(
            f"{what} is a {header.bits}-bit program; mmiotap records {ours.bits}-bit ones: rebuild it so"
        )
    if header.machine != ours.machine:
        raise MmiotapError(
            f"{what} is a program for {header.machine_name}; this mmiotap records {ours.machine_name}: record it there"
        )
    if not header.dynamic:
        raise NoAgentError(f"{what} is statically linked, so no agent can be loaded into it", "link it without -static")
