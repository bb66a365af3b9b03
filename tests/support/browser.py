"""A headless Chromium (Debian's package `chromium`), driven by its DevTools protocol without a separate driver."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome")


class Page:
    """One tab."""

    def __init__(self, socket: websocket.WebSocket) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)

    def call(self, method: str, **params: object) -> dict[str, Any]:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            answer = json.loads(self._socket.recv())
            if answer.get("id") == number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression (true for any object), or None where it throws."""
        result = self.call("Runtime.evaluate", expression=expression)["result"]
        return None if result.get("subtype") == "error" else result.get("value", result["type"] == "object")

    def wait_for(self, expression: str, seconds: float = 300) -> Any:
        """Wait until an expression is true and return its value."""
        deadline = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < deadline, f"{expression} is still {value!r}: {self.text()[:2000]}"
            time.sleep(0.2)
        return value

    def text(self) -> str:
        return str(self.evaluate("document.body.innerText") or "")

    def dark(self, dark: bool) -> None:
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, path: Path) -> None:
        data = self.call("Page.captureScreenshot", format="png")["data"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(data))


@contextmanager
def chromium(profile: Path, width: int = 1500, height: int = 1000) -> Iterator[Page]:
    """Open a browser tab that is closed at the end of the block."""
    binary = next((path for name in NAMES if (path := shutil.which(name))), None)
    if binary is None and os.environ.get("HEADRACE_WITHOUT_CHROMIUM"):
        pytest.skip(".ci/run could not install a Chromium, and said so")
    assert binary, "the test of the Streams page needs a Chromium: apt-get install chromium"
    arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    arguments += ["--remote-debugging-port=0", "--remote-allow-origins=*", f"--user-data-dir={profile}"]
    arguments += ["--disable-background-networking", f"--window-size={width},{height}", "about:blank"]
    process = subprocess.Popen([binary, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port = _port(profile / "DevToolsActivePort", process)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
            tab = next(target for target in json.load(answer) if target["type"] == "page")
        socket = websocket.create_connection(tab["webSocketDebuggerUrl"], timeout=300)
        try:
            yield Page(socket)
        finally:
            socket.close()
    finally:
        process.terminate()
        process.wait(120)


def _port(path: Path, process: subprocess.Popen[bytes]) -> int:
    deadline = time.monotonic() + 300
    while not (path.exists() and path.read_text().strip()):
        assert process.poll() is None, "Chromium ended at its start"
        assert time.monotonic() < deadline, "Chromium did not open its DevTools port within 300 s"
        time.sleep(0.1)
    return int(path.read_text().split()[0])
