"""Stop logging, while the program runs on at full speed.

Switch a running recording off: the program runs on the real mapping, at full speed, until mmiotap enable.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recording", metavar="PID|TRACE", help="a recorded process, its recorder, or the trace folder")


def run(args: argparse.Namespace) -> int:
    from mmiotap.sources import control

    control.request(args.recording, {"do": "disable"})
    return 0
