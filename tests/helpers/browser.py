"""Debian's Chromium, driven through ChromeDriver over plain HTTP (W3C WebDriver)."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

QUIET = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --disable-dev-shm-usage"
).split()


class Browser:
    """One WebDriver session."""

    def __init__(self, port: int, profile: Path, scripts: bool = True):
        self.root = f"http://127.0.0.1:{port}"
        options = {
            "binary": shutil.which("chromium"),
            "args": [*QUIET, f"--user-data-dir={profile}"],
            "prefs": {} if scripts else {"profile.managed_default_content_settings.javascript": 2},
        }
        always = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        answer = self.call("POST", "/session", {"capabilities": {"alwaysMatch": always}})
        self.session = f"/session/{answer['sessionId']}"

    def call(self, method: str, path: str, body: dict | None = None):
        data = None if body is None else json.dumps(body).encode()
        head = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.root + path, data=data, method=method, headers=head)
        with urllib.request.urlopen(request, timeout=120) as reply:
            return json.load(reply)["value"]

    def do(self, path: str, **body):
        return self.call("POST", self.session + path, body)

    def js(self, script: str):
        return self.do("/execute/sync", script=script, args=[])

    def devtools(self, command: str, **parameters):
        return self.do("/goog/cdp/execute", cmd=command, params=parameters)

    def log(self, kind: str) -> list[dict]:
        return self.do("/se/log", type=kind)

    def close(self) -> None:
        self.call("DELETE", self.session)


@pytest.fixture(scope="session")
def driver():
    """A running ChromeDriver; gives its port."""
    if not shutil.which("chromium") or not shutil.which("chromedriver"):
        pytest.skip("chromium and chromedriver are not installed: apt-get install chromium chromium-driver")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=2).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=20)
