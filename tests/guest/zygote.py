"""A start of mmiotap under emulation is ten seconds of imports. This one makes them once, and forks.

    zygote.py serve                 import what recording needs; then answer, one after the other, until killed
    zygote.py mmiotap ARGUMENTS...  `mmiotap ARGUMENTS...` in a fork: same folder, environment, files, status

The fork is the recorder; its caller is not its parent.
"""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

SOCKET = "/run/zygote"
#: A request, in bytes: words and environment.
LONGEST = 1 << 16


def serve() -> None:
    """Returns in forks, which are to become mmiotap."""
    import pyarrow.parquet  # noqa: F401

    import mmiotap.cli.kernel
    import mmiotap.cli.record
    import mmiotap.sources.kernel.record
    import mmiotap.trace.sealer  # noqa: F401

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(SOCKET)
        server.listen()
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
    asked = json.loads(request)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv = ["mmiotap", *asked["arguments"]]


def ask(arguments: list[str]) -> int:
    request = {"arguments": arguments, "folder": str(Path.cwd()), "environment": dict(os.environ)}
    with socket.socket(socket.AF_UNIX) as server:
        while server.connect_ex(SOCKET):
            time.sleep(0.1)
        socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
        return server.recv(1)[0]


if __name__ == "__main__":
    if sys.argv[1] != "serve":
        sys.exit(ask(sys.argv[2:]))
    serve()
    from mmiotap.cli import main

    sys.exit(main())
