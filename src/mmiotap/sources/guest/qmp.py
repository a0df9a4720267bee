"""QEMU's machine protocol (docs/interop/qmp-spec there): a line of JSON a command, and a reply, with events between."""

import contextlib
import json
import queue
import socket
import threading
from typing import Any

from mmiotap.trace.errors import MmiotapError

#: Seconds that QEMU may take to answer. It answers between two things that the machine does.
PATIENCE = 30.0
#: Seconds until QEMU greets: it serves one client at a time and lets others wait for ever.
GREETING_PATIENCE = 5.0


class Qmp:
    """A connection to a QEMU. Commands may be given from any thread, one at a time."""

    def __init__(self, connection: socket.socket, name: str, *, patience: float = GREETING_PATIENCE) -> None:
        """``name`` is what messages call it. Raises MmiotapError if no QEMU answers."""
        self._name = name
        self._socket = connection
        self._lock = threading.Lock()
        self._replies: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.closed = threading.Event()  #: QEMU has ended, or ended the connection
        threading.Thread(target=self._read, name="mmiotap-qmp", daemon=True).start()
        try:
            greeting = self._reply(patience)
        except MmiotapError as error:
            self.close()
            raise MmiotapError(
                f"{name}: no QEMU answers there, or another client has it: QEMU serves one at a time; "
                "give the machine a -qmp of its own for mmiotap"
            ) from error
        if not isinstance(greeting.get("QMP"), dict):
            self.close()
            raise MmiotapError(f"{name} is no QMP socket: start QEMU with -qmp unix:{name},server=on,wait=off")
        self.command("qmp_capabilities")

    @classmethod
    def connect(cls, path: str) -> "Qmp":
        """Connect to the Unix socket that a QEMU was told to make. Raises MmiotapError."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(path)
        except OSError as error:
            connection.close()
            raise MmiotapError(
                f"{path}: {error.strerror or error}; give the socket of QEMU's -qmp unix:PATH,server=on,wait=off"
            ) from error
        return cls(connection, path)

    def peer(self) -> int:
        """The pid of the QEMU at the other end."""
        credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int.from_bytes(credentials[:4], "little")

    def command(self, name: str, /, **arguments: Any) -> Any:
        """What QEMU returns. Raises MmiotapError if it refuses, does not answer, or is gone."""
        with self._lock:
            request = {"execute": name, "arguments": arguments}
            try:
                self._socket.sendall(json.dumps(request).encode() + b"\n")
            except OSError as error:
                raise self._gone() from error
            reply = self._reply(PATIENCE)
        if "error" in reply:
            raise MmiotapError(f"QEMU refuses {name}: {reply['error'].get('desc', reply['error'])}")
        return reply.get("return")

    def monitor(self, line: str) -> str:
        """What the human monitor prints for a command; errors too, for it does not tell them apart."""
        return str(self.command("human-monitor-command", **{"command-line": line})).replace("\r\n", "\n")

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self.closed.wait(1)
        self._socket.close()

    def _reply(self, patience: float) -> dict[str, Any]:
        try:
            reply = self._replies.get(timeout=patience)
        except queue.Empty as error:
            raise MmiotapError(f"{self._name}: QEMU does not answer; is it stopped by a debugger?") from error
        if reply is None:
            self._replies.put(None)  # for whoever asks next
            raise self._gone()
        return reply

    def _gone(self) -> MmiotapError:
        return MmiotapError(f"{self._name}: QEMU has ended")

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError), self._socket.makefile("rb") as lines:
            for line in lines:
                message = json.loads(line)
                if isinstance(message, dict) and "event" not in message:
                    self._replies.put(message)
        self.closed.set()
        self._replies.put(None)
