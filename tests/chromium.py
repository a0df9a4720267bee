"""Debian's Chromium without a window, driven by its DevTools protocol through a pipe: no driver, no port.

Messages are JSON with a zero byte behind (--remote-debugging-pipe: Chromium reads descriptor 3 and writes to 4); the
commands are those of https://chromedevtools.github.io/devtools-protocol/.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

#: Seconds for a command, or a condition: only a hang takes so long.
LIMIT = 60.0


class Page:
    """A page that is open. What it asked for and complained of is noted.

    :ivar requests: addresses.
    :ivar complaints: errors of its scripts and of its Content-Security-Policy, and what it writes to the console.
    """

    def __init__(self, folder: Path, *, width: int, height: int = 900, dark: bool = False) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        to_browser, self._to = os.pipe()
        self._from, from_browser = os.pipe()
        program = shutil.which("chromium") or "chromium"
        command = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        command += [f"--user-data-dir={folder / 'profile'}", "--no-first-run", "--remote-debugging-pipe", "about:blank"]
        # Chromium wants the pipes as descriptors 3 and 4; a shell puts them there.
        shell = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        self._browser = subprocess.Popen(
            ["bash", "-c", shell, "bash", *command],
            pass_fds=(to_browser, from_browser),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._received = b""
        self._sent = 0
        self._session: str | None = None
        target = self.do("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.do("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.do(f"{domain}.enable")
        self.do("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.do("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, file: Path) -> None:
        self.do("Page.navigate", url=file.resolve().as_uri())

    def do(self, method: str, **parameters: Any) -> Any:
        """A command's result."""
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + LIMIT
        while True:
            answer = self._next(deadline)
            if answer.get("id") == self._sent:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript is in the page."""
        found = self.do("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait_for(self, expression: str) -> None:
        deadline = time.monotonic() + LIMIT
        while not self.value(expression):
            assert time.monotonic() < deadline, f"it does not come true: {expression}; {self.complaints}"
            time.sleep(0.05)

    def close(self) -> None:
        """End the browser and all that it has started."""
        os.close(self._to)
        os.close(self._from)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._browser.pid, signal.SIGKILL)
        self._browser.wait()

    def _next(self, deadline: float) -> Any:
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "Chromium does not answer"
            data = os.read(self._from, 1 << 16)
            assert data, "Chromium has ended"
            self._received += data
        line, _, self._received = self._received.partition(b"\0")
        message = json.loads(line)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, method: str | None, told: Any) -> None:
        match method:
            case "Network.requestWillBeSent":
                self.requests.append(told["request"]["url"])
            case "Runtime.exceptionThrown":
                self.complaints.append(str(told["exceptionDetails"]))
            case "Runtime.consoleAPICalled":
                self.complaints.append(str(told["args"]))
            case "Log.entryAdded" if told["entry"]["level"] == "error":
                self.complaints.append(told["entry"]["text"])
