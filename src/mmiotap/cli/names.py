"""The options of all commands that name registers."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmiotap.registers.decode import Decoder
    from mmiotap.trace.reader import Trace


def add_descriptions(parser: argparse.ArgumentParser) -> None:
    """Which descriptions, and how they are read."""
    parser.add_argument(
        "--regs",
        metavar="FILE[@MAP[+OFFSET]]",
        action="append",
        default=[],
        help="name registers by a description of a mapping: SystemRDL, CMSIS-SVD, rnndb, Python, or the name of "
        "one that is shipped (may be repeated)",
    )
    parser.add_argument(
        "--variant", metavar="[SET=]NAME", action="append", default=[], help="of rnndb: this one (may be repeated)"
    )
    parser.add_argument("--perl", action="store_true", help="let Perl programs in SystemRDL run")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_descriptions(parser)
    parser.add_argument("--no-regs", action="store_true", help="do not name registers")


def usual(trace: "Trace") -> "Decoder | None":
    """What names a trace where nothing is said: its own descriptions, or one that we ship."""
    from mmiotap.registers import choose

    return choose.decoder(trace, [], [], perl=False, ours=True)


def decoder(args: argparse.Namespace, trace: "Trace", form: str = "text") -> "Decoder | None":
    """What these options mean for a trace that is shown in a form: mmiotrace's has no place for names, and those for
    programs only have the columns of descriptions that somebody has chosen."""
    if args.no_regs or form == "mmiotrace":
        return None
    from mmiotap.registers import choose

    return choose.decoder(trace, args.regs, args.variant, perl=args.perl, ours=form == "text")
