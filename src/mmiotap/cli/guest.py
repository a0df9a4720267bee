"""Record every access of a virtual machine's processors to its devices.

QEMU logs them and mmiotap reads along; nothing in the guest is changed, and whatever runs there is seen: firmware,
kernel drivers, user space, on all processors. QEMU keeps its terminal and its exit status.

examples:
  mmiotap guest -o boot.mmiotap -- qemu-system-x86_64 -m 1G -device e1000,id=card disk.img
  mmiotap guest --device 'e1000*' -- qemu-system-x86_64 …
  mmiotap guest --qmp /run/vm.sock       a machine that was started with -qmp unix:/run/vm.sock,server=on,wait=off
"""

import argparse
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="TRACE", help="trace folder to make (default: PROGRAM.PID.mmiotap)")
    parser.add_argument(
        "-d",
        "--device",
        metavar="PATTERN",
        action="append",
        help="record such only: a glob over names of memory regions, PCI addresses, and id= of devices; repeatable",
    )
    parser.add_argument("--qmp", metavar="SOCKET", help="record a machine that runs already, until it ends or Ctrl-C")
    parser.add_argument("--disabled", action="store_true", help="start switched off, until 'mmiotap enable TRACE'")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress, no summary; trouble is still reported")
    parser.add_argument("-f", "--force", action="store_true", help="replace an existing trace")
    parser.add_argument("program", metavar="COMMAND", nargs=argparse.REMAINDER, help="qemu-system-… and its arguments")


def run(args: argparse.Namespace) -> int:
    import shlex
    import signal
    import threading

    from mmiotap.cli.recording import ProgressLine, die_of, say
    from mmiotap.sources import launch
    from mmiotap.sources.guest import record

    command = args.program[1:] if args.program[:1] == ["--"] else args.program
    if bool(command) == bool(args.qmp):
        print("mmiotap: which machine? mmiotap guest [OPTIONS] -- qemu-system-… ARGS, or --qmp SOCKET", file=sys.stderr)
        return 2
    until = threading.Event()
    if args.qmp:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: until.set())
    progress = ProgressLine()
    try:
        result = record(
            command,
            qmp=args.qmp,
            devices=args.device or [],
            path=args.output,
            disabled=args.disabled,
            force=args.force,
            until=until,
            on_progress=progress.show if progress.wanted and not args.quiet else None,
            say=_pass_on,
        )
    except launch.NotStartedError as error:
        print(f"mmiotap: {error}", file=sys.stderr)
        return error.status
    finally:
        progress.clear()
    if result.trouble:
        say(result.trouble)
    if not args.quiet:
        say(f"{result.events} events, {result.mappings} regions, {result.cpus} CPUs, lost: 0, {result.seconds:.2f} s")
        if result.mappings:
            say(f"next: mmiotap show {shlex.quote(str(result.path))}")
        elif result.not_selected:
            say(f"no --device selects what was accessed: {', '.join(result.not_selected)}")
    if result.signal is not None:
        die_of(result.signal)
    return result.status or 0


def _pass_on(line: bytes) -> None:
    """QEMU's log goes to its standard error, unless it is told otherwise."""
    sys.stderr.buffer.write(line + b"\n")
    sys.stderr.buffer.flush()
