"""Watch the registers of a driver in the terminal, as it works.

What is watched is a trace, which may be recorded just now; a process, which is recorded as 'mmiotap attach' does unless
it is already; or a program, which is started and recorded as 'mmiotap record' does. Its output is shown when the screen
has gone. Leaving the screen ends a recording that it has begun: a process runs on, a program gets Ctrl-C.

keys: arrows and page keys move, / searches, n finds the next, f filters, s sorts, p pauses, q leaves.

examples:
  mmiotap live driver.mmiotap
  mmiotap live --map '/dev/uio0' 4711
  mmiotap live -o driver.mmiotap -- ./driver --reset
"""

import argparse
import sys
from pathlib import Path

from mmiotap.cli import filtering, names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="TRACE", help="trace folder to make (default: PROGRAM.PID.mmiotap)")
    parser.add_argument(
        "-m", "--map", metavar="GLOB", action="append", default=[], help="record mappings of such paths; repeatable"
    )
    parser.add_argument("-f", "--force", action="store_true", help="replace an existing trace")
    filtering.add_argument(parser)
    names.add_arguments(parser)
    parser.add_argument("what", metavar="PID|TRACE|-- COMMAND", nargs="+", help="what to watch")


def run(args: argparse.Namespace) -> int:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        print("mmiotap: live draws on a terminal; mmiotap show and mmiotap stats write to files", file=sys.stderr)
        return 2
    folder = _there(args.what)
    if folder is not None:
        _watch(args, folder)
        return 0
    from mmiotap.cli.recording import die_of
    from mmiotap.sources.beside import Beside

    words, folder = _recorder(args)
    beside = Beside(words)
    try:
        if beside.wait_for(folder):
            _watch(args, folder)
    finally:
        print("mmiotap: the recording ends", file=sys.stderr)
        status = beside.end()
    if status < 0:
        die_of(-status)
    return status


def _there(what: list[str]) -> Path | None:
    """The trace, if it is one, or if the process is recorded into one."""
    from mmiotap.sources import control
    from mmiotap.trace import store
    from mmiotap.trace.errors import MmiotapError

    if len(what) > 1:
        return None
    if what[0].isdecimal():
        if not Path("/proc", what[0]).is_dir():
            raise MmiotapError(f"there is no process {what[0]}")
        try:
            return control.find_recording(what[0])
        except MmiotapError:
            return None  # not recorded, or not ours to see, which attach will say
    if Path(what[0]).is_dir():
        store.read_info(Path(what[0]))
        return Path(what[0])
    return None


def _recorder(args: argparse.Namespace) -> tuple[list[str], Path]:
    """The words of the command that records, and where to."""
    from mmiotap.sources import launch
    from mmiotap.sources.ptrace import maps as proc
    from mmiotap.sources.recording import default_folder

    is_process = len(args.what) == 1 and args.what[0].isdecimal()
    program = proc.executable(int(args.what[0])) if is_process else launch.find_program(args.what[0])
    folder = Path(args.output) if args.output is not None else default_folder(program)
    words = ["attach" if is_process else "record", "-o", str(folder)]
    words += [word for glob in args.map for word in ("--map", glob)]
    words += ["--force"] if args.force else []
    return [*words, *([] if is_process else ["--"]), *args.what], folder


def _watch(args: argparse.Namespace, folder: Path) -> None:
    """Show the screen until it is left."""
    from mmiotap.analysis.watch import Watch
    from mmiotap.trace.reader import open_trace
    from mmiotap.views.monitor import Monitor

    def watch(filter: str | None) -> Watch:
        asked = argparse.Namespace(**{**vars(args), "filter": filter})
        return Watch(
            folder,
            lambda trace: filtering.narrowed(asked, trace).narrowing,
            lambda trace: names.decoder(args, trace),
        )

    watching = watch(args.filter)

    def choose(filter: str) -> None:
        nonlocal watching
        asked = argparse.Namespace(**{**vars(args), "filter": filter or None})
        filtering.narrowed(asked, open_trace(folder))
        watching = watch(filter or None)

    Monitor(folder.name, lambda: watching.look(), choose, args.filter or "").run()
