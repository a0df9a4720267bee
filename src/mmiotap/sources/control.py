"""Talk to a running recording: the recorder's socket, and how to find it from a pid or a trace.

One request a connection: the client sends one line of JSON, ``{"do": "mark", "text": …}`` (or ``enable``, ``disable``,
``status``), and gets one line back, ``{"ok": true, …}`` or ``{"error": "…"}``.
"""

import contextlib
import json
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.store import TraceDir, read_info

Request = dict[str, Any]
Reply = dict[str, Any]

#: The longest request line; a mark's text is cut by the agent's rules long before.
MAX_REQUEST = 65536
#: Seconds that a client that says nothing may keep the server busy, and that a client waits for its reply.
SERVER_PATIENCE = 1.0
CLIENT_PATIENCE = 10.0


class Server:
    """Answers requests on ``live/control`` in a thread of its own, one at a time, until it is closed.

    ``answer`` is called in that thread. A MmiotapError it raises goes to the client as its text.
    """

    def __init__(self, path: Path, answer: Callable[[Request], Reply]) -> None:
        self._answer = answer
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with _short(path) as name:
            self._socket.bind(name)
        path.chmod(0o600)
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve, name="mmiotap-control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; a request that is being answered is finished first."""
        self._socket.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(SERVER_PATIENCE)
                connection.sendall(json.dumps(self._reply(_read_line(connection))).encode() + b"\n")

    def _reply(self, line: bytes) -> Reply:
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise MmiotapError("a request is a JSON object")
            return {"ok": True, **self._answer(request)}
        except (ValueError, MmiotapError) as error:
            return {"error": str(error)}


def request(target: str, message: Request) -> Reply:
    """Send a request to the recording that ``target`` (a pid or a trace folder) names and return its reply.

    Raises MmiotapError if there is no such recording, it is over, it may not be reached, or it refuses.
    """
    folder = find_recording(target)
    trace = TraceDir(folder)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection, _short(trace.control) as name:
            connection.settimeout(CLIENT_PATIENCE)
            connection.connect(name)
            connection.sendall(json.dumps(message).encode() + b"\n")
            reply = json.loads(_read_line(connection))
    except PermissionError as error:
        raise MmiotapError(f"{folder}: no permission; only the user who records may do this") from error
    except TimeoutError as error:
        raise MmiotapError(f"{folder}: its recorder does not answer; is it stopped?") from error
    except (OSError, ValueError) as error:
        raise MmiotapError(_why_over(folder)) from error
    if not isinstance(reply, dict) or "error" in reply:
        raise MmiotapError(f"{folder}: {reply['error'] if isinstance(reply, dict) else 'an answer that is none'}")
    return reply


def find_recording(target: str) -> Path:
    """The trace folder of a recording, by its path, its recorder's pid or the pid of a process that is recorded."""
    if not target.isdecimal():
        return Path(target)
    try:
        maps = Path("/proc", target, "maps").read_text(errors="surrogateescape")
    except (FileNotFoundError, ProcessLookupError) as error:
        raise MmiotapError(f"there is no process {target}") from error
    except PermissionError as error:
        raise MmiotapError(f"process {target}: no permission; only the user who records may do this") from error
    found = re.search(r" (/.*)/live/arena( \(deleted\))?$", maps, re.MULTILINE)
    if found is None:
        raise MmiotapError(f"process {target} is not being recorded: start it with mmiotap record")
    if found[2]:
        raise MmiotapError(f"process {target} is not being recorded any more: {found[1]} is over or was removed")
    return Path(found[1].replace("\\012", "\n"))


def _why_over(folder: Path) -> str:
    info = read_info(folder)
    if info["state"] != "recording":
        return f"{folder}: this recording is over ({info['state']})"
    return f"{folder}: its recorder (process {info.get('recorder_pid')}) is gone: mmiotap recover {folder}"


def _read_line(connection: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n") and len(line) < MAX_REQUEST:
        more = connection.recv(MAX_REQUEST)
        if not more:
            break
        line += more
    return line


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name for a socket that fits the 108 bytes of sun_path, however deep the folder is."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
