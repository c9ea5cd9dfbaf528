"""The report in Debian's Chromium, driven through ChromeDriver over plain HTTP (W3C WebDriver)."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from make_scores import grid, make_data
from report_page import run_report

pytestmark = pytest.mark.slow

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


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report with every kind of section, warnings included; gives its URL."""
    root = tmp_path_factory.mktemp("browser")
    data = make_data(root, 4, 120, dev=3)
    made = grid(root, data, 7, epochs=3, embeddings=True)
    broken = made[-1] / "scores.json"
    broken.write_text(broken.read_text()[:200])
    (made[-1] / "01F/config.yaml").write_text("corpus: toy\n")
    assert run_report(root) == 0
    return (root / "out/index.html").as_uri()


@pytest.fixture
def browser(driver, tmp_path):
    made = Browser(driver, tmp_path / "profile")
    yield made
    made.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_reads_at_desk_and_on_a_phone(browser, page, width):
    check_page(browser, page, width)


def check_page(browser, page, width):
    """Every image loads, nothing is wider than the window, nothing is fetched, the console is empty."""
    browser.devtools("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    browser.do("/url", url=page)
    assert browser.js("return innerWidth") == width
    assert browser.js("return document.documentElement.scrollWidth") <= width
    outside = "return [...document.querySelectorAll('p, li, h1, h2, h3, img, .scroll, figcaption')]"
    outside += ".filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    assert browser.js(outside) == []
    images = browser.js("return [...document.images].map(i => [i.complete, i.naturalWidth, i.clientWidth, i.alt])")
    assert len(images) == 8
    assert all(done and natural > 0 and shown > 0.6 * min(width, 500) and alt for done, natural, shown, alt in images)
    assert browser.js("return document.querySelectorAll('table').length") > 20
    assert browser.log("browser") == []
    asked = [json.loads(entry["message"])["message"] for entry in browser.log("performance")]
    urls = {m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"}
    assert page in urls and not [url for url in urls if url.startswith(("http", "ws"))]
    picture = base64.b64decode(browser.call("GET", f"{browser.session}/screenshot"))
    assert len(picture) > 20_000


def test_wide_tables_scroll_inside_their_box_by_keyboard(browser, page):
    browser.devtools("Emulation.setDeviceMetricsOverride", width=390, height=900, deviceScaleFactor=1, mobile=False)
    browser.do("/url", url=page)
    box = "document.querySelector('#speaker-table-3').parentElement"
    assert browser.js(f"return {box}.scrollWidth > {box}.clientWidth && {box}.tabIndex === 0")
    first = browser.js(f"{box}.scrollLeft = 200; return {box}.querySelector('td').getBoundingClientRect().left")
    assert 0 <= first < 40  # the setting's name stays in sight


def test_the_page_needs_no_javascript(driver, page, tmp_path):
    made = Browser(driver, tmp_path / "profile", scripts=False)
    try:
        made.do("/url", url=page)
        element = made.do("/element", using="css selector", value="#speaker-table-2 tbody tr td:nth-child(2)")
        text = made.call("GET", f"{made.session}/element/{next(iter(element.values()))}/text")
        assert text == "0.746"
    finally:
        made.close()


def test_the_page_prints_whole(browser, page):
    browser.do("/url", url=page)
    assert len(base64.b64decode(browser.do("/print"))) > 50_000
    browser.devtools("Emulation.setEmulatedMedia", media="print")
    browser.devtools("Emulation.setDeviceMetricsOverride", width=720, height=1000, deviceScaleFactor=1, mobile=False)
    cut = "return [...document.querySelectorAll('.scroll')].filter(e => getComputedStyle(e).overflowX !== 'visible'"
    cut += " || e.querySelector('table').getBoundingClientRect().right > innerWidth).map(e => e.ariaLabel)"
    assert browser.js(cut) == []


def test_what_was_left_out_stands_first(browser, page):
    browser.do("/url", url=page)
    warning = browser.js("return document.querySelector('.warn').innerText")
    assert "LEFT OUT" in warning and "scores.json" in warning
    order = "return document.querySelector('.warn').compareDocumentPosition(document.querySelector('table'))"
    assert browser.js(order) == 4  # the table follows
