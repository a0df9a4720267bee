"""Keep descriptions of its registers in a trace, or show what names them.

A trace that has descriptions of its own needs no --regs any more, and none of their files. Without --regs and --forget
all registers are listed that the trace's own descriptions have, or the one that is shipped for its device.

examples:
  mmiotap annotate driver.mmiotap --regs device.rdl@resource0
  mmiotap annotate driver.mmiotap
"""

import argparse
import sys

from mmiotap.cli import names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trace", metavar="TRACE", help="the trace folder")
    names.add_descriptions(parser)
    parser.add_argument("--forget", action="store_true", help="remove the descriptions that the trace has")


def run(args: argparse.Namespace) -> int:
    from mmiotap.registers import choose
    from mmiotap.trace.reader import open_trace
    from mmiotap.views.descriptions import write_text
    from mmiotap.views.words import accept_all_text

    if args.regs and args.forget:
        print("mmiotap: --regs and --forget: a trace can have descriptions, or have none", file=sys.stderr)
        return 2
    accept_all_text()
    trace = open_trace(args.trace)
    if args.forget:
        choose.remember(trace, [])
        return 0
    if args.regs:
        chosen = choose.asked(args.regs, args.variant, perl=args.perl)
        bound = [one for each in chosen for one in choose.bind(each, trace)]
        choose.remember(trace, chosen)
        registers = sum(len(one.description.registers) for one in chosen)
        mappings = len({one.map_id for one in bound})
        print(
            f"mmiotap: {registers} registers for {mappings} {'mapping' if mappings == 1 else 'mappings'}",
            file=sys.stderr,
        )
        print(f"mmiotap: next: mmiotap show {args.trace}", file=sys.stderr)
        return 0
    decoder = names.usual(trace)
    if decoder is None:
        print("mmiotap: nothing names this trace's registers; give a description with --regs", file=sys.stderr)
        return 0
    write_text(decoder.bindings, trace)
    return 0
