"""Make a trace of somebody else's log.

Reads logs of the kernel's mmiotrace and of QEMU, trace-cmd's trace.dat, the kernel's rwmmio and kvm_mmio events as
text, valgrind-mmt's binary log and JSON lines; plain or compressed with gzip, bzip2, xz or zstd. What a log is, its
content says.

examples:
  mmiotap import mydump.txt -o nouveau.mmiotap
  xz -dc e1000.log.xz | mmiotap import - -o e1000.mmiotap
  mmiotap import accesses.jsonl --map-field time_us=timestamp --map-field value=args.value
"""

import argparse
import contextlib
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "log", metavar="LOG", help="the log; - is standard input. Of ftrace also a folder, see docs/import.md"
    )
    parser.add_argument(
        "-o", "--output", metavar="TRACE", help="the trace folder to make (default: LOG's name.mmiotap)"
    )
    parser.add_argument("-f", "--force", action="store_true", help="replace an existing trace")
    parser.add_argument("--from", dest="kind", metavar="KIND", help="what the log is (default: what its content says)")
    parser.add_argument(
        "--map-field",
        action="append",
        default=[],
        metavar="COLUMN=FIELD",
        help="of JSON lines: the field, a.b within an object, that tells a column; may be given often",
    )


def run(args: argparse.Namespace) -> int:
    from mmiotap.formats.detect import KINDS, import_folder, import_log

    standard_input = args.log == "-"
    if standard_input and args.output is None:
        print("mmiotap: a log from standard input has no name: give the trace one with -o", file=sys.stderr)
        return 2
    if args.kind is not None and args.kind not in KINDS:
        print(f"mmiotap: --from {args.kind}: there is no such kind; there are {', '.join(KINDS)}", file=sys.stderr)
        return 2
    if wrong := next((one for one in args.map_field if "=" not in one.strip("=")), None):
        print(f"mmiotap: --map-field {wrong}: give a column and a field: --map-field value=args.value", file=sys.stderr)
        return 2
    mapped = dict(one.split("=", 1) for one in args.map_field)
    name = "standard input" if standard_input else args.log
    path = Path(args.output) if args.output else Path(f"{Path(args.log).name.split('.')[0]}.mmiotap")
    if Path(args.log).is_dir() and not standard_input:
        what, found = "pages of ftrace's ring buffer", import_folder(Path(args.log), path, force=args.force)
    else:
        with contextlib.nullcontext(sys.stdin.buffer) if standard_input else Path(args.log).open("rb") as raw:
            kind, found = import_log(raw, name, path, kind=args.kind, mapped=mapped, force=args.force)
        what = KINDS[kind].what
    print(f"mmiotap: {what}: {found.events} events, lost: {found.lost}", file=sys.stderr)
    print(f"mmiotap: next: mmiotap show {path}", file=sys.stderr)
    for note in found.notes:
        print(f"mmiotap: {name}, {note}", file=sys.stderr)
    if found.cut is not None:
        print(
            f"mmiotap: {name}, {found.place} is cut short ({found.cut!r}); all before it is in {path}", file=sys.stderr
        )
        return 1
    return 0
