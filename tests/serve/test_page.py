"""The page without a browser: its answers, its links, and what its server gives away."""

import concurrent.futures
import contextlib
import ctypes
import gc
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import httpx
import jax
import numpy as np
import pytest
import serve_support
from test_api import chatted

import tga_jax
from tga_jax.serve import page, panel, start
from tga_jax.serve.lens import Lens, look
from tga_jax.serve.page import Asked, from_link


@pytest.fixture(scope="module", name="scratch")
def fixture_scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module", name="site")
def fixture_site(tmp_path_factory, scratch):
    return serve_support.site(tmp_path_factory.mktemp("site"), scratch)


@pytest.fixture(scope="module", name="url")
def fixture_url(site, scratch):
    app, url = page.launch(site, "127.0.0.1", serve_support.free_port(), scratch / "gradio")
    yield url.rstrip("/")
    app.close()


ASKED = Asked("picture 1", "w6 w7", "w9 w12", "base", "tga", temperature=0.8, seed=4)


def test_both_checkpoints_say_what_chat_says_and_are_looked_into(site):
    shown = {}
    for new in site.answers(ASKED):
        shown |= new
    picture = site.examples["picture 1"].file.read_bytes()
    how = {"new_tokens": 6, "temperature": 0.8, "seed": 4}
    for side, name in (("left", "base"), ("right", "tga")):
        model = site.seats[name].model
        said = {
            panel.PICTURE: chatted(model, "w6 w7", picture, **how),
            panel.TEXT: chatted(model, "w9 w12\nw6 w7", **how),
        }
        assert shown[side] == panel.answers(name, {what: (text, "answer") for what, text in said.items()})
        pixels = model.processor.pixels([site.examples["picture 1"].file])[0]
        seen = look(model, site.seats[name].refusal_ids, pixels, "w6 w7", "w9 w12")
        assert shown[f"{side}_lens"] == panel.lens(seen)


def test_one_checkpoint_alone(site):
    shown = {}
    for new in site.answers(Asked("picture 0", "w6", left="tga")):
        shown |= new
    assert (shown["right"], shown["right_lens"]) == ("", "")
    assert panel.TEXT not in shown["left"]  # without a caption


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"picture": ""}, "no picture is chosen, expected an example or an upload"),
        ({"picture": "nothing"}, "there is no example 'nothing' here, expected one of those shown"),
        ({"picture": "upload:0123"}, "this uploaded picture is no longer here, expected it to be uploaded again"),
        ({"picture": "upload:../../secret"}, "this uploaded picture is no longer here"),
        ({"question": " "}, "the question is empty, expected one"),
        ({"left": "other"}, "there is no checkpoint 'other' here, expected one of base, tga"),
        ({"temperature": -1.0}, "temperature: -1.0, expected 0 or more"),
        ({"temperature": float("inf")}, "temperature: inf, expected 0 or more"),
        ({"temperature": float("nan")}, "temperature: nan, expected 0 or more"),
        ({"seed": -1}, r"the seed is -1, expected a whole number from 0 to 2\^32 - 1"),
        ({"seed": 2**32}, "the seed is 4294967296, expected"),
        ({"question": "what is <image> ?"}, "<image> in the question or the caption, expected text alone"),
    ],
)
def test_what_cannot_be_asked_is_one_line(site, changed, message):
    asked = Asked(**{"picture": "picture 0", "question": "w5", "left": "base", **changed})
    with pytest.raises(tga_jax.UserError, match=message):
        list(site.answers(asked))


def test_a_link_says_everything():
    odd = Asked("a&b=c/d", 'What is "this"?\n<&>', "é ü", "one", "two", 0.5, 2**32 - 1)
    assert from_link(dict(urllib.parse.parse_qsl(odd.link()[1:], keep_blank_values=True)), Asked()) == odd
    assert from_link({"seed": "x", "temperature": "", "unknown": "1", "question": "q"}, ASKED) == Asked(
        **{**ASKED.__dict__, "question": "q"}
    )


def test_text_is_escaped():
    evil = "<script>alert(1)</script>\"'"
    found = Lens([0.1], [0.2], [0.3], [(evil, 0.5)], 1, [0.4])
    for html in (
        panel.answers(evil, {evil: (evil, "refusal")}),
        panel.lens(found),
        panel.retrieved([(0.5, evil)]),
        panel.picture(b"", evil),
    ):
        assert "<script" not in html
        assert "&lt;script&gt;" in html
    assert "<" not in page._plain(tga_jax.UserError(evil)).replace("\\<", "")


def test_words_outside_the_vocabulary_are_named():
    assert "Not in its vocabulary: what, &lt;b&gt;" in panel.answers("tga", {}, ["what", "<b>"])
    assert "vocabulary" not in panel.answers("tga", {})


def test_neighbours_of_one_word_are_one():
    html = panel.lens(Lens([0.1], None, None, [("a", 0.5), ("b", 0.25), ("b", 0.75), ("a", -0.5)], 1, None))
    assert 'title="cosine 0.50">b ×2</span>' in html
    assert html.count("<span") == 3
    assert "--s:0%" in html


def status(url: str) -> int:
    try:
        return urllib.request.urlopen(url).status
    except urllib.error.HTTPError as error:
        return error.code


def test_the_server_gives_away_no_file(url, site, tmp_path):
    assert status(url) == 200
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    (site.uploads.folder / "kept").write_bytes(b"of somebody else")
    for path in (secret, Path("/etc/passwd"), Path(__file__), site.uploads.folder / "kept"):
        assert status(f"{url}/gradio_api/file={path}") in (403, 404)
        assert status(f"{url}/gradio_api/file={Path('..') / '..' / path}") in (403, 404)


def test_names_tell_checkpoints_apart(tmp_path):
    assert start.names([tmp_path / "a" / "tga", tmp_path / "base"]) == ["tga", "base"]
    assert start.names([tmp_path / "a" / "tga", tmp_path / "b" / "tga"]) == ["a/tga", "b/tga"]
    with pytest.raises(tga_jax.UserError, match="--checkpoint: the same folder twice"):
        start.names([tmp_path / "a", tmp_path / "a"])


def test_the_last_demo_is_served(tmp_path):
    for i, name in enumerate(("old", "new", "unfinished")):
        for row, kind in (("tga", "llava"), ("base", "llava"), ("paper", "llava"), ("text-model", "llm")):
            folder = tmp_path / name / "models" / row
            serve_support.llava(folder) if (name, row) == ("new", "tga") else folder.mkdir(parents=True)
            spec = {"kind": kind, "config": {}}
            (folder / "model.json").write_text(json.dumps(spec))
        if name != "unfinished":
            (tmp_path / name / "results.json").write_text("{}")
            os.utime(tmp_path / name / "results.json", (i, i))
    assert start.newest_demo(tmp_path) == tmp_path / "new"
    with pytest.raises(tga_jax.UserError, match=r"--checkpoint: missing, and .* holds no finished demo"):
        start.newest_demo(tmp_path / "nowhere")


def test_texts_nearest_to_a_picture(tmp_path):
    class Clip:
        """Embeddings by hand."""

        def embed_texts(self, texts):
            assert texts == ["a", "b", "c"]
            return np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], np.float32)

        def embed_images(self, files):
            return np.array([[0.0, 1.0]], np.float32)

    search = page.nearest_texts(Clip(), ["a", "b", "", "a", "c"], count=2)
    assert search(tmp_path / "any.png") == [(1.0, "b"), (pytest.approx(0.8), "c")]
    with pytest.raises(tga_jax.UserError, match="--clip: no captions to search, expected --examples with some"):
        page.nearest_texts(Clip(), ["", ""])


class Visitor:
    """One person's browser, as far as Gradio's queue goes."""

    def __init__(self, url: str, session: str):
        self.url, self.session = f"{url}/gradio_api", session
        self.http = httpx.Client(timeout=120)
        config = self.http.get(f"{url}/config").json()
        asks = [d for d in config["dependencies"] if len(d["inputs"]) == 7 and len(d["outputs"]) == 7]
        self.function = asks[0]["id"]

    def ask(self, question: str) -> tuple[str, list[int]]:
        """The first checkpoint's answer about the first picture, and the places in the queue that were told."""
        asked = [None, question, "", "base", page.NOBODY, 0.0, 0]
        body = {"data": asked, "fn_index": self.function, "session_hash": self.session}
        joined = self.http.post(f"{self.url}/queue/join", json=body)
        joined.raise_for_status()
        places, answer = [], ""
        with self.http.stream("GET", f"{self.url}/queue/data", params={"session_hash": self.session}) as events:
            for line in events.iter_lines():
                if not line.startswith("data:"):
                    continue
                event = json.loads(line.removeprefix("data:"))
                if event["msg"] == "estimation":
                    places.append(event["rank"])
                if event["msg"] in ("process_generating", "process_completed"):
                    assert event["success"], event
                    changes = event["output"]["data"][0]
                    for _, path, value in changes if isinstance(changes, list) else []:
                        if path == [] and isinstance(value, str):
                            answer = value
                if event["msg"] == "process_completed":
                    return answer, places
        raise AssertionError("the stream ended early")


@pytest.mark.parametrize(("users", "seconds"), [(3, 0), pytest.param(20, 60, marks=pytest.mark.slow)])
def test_many_at_once_get_the_answers_of_one(url, site, users, seconds):
    """For so many seconds, at least one question each: no error, and memory does not grow."""
    questions = [f"w{5 + i} w6" for i in range(users)]
    alone = {question: Visitor(url, f"alone{i}").ask(question)[0] for i, question in enumerate(questions)}
    assert all("<dd>" in answer for answer in alone.values())

    def memory() -> int:
        """Bytes in use, without what glibc keeps for each thread of what was freed."""
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    def visit(i: int, seconds: float) -> tuple[int, list[int]]:
        visitor, asked, places, until = Visitor(url, f"user{i}"), 0, [], time.monotonic() + seconds
        with contextlib.closing(visitor.http):
            while not asked or time.monotonic() < until:
                answer, told = visitor.ask(questions[i])
                assert answer == alone[questions[i]]
                asked, places = asked + 1, places + told
        return asked, places

    with concurrent.futures.ThreadPoolExecutor(users) as pool:
        visits = list(pool.map(visit, range(users), [0] * users))
        before = memory()
        if seconds:
            visits = list(pool.map(visit, range(users), [seconds] * users))
    if seconds:
        assert max(place for _, places in visits for place in places) >= users // 2
        grown = memory() - before
        assert grown < 100e6
        print(f"{sum(asked for asked, _ in visits)} questions, {grown / 1e6:.0f} MB more")


def test_tokens_of_a_refusal_follow_the_checkpoint(site):
    seat = site.seats["base"]
    assert set(seat.refusal_ids) == {30, 7}
    with jax.default_matmul_precision("highest"):
        assert seat.refusal_ids is seat.refusal_ids  # found once
