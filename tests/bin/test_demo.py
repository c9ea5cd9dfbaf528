"""The demo page in Debian's Chromium: an upload in, the program's emotion and transcript out."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from browser import Browser
from datadirs import write_wav
from small_corpus import run_program, signal
from small_model import save_model

from sermtl import Speech2Emotion
from sermtl.bin import demo as program

Client, handle_file = pytest.importorskip("gradio_client").Client, pytest.importorskip("gradio_client").handle_file

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("demo") / "model")


@pytest.fixture(scope="module")
def page(model, tmp_path_factory):
    """The running program's port; it is ended while one recording is judged and another is uploaded."""
    root = tmp_path_factory.mktemp("page")
    temporary = root / "tmp"
    temporary.mkdir()
    words = ["--model", model, "--port", "0", "--max_mb", "0.5", "--max_minutes", "61"]
    # A machine's proxy is not asked for this page.
    changed = {"TMPDIR": str(temporary), "HTTP_PROXY": "http://127.0.0.1:9"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-m", "sermtl.bin.demo", *words]
    with subprocess.Popen(command, env=os.environ | changed, **pipes) as process:
        try:
            port = int(re.search(r"http://127\.0\.0\.1:(\d+)/ ", process.stdout.readline())[1])
            yield port
            job = gradio_client(port).submit(handle_file(silence(root / "hour.flac", 60)), api_name="/predict")
            head = {"Content-Type": "multipart/form-data; boundary=x", "Content-Length": "9999"}
            half = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.wav"\r\n\r\nhalf'
            upload = http.client.HTTPConnection("127.0.0.1", port)
            upload.request("POST", "/gradio_api/upload", half, head)
            wait(lambda: len([p for p in temporary.glob("sermtl-demo-*/**/*") if p.name[:3] in ("tmp", "hou")]) == 2)
            assert not job.done()
            process.terminate()
            assert (process.wait(60), process.stderr.read()) == (0, "")
            assert not list(temporary.glob("sermtl*"))
        finally:
            process.kill()


def gradio_client(port):
    return Client(f"http://127.0.0.1:{port}/", verbose=False)


def silence(path, minutes):
    soundfile.write(path, np.zeros(1000 * 60 * minutes, np.int16), 1000)
    return path


def wait(found):
    """What a function finds, within a minute."""
    deadline = time.monotonic() + 60
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return value


def test_in_chromium_an_upload_gives_what_the_model_says_and_asks_no_other_server(
    page, model, driver, tmp_path  # noqa: F811
):  # fmt: skip
    audio = write_wav(tmp_path / "speech.wav", signal(1, 2, 40000, 7))
    ((_, wanted),) = Speech2Emotion.from_pretrained(model).files([audio])
    browser = Browser(driver, tmp_path / "profile")
    try:
        size = {"width": 1100, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.devtools("Emulation.setDeviceMetricsOverride", **size)
        browser.do("/url", url=f"http://127.0.0.1:{page}/")
        wait(lambda: browser.js("return document.querySelector('input[type=file]')"))
        element = browser.do("/element", using="css selector", value="input[type=file]")
        browser.do(f"/element/{next(iter(element.values()))}/value", text=str(audio))
        wait(lambda: browser.js("return document.querySelector('audio')"))
        browser.js("[...document.querySelectorAll('button')].find(b => b.innerText === 'Submit').click()")
        wait(lambda: browser.js("return [...document.images].some(i => i.naturalWidth > 900)"))
        label = browser.js("return document.querySelector('[data-testid=label-output-value]').innerText")
        assert label == wanted.emotion
        assert wanted.text in browser.js("return [...document.querySelectorAll('textarea')].map(t => t.value)")
        rows = "return [...document.querySelectorAll('.confidence-set')].map(e => e.innerText.split(/\\s+/))"
        assert {row[0]: int(row[1].rstrip("%")) / 100 for row in browser.js(rows)} == pytest.approx(
            wanted.scores, abs=0.006
        )
        assert browser.js("return document.documentElement.scrollWidth") <= 1100
        asked = [json.loads(entry["message"])["message"] for entry in browser.log("performance")]
        urls = {m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"}
        sent = {url for url in urls if url.startswith(("http", "ws"))}
        assert len(sent) > 5 and all(url.startswith(f"http://127.0.0.1:{page}/") for url in sent)
        picture = base64.b64decode(browser.call("GET", f"{browser.session}/screenshot"))
        Path(os.environ.get("SERMTL_SCREENSHOTS", tmp_path), "demo.png").write_bytes(picture)
        assert len(picture) > 20_000
    finally:
        browser.close()


def test_what_cannot_be_used_is_shown_as_an_error(page, tmp_path):
    client = gradio_client(page)
    (tmp_path / "text.wav").write_text("no audio at all")
    (tmp_path / "large.wav").write_bytes(bytes(500_001))
    long = silence(tmp_path / "long.flac", 62)
    for file, message in (("text.wav", "^not readable as audio"), (long.name, "3720 s of audio; this page takes up to"),
                          ("large.wav", "[Ss]ize")):  # fmt: skip
        with pytest.raises(Exception, match=message):
            client.predict(handle_file(tmp_path / file), api_name="/predict")


def test_other_names_of_this_address_are_refused(page):
    for name, status in ((f"localhost:{page}", 200), ("evil.example", 400)):
        connection = http.client.HTTPConnection("127.0.0.1", page, timeout=60)
        connection.request("GET", "/", headers={"Host": name})
        assert connection.getresponse().status == status


def test_a_missing_package_and_a_used_port_are_reported(model, page, monkeypatch, capsys):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert run_program(program.main, "--model", model, "--port", page) == 2
    assert f"port {page} of 127.0.0.1 cannot be used" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert run_program(program.main, "--model", model) == 2
    assert "pip install 'sermtl[demo]'" in capsys.readouterr().err
