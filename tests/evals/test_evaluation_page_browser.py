"""The pages of `tga evaluate` and `tga compare` in a real browser; needs Debian's chromium:

apt install chromium; pytest -m slow tests/evals/test_evaluation_page_browser.py
"""

import shutil

import pytest
import test_evaluation_page
from test_evaluation_page import SCENES, SCORED, TEXT

from tga_jax import cli
from tga_jax.evals import compare, gallery
from tga_jax.evals.asking import questions

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no chromium")]


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    a = test_evaluation_page.write(folder / "a", TEXT, answer="word" * 200)  # with no place to break a line
    test_evaluation_page.write(folder / "b", TEXT | {"s0 image"})
    every = questions(SCENES.samples(folder), sees=True)
    gallery.keep_thumbnails(every, [q.sample.id for q in every], a / "thumbnails" / "scenes")
    (a / "report.html").write_text(test_evaluation_page.made(a))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "BENCHMARKS", {"scenes": SCENES, "scored": SCORED})
        assert cli.run(["compare", str(a), str(folder / "b"), f"--html={folder / 'two.html'}"]) == 0
    return {"evaluation": a / "report.html", "comparison": folder / "two.html"}


@pytest.mark.parametrize("width", [420, 1280])
@pytest.mark.parametrize("name", ["evaluation", "comparison"])
def test_nothing_is_cut_and_a_filter_shows_its_kind_alone(browser, pages, name, width):
    tab = browser.new_page(viewport={"width": width, "height": 900})
    asked = []
    tab.on("request", lambda sent: asked.append(sent.url))
    tab.goto(pages[name].as_uri())
    for details in tab.locator("details > summary").all():
        details.click()
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate("[...document.querySelectorAll('.scroll')].every(d => d.scrollWidth <= d.clientWidth)")
    loaded = "[...document.querySelectorAll('img')].map(i => i.naturalWidth)"
    assert tab.evaluate(loaded) == [160] * 6
    shown = tab.locator(".gallery").first
    for label in shown.locator("label").all():
        label.click()
        text = label.inner_text()
        count = shown.locator(".example:visible").count()
        assert count == (6 if text == "every kind" else int(text.rpartition("(")[2].rstrip(")")))
    assert asked[0] == pages[name].as_uri()
    assert all(url.startswith("data:") for url in asked[1:])  # nothing from elsewhere
    tab.close()
