"""Let a recording log again.

Switch a running recording on again: later accesses are logged.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recording", metavar="PID|TRACE", help="a recorded process, its recorder, or the trace folder")


def run(args: argparse.Namespace) -> int:
    from mmiotap.sources import control

    control.request(args.recording, {"do": "enable"})
    return 0
