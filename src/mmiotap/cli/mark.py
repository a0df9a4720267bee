"""Put a line of text into a running recording.

The text becomes a ``mark`` row in the trace, in time order with the accesses around it.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recording", metavar="PID|TRACE", help="a recorded process, its recorder, or the trace folder")
    parser.add_argument("text", help="the text of the mark")


def run(args: argparse.Namespace) -> int:
    from mmiotap.sources import control

    control.request(args.recording, {"do": "mark", "text": args.text})
    return 0
