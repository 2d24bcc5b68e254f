"""`tga analyze` from a checkpoint on disk to its page: what it records, how it continues, what it refuses."""

import html.parser
import json
import re
import shutil
from pathlib import Path

import checkpoint_support as support
import hub_support
import jax
import numpy as np
import pytest

import tga_jax
from tga_jax.errors import UserError


@pytest.fixture(scope="module", name="checkpoint")
def fixture_checkpoint(tmp_path_factory) -> Path:
    return support.save_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module", name="data")
def fixture_data(tmp_path_factory) -> Path:
    return support.write(tmp_path_factory.mktemp("data"), support.rows())


@pytest.fixture(scope="module", name="whole")
def fixture_whole(tmp_path_factory, checkpoint, data) -> Path:
    """The folder of a run that was never stopped."""
    target = tmp_path_factory.mktemp("whole") / "out"
    support.analyze(checkpoint, data, target)
    return target


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_every_sample_is_run_as_picture_and_as_text(whole):
    found = support.lines(whole)
    assert [line["id"] for line in found] == [f"s{i}" for i in range(11)]
    both, told, shown = {"image", "text"}, {"text"}, {"image"}
    assert [set(line["runs"]) for line in found] == [both, both, told, both, shown, *[both] * 3, told, both, both]
    assert [line["group"] for line in found][5:8] == ["benign", "unlabelled", "benign"]
    for line in found:
        assert ("cosine" in line) == ("ablation" in line) == (set(line["runs"]) == both)
        assert ("image_top" in line) == ("image" in line["runs"])


def test_the_lens_and_the_tokens_are_those_of_the_model_itself(whole, checkpoint, data):
    """Each prompt alone, through `Model.forward`, and its states through norm and head by hand."""
    model = tga_jax.load(checkpoint, "float32")
    llm, ids = model.params["llm"], [20, 30, 31, 40, 41]
    for i in (0, 3, 8):
        row, line = support.rows()[i], support.lines(whole)[i]
        question = row["conversations"][0]["value"]
        prompts = {"text": question.replace("<image>", row.get("image_caption", ""))}
        if "image" in row:
            prompts["image"] = question
        for kind, text in prompts.items():
            pictures = [data / row["image"]] if kind == "image" else []
            batch = model.processor.batch([f"<s> w5 {text} w6"], [pictures])
            tokens = np.where(batch.image_mask, hub_support.IMAGE_ID, batch.tokens)
            pixels = None
            if pictures:
                pixels = (batch.images[0] / 255.0 - tga_pixels("MEAN")) / tga_pixels("STD")
                pixels = pixels.transpose(0, 3, 1, 2)
            states = np.asarray(model.forward(tokens, None, pixels).hidden_states)[:, 0]
            normed = states / np.sqrt((states**2).mean(-1, keepdims=True) + 3e-3) * llm["final_norm"]["scale"]
            logits = np.asarray(normed @ llm["lm_head"]["kernel"])
            probs = np.asarray(jax.nn.softmax(logits[:, -1]))
            run = line["runs"][kind]
            np.testing.assert_allclose(run["probability"], probs[:, ids].sum(-1), atol=2e-5)
            assert run["top"] == probs.argmax(-1).tolist()
            assert run["top_tokens"] == model.processor.tokenizer.convert_ids_to_tokens(run["top"])
            assert run["refused"] == (run["top"][-1] in ids)
            if kind == "image":
                assert line["image_top"] == logits[:, batch.image_mask[0]].argmax(-1).tolist()
                assert line["ablation"]["probability"]["none"] == pytest.approx(run["probability"][-1], abs=2e-5)


def tga_pixels(name: str) -> np.ndarray:
    from tga_jax.models import clip

    return np.array(getattr(clip.VisionConfig, f"pixel_{name.lower()}"), np.float32)


def test_means_counts_and_tokens(whole):
    lines, found = support.lines(whole), json.loads((whole / "analysis.json").read_text())
    assert [(t["id"], t["position"]) for t in found["refusal_tokens"]] == [(i, 0) for i in (20, 30, 31, 40, 41)]
    assert list(found["groups"]) == ["benign", "harmful", "unlabelled"]
    assert [(g["samples"], g["without_caption"]) for g in found["groups"].values()] == [(5, 0), (5, 1), (1, 0)]
    for name, group in found["groups"].items():
        own = [line for line in lines if line["group"] == name]
        for kind, summed in group["runs"].items():
            runs = [line["runs"][kind] for line in own if kind in line["runs"]]
            assert summed["n"] == summed["probability"]["n"] == len(runs)
            mean = np.mean([run["probability"] for run in runs], axis=0)
            np.testing.assert_allclose(summed["probability"]["mean"], mean, rtol=1e-5)
            assert summed["refused"]["value"] == np.mean([run["refused"] for run in runs])
            for end in ("start", "end"):
                layers = [run[end] for run in runs if run[end] is not None]
                assert summed["no_activation"] == len(runs) - len(layers)
                assert summed[end]["median"] == (int(np.median(layers)) if layers else None)
        cosines = [line["cosine"] for line in own if "cosine" in line]
        assert group["cosine"]["n"] == group["pairs"]["n"] == len(cosines)
        for raw in (group["cosine"]["mean"], group["pairs"]["raw"]["matched"]):
            np.testing.assert_allclose(raw, np.mean(cosines, axis=0), rtol=1e-4, atol=1e-6)
        refused = [line["ablation"]["refused"] for line in own if "ablation" in line]
        windows = np.mean([parts["windows"] for parts in refused], axis=0)
        np.testing.assert_allclose(group["ablation"]["refused"]["windows"]["mean"], windows, rtol=1e-5)
        assert len(windows) == 2
    assert found["centred_over"] == 8


@pytest.mark.parametrize("keep", [0, 5, 6, 11])
def test_a_stopped_run_goes_on_to_the_same_files(whole, checkpoint, data, tmp_path, keep):
    """Killed after so many lines, in the middle of the next, with a state more than lines."""
    target = tmp_path / "out"
    target.mkdir()
    shutil.copy(whole / "config.json", target)
    lines = (whole / "samples.jsonl").read_bytes().splitlines(keepends=True)
    half = lines[keep][:40] if keep < len(lines) else b""
    (target / "samples.jsonl").write_bytes(b"".join(lines[:keep]) + half)
    paired = sum(b'"cosine"' in line for line in lines[: keep + 1])
    (target / "pooled_states.f32").write_bytes((whole / "pooled_states.f32").read_bytes()[: paired * 2 * 4 * 24 * 4])
    support.analyze(checkpoint, data, target)
    assert files(target) == files(whole)


def test_one_at_a_time_gives_the_same(whole, checkpoint, data, tmp_path):
    support.analyze(checkpoint, data, tmp_path / "out", batch=1)
    assert_close(support.lines(tmp_path / "out"), support.lines(whole))
    found, expected = (json.loads((folder / "analysis.json").read_text()) for folder in (tmp_path / "out", whole))
    assert_close(found["groups"], expected["groups"])


def assert_close(found, expected):
    assert type(found) is type(expected)
    if isinstance(found, dict):
        assert found.keys() == expected.keys()
        for key in found:
            assert_close(found[key], expected[key])
    elif isinstance(found, list):
        assert len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            assert_close(*pair)
    else:
        assert found == (pytest.approx(expected, abs=1e-5) if isinstance(found, float) else expected)


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.links, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data


def test_the_page_is_whole_by_itself(whole):
    page = Page()
    text = (whole / "report.html").read_text()
    page.feed(text)
    assert {p.name for p in (whole / "plots").iterdir()} == {
        "refusal.png", "cosine.png", "attention.png", "image_tokens.png", "ablation.png"
    }  # fmt: skip
    assert page.tags.count("figcaption") == len(page.links) == 5
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert "script" not in page.tags
    assert not re.search(r"https?://|url\(|@import", text)
    assert "11 samples." in page.text
    assert "which enter no cosine and no patching: 1." in page.text
    assert "Over the first 8 samples" in page.text
    for token in ("w20", "w30", "w31", "w40", "w41"):
        assert token in page.text


def test_text_alone_of_a_language_model(tmp_path):
    checkpoint = support.with_template(hub_support.save(hub_support.model("mistral"), tmp_path / "llm"))
    data = support.write(tmp_path, [support.sample(i, image_caption="unread", harmful=True) for i in range(3)])
    found = support.analyze(checkpoint, data, tmp_path / "out", images=None, batch=2, window=0)
    group = found["groups"]["harmful"]
    assert group.keys() == {"samples", "without_caption", "runs"}
    assert (group["samples"], group["without_caption"], group["runs"]["text"]["n"]) == (3, 0, 3)
    assert {p.name for p in (tmp_path / "out/plots").iterdir()} == {"refusal.png"}
    (tmp_path / "rows.json").write_text(json.dumps([support.sample(0, image="0.png")]))
    with pytest.raises(UserError, match=r"item 1: sample 's0': has a picture, which this checkpoint cannot see"):
        support.analyze(checkpoint, data, tmp_path / "other")


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ({"image": "none.png"}, r"sample 's1': .*has no file 'none.png'"),
        ({"image": "0.png", "image_caption": "a <image>"}, r"sample 's1' has <image> in `image_caption`"),
        ({"conversations": []}, r"sample 's1' has no turn of 'human' in `conversations`"),
        ({"conversations": None}, r"sample 's1' has nothing as `conversations`, expected a list"),
        ({"harmful": "yes"}, r"sample 's1': has 'yes' as `harmful`, expected true or false"),
        ({"harmful": 1}, r"sample 's1': has 1 as `harmful`, expected true or false"),
        ({"image_caption": 3, "image": "0.png"}, r"sample 's1' has a number as `image_caption`"),
        (
            {"image": ["0.png", "0.png"], "conversations": [{"from": "human", "value": "<image> <image> w9"}]},
            r"sample 's1': has 2 pictures, expected one at most",
        ),
        (
            {"conversations": [{"from": "human", "value": "w9 " * 96}]},
            r"sample 's1': takes 99 tokens, expected at most 96",
        ),
    ],
)
def test_a_sample_that_cannot_be_looked_into_is_named(checkpoint, data, tmp_path, row, error):
    rows = [support.sample(0, image="0.png"), support.sample(1, **row)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    with pytest.raises(UserError, match=rf"rows.json: line 1, item 2: {error}") as caught:
        support.analyze(checkpoint, data, tmp_path / "out", data=tmp_path / "rows.json", batch=1, window=0)
    assert "\n" not in str(caught.value)
    assert len(support.lines(tmp_path / "out")) == 1  # what was done is kept


def test_other_settings_are_refused(whole, checkpoint, data):
    before = files(whole)
    with pytest.raises(UserError, match=r"holds another run: config.batch is 3 there and 4 now, config.window is 2 th"):
        support.analyze(checkpoint, data, whole, batch=4, window=1)
    assert files(whole) == before


def test_replaced_inputs_are_refused_and_moved_ones_are_not(whole, checkpoint, data, tmp_path):
    model, moved = (Path(shutil.copytree(x, tmp_path / name)) for x, name in ((checkpoint, "model"), (data, "data")))
    shutil.copytree(whole, tmp_path / "out")
    support.analyze(model, moved, tmp_path / "out")
    rows = moved / "rows.json"
    text = rows.read_text()
    for change, undo, said in (
        (lambda: rows.write_text(text.replace("w9", "w8")), lambda: rows.write_text(text), f"data, {rows}"),
        (
            lambda: shutil.copy(moved / "0.png", moved / "1.png"),
            lambda: shutil.copy(data / "1.png", moved / "1.png"),
            f"images, {moved}",
        ),
        (lambda: (model / "model.json").write_text("{}"), lambda: None, f"checkpoint, {model}"),
    ):
        change()
        with pytest.raises(UserError, match=f"out: {said}, is not what this run began with: .* choose another --to;"):
            support.analyze(model, moved, tmp_path / "out")
        undo()


def test_states_that_are_gone_are_named(whole, checkpoint, data, tmp_path):
    shutil.copytree(whole, tmp_path / "out")
    (tmp_path / "out/pooled_states.f32").unlink()
    with pytest.raises(UserError, match=r"pooled_states.f32: cut off, expected 6144 bytes; remove"):
        support.analyze(checkpoint, data, tmp_path / "out")


def test_what_cannot_be_analysed_is_named(checkpoint, data, tmp_path):
    clip = hub_support.save(hub_support.model("clip"), tmp_path / "clip")
    with pytest.raises(UserError, match=r"clip: expected a checkpoint with a language model"):
        support.analyze(clip, data, tmp_path / "out")
    with pytest.raises(UserError, match=r"--template: 'plain', expected one of vicuna_v1"):
        support.analyze(checkpoint, data, tmp_path / "out", template="plain")
    with pytest.raises(UserError, match=r"--window: 4, expected at most the checkpoint's 3 blocks"):
        support.analyze(checkpoint, data, tmp_path / "out", window=4)
    with pytest.raises(UserError, match=r"item 1: sample 's0': has a picture, expected --images"):
        support.analyze(checkpoint, data, tmp_path / "none", images=None)
    assert not (tmp_path / "out").exists()
