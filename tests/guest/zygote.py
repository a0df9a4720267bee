"""A start of mmiotap under emulation is ten seconds of imports. This makes them once, and forks for who asks (ask.c).

The fork is the recorder; its caller is not its parent.
"""

import os
import signal
import socket
import sys
from pathlib import Path

SOCKET = "/run/zygote"
#: A request, in bytes: strings that end in 0: folder, number of arguments, arguments, environment.
LONGEST = 1 << 16


def serve() -> None:
    """Answers, one after the other, until killed. Returns in forks, which are to become mmiotap."""
    import pyarrow.parquet  # noqa: F401

    import mmiotap.cli.kernel
    import mmiotap.cli.record
    import mmiotap.sources.kernel.record
    import mmiotap.trace.sealer  # noqa: F401

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(f"{SOCKET}.new")
        server.listen()
        Path(f"{SOCKET}.new").rename(SOCKET)  # who finds it may ask
        while True:
            caller, _ = server.accept()
            with caller:
                request, files, _, _ = socket.recv_fds(caller, LONGEST, 3)
                if os.fork() == 0:
                    break
                for file in files:
                    os.close(file)
                code = os.waitstatus_to_exitcode(os.wait()[1])
                caller.sendall(bytes([code if code >= 0 else 128 - code]))  # as a shell has it
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    # A shell starts what is to run in the background without it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder, count, *words = request[:-1].split(b"\0")
    os.chdir(folder)
    os.environb.clear()
    for variable in words[int(count) :]:
        name, _, value = variable.partition(b"=")
        os.environb[name] = value
    sys.argv = ["mmiotap", *map(os.fsdecode, words[: int(count)])]


if __name__ == "__main__":
    serve()
    from mmiotap.cli import main

    sys.exit(main())
