"""`tga retrieve` from end to end: R by its definition, bad input by name, stopped and gone on with, looked up."""

import json
import re
from pathlib import Path

import hub_support
import numpy as np
import pytest
from PIL import Image

import tga_jax
from tga_jax import cli
from tga_jax.inference import model
from tga_jax.retrieval import attach, embedder
from tga_jax.retrieval.captions import plain

PICTURES = 9
MORE = ["w50 w51", "W5, w7!"]


@pytest.fixture(scope="module", name="clip")
def fixture_clip(tmp_path_factory):
    return save(hub_support.model("clip"), tmp_path_factory.mktemp("hub") / "clip")


def save(made: object, folder: Path) -> Path:
    """With a tokenizer that ends a text as CLIP's does, with the largest id."""
    hub_support.save(made, folder)
    hub_support.with_end(hub_support.tokenizer(), "w66", 66).save_pretrained(folder)
    return folder


def sample(name: str, image: object, caption: str, **fields: object) -> dict[str, object]:
    several = len(image) if isinstance(image, list) else bool(image)
    turns = [("human", "<image>" * several + "What?"), ("gpt", "It is."), ("human", "And?"), ("gpt", "No.")]
    said = [{"from": who, "value": text} for who, text in turns]
    return {"image_caption": caption, "id": name, "image": image, "conversations": said, **fields}


@pytest.fixture(name="data")
def fixture_data(tmp_path, monkeypatch):
    """The folder with samples.jsonl and pictures/, where the commands run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(embedder, "_PICTURE_PART", 4)
    monkeypatch.setattr(embedder, "_TEXT_PART", 4)
    monkeypatch.setattr(attach, "_BATCH", 5)
    rng = np.random.default_rng(3)
    (tmp_path / "pictures").mkdir()
    for i in range(PICTURES):
        picture = Image.fromarray(rng.integers(0, 256, (3, 2, 3), np.uint8)).resize((40, 30 + i))
        picture.save(tmp_path / "pictures" / f"{i}.png")
    rows = [sample(f"s{i}", f"{i}.png", f"w{3 + 2 * i} w{20 + i}", kept={"a": [1.5, None]}) for i in range(PICTURES)]
    rows[0]["image_caption"] = "w5 w7"  # MORE has it in other letters and with punctuation
    rows[1]["image"] = ["1.png", "2.png"]
    rows[1]["conversations"][0]["value"] = "<image><image>What?"
    rows[2]["retrieved_caption"] = "an older one"
    rows[4]["image"] = "3.png"
    rows.insert(3, {"id": "text", "conversations": rows[0]["conversations"][2:], "odd": "é\ud83d\ude00"})
    answer = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": " w30 w31\n"}]
    rows.append({"id": "caption data", "image": "8.png", "conversations": answer})
    write(tmp_path, rows)
    (tmp_path / "more.txt").write_text("\n".join([*MORE, "", MORE[0], ""]))
    return tmp_path


def write(folder: Path, rows: list[dict[str, object]]) -> None:
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(path: str | Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def retrieve(clip: Path, *more: str) -> int:
    flags = ["--data=samples.jsonl", "--images=pictures", f"--clip={clip}", "--to=out.jsonl", "--cache=cache"]
    return cli.run(["retrieve", *flags, "--corpus=more.txt", *more])


def caption_of(row: dict[str, object]) -> str:
    return (row.get("image_caption") or row["conversations"][-1]["value"]).strip()


def embedded(embed, asked: list[str]) -> dict[str, np.ndarray]:
    """Four at a time, as the command does here: one shape to compile."""
    filled = [*asked, *asked[:1] * (-len(asked) % 4)]
    rows = [row for i in range(0, len(filled), 4) for row in embed(filled[i : i + 4]).astype(np.float64)]
    return dict(zip(filled, rows, strict=True))


def expected(clip: Path, rows: list[dict[str, object]], near_duplicate: float) -> list[str | None]:
    """R of every row by its definition, in float64; None for rows without an image."""
    loaded = tga_jax.load(clip, "float32")
    shown = [f"pictures/{np.atleast_1d(row['image'])[0]}" if "image" in row else None for row in rows]
    texts = sorted({*(caption_of(row) for row in rows if "image" in row), *MORE})
    text = embedded(loaded.embed_texts, texts)
    picture = embedded(loaded.embed_images, sorted({name for name in shown if name}))
    found = []
    for row, name in zip(rows, shown, strict=True):
        if name is None:
            found.append(None)
            continue
        own = caption_of(row)
        may = [t for t in texts if plain(t) != plain(own) and text[t] @ text[own] <= near_duplicate]
        found.append(max(may, key=lambda t: text[t] @ picture[name]) if may else "")
    return found


def test_the_nearest_other_text_and_all_else_as_it_was(data, clip, capsys):
    rows = read("samples.jsonl")
    assert retrieve(clip, "--near-duplicate=1") == 0
    written = read("out.jsonl")
    found = [row.pop("retrieved_caption", None) for row in written]
    assert found == expected(clip, rows, 2)
    assert found[3] is None
    rows[2].pop("retrieved_caption")
    assert written == rows
    assert [list(row) for row in written] == [list(row) for row in rows]
    out = " ".join(capsys.readouterr().out.split())
    assert "12 texts for 10 samples with an image; search: faiss flat" in out
    assert out.endswith("out.jsonl: 0 of 10 samples with an image have no retrieved text")


def test_no_near_duplicate_of_the_own_caption(data, clip, capsys):
    rows = read("samples.jsonl")
    loaded = tga_jax.load(clip, "float32")
    texts = [caption_of(row) for row in rows if "image" in row] + MORE
    by_text = embedded(loaded.embed_texts, texts)
    between = np.sort([by_text[a] @ by_text[b] for i, a in enumerate(texts) for b in texts[:i]])
    free = [row for row in expected(clip, rows, 2) if row]
    highest = max(by_text[own] @ by_text[text] for own, text in zip(texts, free, strict=False))
    # Between two cosines, since they are rounded to half precision, and below that of a text which is now excluded.
    wide = np.flatnonzero((np.diff(between) > 1e-3) & (between[1:] <= highest))
    limit = float(between[wide[-1] : wide[-1] + 2].mean())
    assert retrieve(clip, f"--near-duplicate={limit}") == 0
    found = [row.get("retrieved_caption") for row in read("out.jsonl")]
    assert found == expected(clip, rows, limit)
    assert [text for text in found if text] != free
    lowest = float(between[0]) - 0.01
    assert lowest > 0
    assert retrieve(clip, f"--near-duplicate={lowest}", "--to=none.jsonl") == 0
    assert {row.get("retrieved_caption") for row in read("none.jsonl")} == {"", None}
    assert capsys.readouterr().out.endswith("none.jsonl: 10 of 10 samples with an image have no retrieved text\n")


def test_a_stopped_command_goes_on_where_it_was(data, clip, monkeypatch):
    assert retrieve(clip) == 0
    whole = Path("out.jsonl").read_bytes()
    made, asked = [], []
    real, nearest = model.Model.embed_images, attach.CaptionIndex.nearest

    def stop(self, pictures):
        made.append(len(pictures))
        if len(made) == 2:
            raise KeyboardInterrupt
        return real(self, pictures)

    def stop_again(self, queries, *rest):
        asked.append(len(queries))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return nearest(self, queries, *rest)

    monkeypatch.setattr(model.Model, "embed_images", stop)
    monkeypatch.setattr(attach.CaptionIndex, "nearest", stop_again)
    other = ("--cache=other", "--to=other.jsonl")
    assert retrieve(clip, *other) == 130
    monkeypatch.setattr(model.Model, "embed_texts", lambda *_: pytest.fail("texts were embedded already"))
    assert retrieve(clip, *other) == 130
    assert not Path("other.jsonl").exists()
    assert retrieve(clip, *other) == 0
    assert made == [4, 4, 4]  # of eight pictures: the first four were kept
    assert asked == [4, 5, 5, 1]  # of eleven samples, the fourth without a picture: the first five were kept
    assert Path("other.jsonl").read_bytes() == whole
    assert sorted(p.name.split("-")[0] for p in Path("other").rglob("*.*") if p.is_file()) == [
        *["about.json"] * 2, *["rows.npy"] * 2, "texts.json",
    ]  # fmt: skip


def test_other_weights_and_other_computation_are_another_embedder(data, clip, tmp_path_factory):
    other = save(hub_support.model("clip", seed=6), tmp_path_factory.mktemp("hub") / "other")
    marks = {
        embedder.fingerprint(tga_jax.load(*a)) for a in ((clip, "float32"), (other, "float32"), (clip, "bfloat16"))
    }
    assert len(marks) == 3
    assert embedder.fingerprint(tga_jax.load(clip, "float32")) in marks


# --- bad input --------------------------------------------------------------------------------------------------------


def changed(change) -> None:
    rows = read("samples.jsonl")
    change(rows)
    write(Path(), rows)


BAD = {
    "missing picture": (
        lambda: Path("pictures/6.png").unlink(),
        "samples.jsonl: line 8: sample 's6': pictures: has no file '6.png'",
    ),
    "corrupt picture": (
        lambda: Path("pictures/6.png").write_bytes(b"not a picture"),
        "samples.jsonl: line 8: sample 's6': 6.png: cannot be read as an image (in no known format)",
    ),
    "outside": (
        lambda: changed(lambda rows: rows[2].update(image="../x.png")),
        "samples.jsonl: line 3: sample 's2': pictures: '../x.png' is no name inside it, expected one such as "
        "folder/picture.jpg",
    ),
    "no caption": (
        lambda: changed(lambda rows: rows[2].pop("image_caption")),
        "samples.jsonl: line 3: sample 's2' has no `image_caption` and 2 answers, expected a caption, or a single "
        "answer that is one",
    ),
    "a wrong type": (
        lambda: changed(lambda rows: rows[2].update(image_caption=["a"])),
        "samples.jsonl: line 3: sample 's2' has a list as `image_caption`, expected a string",
    ),
    "text alone": (
        lambda: write(Path(), [read("samples.jsonl")[3]]),
        "samples.jsonl: no sample with an image, expected some to retrieve a text for",
    ),
    "no corpus": (
        lambda: Path("more.txt").unlink(),
        "more.txt: cannot be read (No such file or directory), expected one text a line",
    ),
    "an empty corpus": (lambda: Path("more.txt").write_text(" \n\n"), "more.txt: empty, expected one text a line"),
    "a corpus in Latin-1": (
        lambda: Path("more.txt").write_bytes(b"one\ntwo\ncaf\xe9\n"),
        "more.txt: line 3: not UTF-8 (byte 11 of the file)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named_and_nothing_is_written(data, clip, capsys, name):
    spoil, said = BAD[name]
    spoil()
    assert retrieve(clip) == 2
    assert capsys.readouterr().err == f"tga retrieve: {said}\n"
    assert {p.name for p in Path().iterdir()} <= {"cache", "more.txt", "pictures", "samples.jsonl"}


def test_what_was_embedded_before_a_corrupt_picture_is_kept(data, clip, monkeypatch):
    good = Path("pictures/6.png").read_bytes()
    Path("pictures/6.png").write_bytes(b"not a picture")
    assert retrieve(clip) == 2
    Path("pictures/6.png").write_bytes(good)
    made = []
    real = model.Model.embed_images
    monkeypatch.setattr(model.Model, "embed_images", lambda self, x: made.append(len(x)) or real(self, x))
    assert retrieve(clip) == 0
    assert made == [4]


def test_a_file_that_is_there_is_left_alone(data, clip, capsys):
    Path("out.jsonl").write_text("older\n")
    assert retrieve(clip) == 2
    assert capsys.readouterr().err == "tga retrieve: out.jsonl: is there already, expected a new file\n"
    assert Path("out.jsonl").read_text() == "older\n"
    assert not Path("cache").exists()


def test_one_text_alone(data, clip, capsys):
    write(Path(), [read("samples.jsonl")[0]])
    flags = ["--data=samples.jsonl", "--images=pictures", f"--clip={clip}", "--to=out.jsonl"]
    assert cli.run(["retrieve", *flags]) == 2
    said = "samples.jsonl: one caption and no other text, expected at least two; --corpus adds some"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "--data: missing, expected --data and --clip and --to"),
        (["--data=a", "--images=b", "--to=c"], "--clip: missing"),
        (["--query=w3"], "--clip: missing, expected --clip"),
        (["--method=fast"], "--method=fast: value should be one of <auto|exact|flat|ivf>"),
        (["--query=w3", "--clip=nowhere", "--neighbours=0"], "--neighbours: 0, expected at least 1"),
        (["--query=w3", "--clip=nowhere"], "nowhere/config.json: no such file"),
        (["--data=a", "--images=b", "--clip=c", "--to=d.json"], "d.json: expected a name in .jsonl"),
        (["--data=a.jsonl", "--images=b", "--clip=c", "--to=d.jsonl"], "b: cannot be read (No such file or directory)"),
        (
            ["--data=a", "--images=b", "--clip=c", "--to=d.jsonl", "--near-duplicate=1.5"],
            "--near-duplicate: 1.5, expected a cosine above 0 and up to 1",
        ),
    ],
)
def test_bad_flags(capsys, flags, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text("{}\n")
    assert cli.run(["retrieve", *flags]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_checkpoint_with_one_tower(data, tmp_path, capsys):
    folder = hub_support.save(hub_support.model("llava"), tmp_path / "llava")
    assert retrieve(folder) == 2
    assert "embedding needs both towers, expected a CLIP checkpoint" in capsys.readouterr().err


# --- looking up -------------------------------------------------------------------------------------------------------


def test_neighbours_of_a_text_and_of_a_picture(data, clip, capsys):
    assert retrieve(clip) == 0
    capsys.readouterr()
    loaded = tga_jax.load(clip, "float32")
    texts = json.loads(next(Path("cache").glob("texts-*/texts.json")).read_text())
    rows = np.stack(list(embedded(loaded.embed_texts, texts).values()))
    for asked, embed in (("w50 w51", loaded.embed_texts), ("pictures/1.png", loaded.embed_images)):
        flags = [f"--query={asked}", f"--clip={clip}", "--neighbours=3"]
        assert cli.run(["retrieve", *flags, "--cache=cache"]) == 0
        lines = [line.split("  ", 1) for line in capsys.readouterr().out.splitlines()]
        scores = rows @ embed([asked])[0].astype(np.float64)
        near = np.argsort(-scores)[:3]
        assert [text for _, text in lines] == [texts[i] for i in near]
        np.testing.assert_allclose([float(score) for score, _ in lines], scores[near], atol=6e-4)


def test_a_cache_with_no_corpus_or_several(data, clip, capsys):
    query = ["retrieve", "--query=w3", f"--clip={clip}", "--cache=cache"]
    assert cli.run(query) == 2
    said = f"cache: no corpus embedded by {clip} in float32, expected the folder of one\n"
    assert capsys.readouterr().err == f"tga retrieve: {said}"
    assert retrieve(clip) == 0
    Path("more.txt").write_text("w44\n")
    assert retrieve(clip, "--to=more.jsonl") == 0
    capsys.readouterr()
    assert cli.run(query) == 2
    error = capsys.readouterr().err
    named = re.fullmatch(
        r"tga retrieve: cache: the corpora (texts-\w+), (texts-\w+) embedded by .*, expected the .*\n", error
    )
    assert named
    assert cli.run([*query[:-1], f"--cache=cache/{named[1]}"]) == 0
