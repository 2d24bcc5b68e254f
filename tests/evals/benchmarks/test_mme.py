"""MME against files of its form."""

import pytest
from general_support import error, load, png, write

from tga_jax.evals.benchmarks import mme

SPLIT = ("artwork", "celebrity", "landmark", "posters", "scene")  # whose files lie in two folders
ASK = "Please answer yes or no."


def put_mme(folder, root="MME_Benchmark_release_version"):
    for category in (*mme.PERCEPTION, *mme.COGNITION):
        texts, pictures = ("questions_answers_YN", "images") if category in SPLIT else (".", ".")
        for number, suffix in ((1, "jpg"), (2, "png")):
            lines = f"Is it {category} {number}? {ASK}\tYes\nIs it a cat?  {ASK}\tNo\n\n"
            write(folder / root / category / texts / f"000{number}.txt", lines)
            write(folder / root / category / pictures / f"000{number}.{suffix}", png("red" if number == 1 else "blue"))


@pytest.fixture
def folder(tmp_path):
    put_mme(tmp_path)
    return tmp_path


def test_mme_samples(folder):
    samples = load(mme, folder)
    assert len(samples) == 14 * 2 * 2
    assert [s.id for s in samples[:5]] == [
        "existence/0001/0", "existence/0001/1", "existence/0002/0", "existence/0002/1", "count/0001/0",
    ]  # fmt: skip
    third = samples[2]
    assert third.question == f"<image>\nIs it existence 2? {ASK}"
    assert (third.groups, third.harmful) == ({"category": "existence"}, None)
    assert third.target == {
        "category": "existence",
        "picture": "0002.png",
        "question": f"Is it existence 2? {ASK}",
        "label": "yes",
    }
    assert third.images[0]().getpixel((0, 0)) == (0, 0, 255)
    artwork = next(s for s in samples if s.id == "artwork/0002/1")
    assert artwork.question == f"<image>\nIs it a cat?  {ASK}"
    assert artwork.target["label"] == "no"
    assert artwork.images[0]().getpixel((0, 0)) == (0, 0, 255)


def test_newer_downloads_are_a_folder_deeper(folder, tmp_path_factory):
    deeper = tmp_path_factory.mktemp("deeper")
    put_mme(deeper, "MME_Benchmark_release_version/MME_Benchmark")
    assert [(s.id, s.question, s.target) for s in load(mme, deeper)] == [
        (s.id, s.question, s.target) for s in load(mme, folder)
    ]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("Yes", "yes"), ("no.", "no"), (" YES, it is", "yes"), ("No, yes", "no"), ("Nope", "no"), ("Not yes", "no"),
        ("I think yes", None), ("", None), ("y", None), ("ayes", "yes"), ("Another", "no"),
    ],
)  # fmt: skip
def test_readers_of_answers(folder, answer, said):
    yes, no = load(mme, folder)[:2]
    for sample, label in ((yes, "yes"), (no, "no")):
        expected = {"accuracy": float(said == label), "unparsed": float(said is None)}
        assert mme.BENCHMARK.score(sample, answer) == expected


def reference(answered):
    """Score of a category: lmms-eval's aggregation, from (picture, right) pairs; of 100 each."""
    pictures: dict = {}
    for picture, right in answered:
        pictures.setdefault(picture, []).append(float(right))
    return sum(sum(r) / 2 * 100 + (sum(r) == 2) * 100 for r in pictures.values()) / len(pictures)


def test_scores_add_accuracy_and_accuracy_plus(folder):
    samples = load(mme, folder)
    pairs = [(s.target, "Yes" if n % 7 else "No") for n, s in enumerate(samples)]
    found = mme.BENCHMARK.summarize(pairs)
    by_category: dict = {}
    for target, answer in pairs:
        own = by_category.setdefault(target["category"], [])
        own.append((target["picture"], answer.lower() == target["label"]))
    for category, answered in by_category.items():
        assert 100 * found[category] == pytest.approx(reference(answered))
    assert len({round(found[c], 3) for c in by_category}) > 1
    assert found["perception"] == pytest.approx(sum(found[c] for c in mme.PERCEPTION))
    assert found["cognition"] == pytest.approx(sum(found[c] for c in mme.COGNITION))
    right = mme.BENCHMARK.summarize([(s.target, s.target["label"]) for s in samples])
    assert (right["perception"], right["cognition"], right["OCR"]) == (20, 8, 2)


def test_scores_that_a_limit_left_short_are_absent(folder):
    samples = load(mme, folder)
    pairs = [(s.target, "yes") for s in samples if s.id != "OCR/0001/1"]
    found = mme.BENCHMARK.summarize(pairs)
    assert not {"OCR", "perception"} & found.keys()
    assert {"cognition", "count"} <= found.keys()
    pairs = [(s.target, "yes") for s in samples if s.target["category"] != "code_reasoning"]
    assert "cognition" not in mme.BENCHMARK.summarize(pairs)


def test_results_for_mmes_own_script(folder, tmp_path):
    samples = [s for s in load(mme, folder) if s.target["category"] in ("OCR", "scene")]
    answers = ["Yes", "no\tand\nmore"] * 4
    mme.BENCHMARK.export(list(zip(samples, answers, strict=True)), tmp_path / "out", folder)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["OCR.txt", "scene.txt"]
    assert (tmp_path / "out/OCR.txt").read_text().splitlines() == [
        f"0001.jpg\tIs it OCR 1? {ASK}\tYes\tYes",
        f"0001.jpg\tIs it a cat? {ASK}\tNo\tno and more",
        f"0002.png\tIs it OCR 2? {ASK}\tYes\tYes",
        f"0002.png\tIs it a cat? {ASK}\tNo\tno and more",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Is it? yes\nIs it?\tNo\n", "count/0001.txt: line 1: 'Is it? yes', expected a question, a tab, and Yes or No"),
        ("Is it?\tYes\nIs it?\tMaybe\n", "count/0001.txt: line 2: 'Is it?"),
        ("\tYes\nIs it?\tNo\n", "count/0001.txt: line 1: '\\tYes', expected a question, a tab"),
        ("Is it?\tYes\n", "count/0001.txt: 1 questions, expected two"),
        (
            "Is <image>?\tYes\nIs it?\tNo\n",
            "count/0001.txt: line 1: 'Is <image>?' as `question`, expected text without",
        ),
        (b"\xff\xfe", "count/0001.txt: cannot be read ('utf-8' codec"),
    ],
)
def test_bad_files(folder, content, message):
    write(folder / "MME_Benchmark_release_version/count/0001.txt", content)
    error(mme, folder, message)


def test_what_is_missing_is_named(folder):
    root = folder / "MME_Benchmark_release_version"
    (root / "scene/images/0002.png").unlink()
    error(mme, folder, "scene/images/0002.jpg or .png: no such picture")
    for path in (root / "count").iterdir():
        path.unlink()
    error(mme, folder, "MME_Benchmark_release_version/count: no .txt, expected MME's questions of count")
