"""The demo page: its server over plain HTTP, and the page in Debian's Chromium."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from datadirs import write_wav
from small_corpus import run_program, signal
from small_model import save_model
from test_report_browser import Browser, driver  # noqa: F401 (a fixture)

from sermtl import Speech2Emotion
from sermtl.bin import predict as predict_program
from sermtl.demo.server import Demo, about

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("demo") / "model")


@pytest.fixture(scope="module")
def demo(model):
    loaded = Speech2Emotion.from_pretrained(model)
    made = Demo(loaded, 0, 400_000, 5, about(loaded))
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.fixture
def audio(tmp_path):
    return write_wav(tmp_path / "speech.wav", signal(1, 2, 40000, 7))


def ask(demo, method, path, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", demo.server_port, timeout=60)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read(), answer.headers


def test_an_upload_gives_what_the_program_says_and_leaves_nothing(demo, model, audio, capsys):
    before = set(os.listdir(tempfile.gettempdir()))
    status, body, _ = ask(demo, "POST", "/hear", audio.read_bytes())
    told = json.loads(body)
    assert run_program(predict_program.main, "--model", model, "--json", audio) == 0
    said = json.loads(capsys.readouterr().out)
    assert status == 200 and told["emotion"] == said["emotion"] and told["text"] == said["text"]
    assert told["scores"] == pytest.approx(said["scores"], abs=1e-5)
    assert told["timeline"][0]["start"] == 0 and told["timeline"][-1]["end"] == told["seconds"] == 2.5
    left = set(os.listdir(tempfile.gettempdir())) - before
    assert not [name for name in left if name.startswith("sermtl-demo")]


def test_the_program_serves_and_ends_on_sigterm_leaving_nothing(model, audio, tmp_path):
    """Stopped while one upload is heard and another comes in."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    hour = tmp_path / "hour.flac"
    soundfile.write(hour, np.zeros(16000 * 3600), 16000)
    words = [sys.executable, "-m", "sermtl.bin.demo", "--model", model, "--port", "0", "--max_minutes", "60"]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, env=environment, **pipes) as process:
        try:
            port = int(re.search(r"http://127\.0\.0\.1:(\d+)/ ", process.stdout.readline())[1])
            demo = SimpleNamespace(server_port=port)
            assert ask(demo, "GET", "/")[0] == 200
            assert ask(demo, "POST", "/hear", audio.read_bytes())[0] == 200
            assert not list(temporary.glob("*/*"))
            clients = [http.client.HTTPConnection("127.0.0.1", port) for _ in range(2)]
            clients[0].request("POST", "/hear", hour.read_bytes())
            clients[1].request("POST", "/hear", b"half", {"Content-Length": "100"})
            deadline = time.monotonic() + 30
            while len(list(temporary.glob("*/*"))) < 2 and time.monotonic() < deadline:
                time.sleep(0.05)
            assert len(list(temporary.glob("*/*"))) == 2
            process.terminate()
            assert process.wait(60) == 0 and process.stderr.read() == ""
            assert list(temporary.iterdir()) == []
        finally:
            process.kill()


def test_what_cannot_be_heard_is_told(demo, tmp_path):
    status, body, _ = ask(demo, "POST", "/hear", b"no audio at all")
    assert status == 422 and "not readable as audio" in json.loads(body)["error"]
    assert tempfile.gettempdir() not in json.loads(body)["error"].split("(")[0]
    long = tmp_path / "long.flac"
    soundfile.write(long, np.zeros(16000 * 6), 16000)
    status, body, _ = ask(demo, "POST", "/hear", long.read_bytes())
    assert status == 422 and "up to 5 s" in json.loads(body)["error"]
    status, body, _ = ask(demo, "POST", "/hear", b"", **{"Content-Length": "400001"})
    assert status == 413 and "0.4 MB" in json.loads(body)["error"]


def test_only_this_computers_page_is_answered(demo, audio):
    assert demo.server_address[0] == "127.0.0.1"
    assert ask(demo, "GET", "/", Host="evil.example")[0] == 403
    assert ask(demo, "POST", "/hear", audio.read_bytes(), Origin="https://evil.example")[0] == 403
    for path in ("/../server.py", "/server.py", "/page.html/..", "/%2e%2e/server.py"):
        assert ask(demo, "GET", path)[0] == 404
    status, body, headers = ask(demo, "GET", "/")
    assert status == 200 and b"http://" not in body and b"https://" not in body
    assert "default-src 'self'" in headers["Content-Security-Policy"]


def test_in_chromium_a_file_goes_in_and_the_programs_label_comes_out(
    demo, model, audio, driver, tmp_path, capsys  # noqa: F811
):  # fmt: skip
    assert run_program(predict_program.main, "--model", model, "--json", audio) == 0
    said = json.loads(capsys.readouterr().out)
    browser = Browser(driver, tmp_path / "profile")
    try:
        browser.devtools(
            "Emulation.setDeviceMetricsOverride", width=900, height=1150, deviceScaleFactor=1, mobile=False
        )
        browser.do("/url", url=demo.url)
        element = browser.do("/element", using="css selector", value="#file")
        browser.do(f"/element/{next(iter(element.values()))}/value", text=str(audio))
        browser.js(
            "return new Promise(done => { const timer = setInterval(() => {"
            " if (document.getElementById('result').hidden && !document.querySelector('.error')) return;"
            " clearInterval(timer); done(true); }, 50); })"
        )
        assert browser.js("return document.getElementById('status').className") == ""
        assert browser.js("return document.getElementById('emotion').textContent") == said["emotion"]
        assert browser.js("return document.getElementById('text').textContent") == said["text"]
        shown = browser.js("return [...document.querySelectorAll('#scores tr')].map(r => r.innerText.split(/\\s+/))")
        assert {row[0]: float(row[-1]) for row in shown} == pytest.approx(said["scores"], abs=1e-3)
        assert browser.js("return document.querySelectorAll('#timeline polyline').length") == len(said["scores"])
        assert browser.js("return document.documentElement.scrollWidth") <= 900
        asked = [json.loads(entry["message"])["message"] for entry in browser.log("performance")]
        urls = {m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"}
        sent = {url for url in urls if url.startswith(("http", "ws"))}
        assert demo.url in sent and all(url.startswith(demo.url) for url in sent)
        # What a recording goes through: decoded by the browser, made a WAV at its rate, resampled here.
        heard = browser.js(
            "const wav = await toWav(document.getElementById('file').files[0]); await hear(wav, 'recording');"
            " return [document.getElementById('emotion').textContent, document.getElementById('status').textContent]"
        )
        assert heard[0] == said["emotion"] and heard[1].startswith("2.50 s of audio")
        assert browser.log("browser") == []
        picture = base64.b64decode(browser.call("GET", f"{browser.session}/screenshot"))
        Path(os.environ.get("SERMTL_SCREENSHOTS", tmp_path), "demo.png").write_bytes(picture)
        assert len(picture) > 20_000
    finally:
        browser.close()
