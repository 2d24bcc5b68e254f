"""The page in a real browser, driven as a person would; needs Debian's chromium:

    apt install chromium; pytest -m slow tests/serve/test_browser.py

Screenshots go to the folder that TGA_SCREENSHOTS names.
"""

import os
import shutil
from pathlib import Path

import pytest
import serve_support
import test_uploads

from tga_jax.serve import page

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium"),
]
SLOW = 180_000  # milliseconds: the first answer compiles


@pytest.fixture(scope="module", name="url")
def fixture_url(tmp_path_factory):
    site = serve_support.site(tmp_path_factory.mktemp("site"), scratch := tmp_path_factory.mktemp("scratch"))
    app, url = page.launch(site, "127.0.0.1", serve_support.free_port(), scratch / "gradio")
    yield url
    app.close()


@pytest.fixture(scope="module", name="browser")
def fixture_browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(name="tab", params=[1280, 400])
def fixture_tab(browser, url, request):
    tab = browser.new_page(viewport={"width": request.param, "height": 900})
    asked = []
    tab.on("request", lambda sent: asked.append(sent.url))
    tab.goto(url)
    tab.wait_for_selector("#picture img", timeout=SLOW)
    yield tab
    assert all(address.startswith((url, "data:", "blob:")) for address in asked)  # nothing from elsewhere
    tab.close()


def ask(tab) -> None:
    tab.click("#ask")
    tab.wait_for_selector("#link", timeout=SLOW)


def field(tab, name: str):
    return tab.locator(f"#{name}").locator("textarea, input").first


def state(tab) -> list[str]:
    texts = [field(tab, name).input_value() for name in ("question", "caption", "left-name", "right-name")]
    return [*texts, tab.inner_text("#left"), tab.inner_text("#right")]


def whole_page(tab, name: str) -> None:
    width = tab.viewport_size["width"]
    assert tab.evaluate("document.documentElement.scrollWidth") <= width  # nothing to scroll to sideways
    for image in tab.query_selector_all(".tga img"):
        box = image.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
    if folder := os.environ.get("TGA_SCREENSHOTS"):
        tab.screenshot(path=Path(folder) / f"{name}-{width}.png", full_page=True)


def test_an_example_is_asked_and_its_link_restores_it(tab, browser, url):
    tab.click("#examples button.thumbnail-item >> nth=1")
    sync_api.expect(field(tab, "question")).to_have_value("w6 w6")
    ask(tab)
    for side in ("left", "right"):
        assert tab.locator(f"#{side} dd").count() == 2  # about the picture, and about the caption
        assert tab.locator(f"#{side} .badge").count() == 2
        assert tab.locator(f"#{side}-lens figure img").count() == 3
        assert tab.locator(f"#{side}-lens .strip span").count() >= 1
    whole_page(tab, "example")
    link = field(tab, "link").input_value()
    assert tab.url.endswith(link)
    other = browser.new_page()
    other.goto(url + link)
    sync_api.expect(field(other, "question")).to_have_value("w6 w6")
    ask(other)
    assert state(other) == state(tab)
    other.close()


def test_an_upload_is_asked(tab, tmp_path):
    file = tmp_path / "own.png"
    file.write_bytes(serve_support.png(77))
    before = tab.get_attribute("#picture img", "src")
    tab.set_input_files("input[type=file]", file)
    tab.wait_for_function("before => document.querySelector('#picture img').src !== before", arg=before)
    ask(tab)
    assert tab.locator("#left-lens figure img").count() == 1  # without a caption there is nothing to compare
    field(tab, "caption").fill("w9 w10")
    tab.click("#ask")
    tab.wait_for_function("document.querySelectorAll('#right-lens figure img').length === 3", timeout=SLOW)
    whole_page(tab, "upload")


@pytest.mark.parametrize("name", test_uploads.REFUSED)
def test_what_is_no_picture_is_said_under_the_field(tab, tmp_path, name):
    data, message = test_uploads.REFUSED[name]
    (tmp_path / name).write_bytes(data())
    tab.set_input_files("input[type=file]", tmp_path / name)
    tab.wait_for_function(
        "text => document.querySelector('#upload-message')?.innerText.includes(text)", arg=message, timeout=SLOW
    )
    whole_page(tab, f"refused-{Path(name).stem}")


def test_an_empty_question_is_said_under_the_button(tab):
    field(tab, "question").fill(" ")
    tab.click("#ask")
    tab.wait_for_function("document.querySelector('#message')?.innerText.includes('the question is empty')")
