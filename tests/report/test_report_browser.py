"""The report in Debian's Chromium."""

from __future__ import annotations

import base64
import json

import pytest
from browser import Browser
from make_scores import grid, make_data
from report_page import run_report

from sermtl.score import speaker_probe

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report with every kind of section, warnings included; gives its URL."""
    root = tmp_path_factory.mktemp("browser")
    data = make_data(root, 4, 120, dev=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speaker_probe, "SHUFFLES", 1)
        patch.setattr(speaker_probe, "SPLITS", 1)
        made = grid(root, data, 7, epochs=3, embeddings=3)
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
    assert len(images) == 10
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
    # A page that was never drawn prints as an empty one.
    frames = "requestAnimationFrame(() => requestAnimationFrame(() => arguments[0](document.title)))"
    assert browser.do("/execute/async", script=frames, args=[])
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
