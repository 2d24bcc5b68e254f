"""MME (Fu et al., 2023): two questions about each picture, one to be answered with yes and one with no.

    MME_Benchmark_release_version/<category>/                            <picture>.txt beside <picture>.jpg or .png
    MME_Benchmark_release_version/<category>/questions_answers_YN/       or there, and the pictures in images/

A line of such a file is a question, which ends in "Please answer yes or no.", a tab, and Yes or No. Newer downloads
have the categories one folder deeper, in MME_Benchmark/.

Answers are read as MME's calculation.py does: by "yes", or else "no", among the first four characters. "accuracy" is
over the questions. MME's own scores add, for each category, accuracy and accuracy+ (both questions of a picture right),
each of 100: at most 2,000 for "perception", 800 for "cognition" and 200 for a category. They are absent where a limit
left out a question that they need. `<category>.txt` are the results that calculation.py reads.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tga_jax.errors import UserError
from tga_jax.evals.benchmark import Benchmark, BenchmarkSample, picture
from tga_jax.evals.benchmarks.captions import about_picture
from tga_jax.evals.benchmarks.fields import string
from tga_jax.workdir import write_text

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
_SUFFIXES = (".jpg", ".png")


def _pair(path: Path) -> list[tuple[str, str]]:
    """(question, "yes" or "no") of a file's two lines. Raises UserError naming the line that is none."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}), expected two questions") from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        question, tab, answer = line.strip().partition("\t")
        if not tab or answer.strip().lower() not in ("yes", "no"):
            raise UserError(f"{where}: {line!r:.60}, expected a question, a tab, and Yes or No")
        found.append((string({"question": question}, "question", where), answer.strip().lower()))
    if len(found) != 2:
        raise UserError(f"{path}: {len(found)} questions, expected two")
    return found


def samples(folder: Path) -> Iterator[BenchmarkSample]:
    root = folder / "MME_Benchmark_release_version"
    root = root / "MME_Benchmark" if (root / "MME_Benchmark").is_dir() else root
    for category in (*PERCEPTION, *COGNITION):
        texts = root / category / "questions_answers_YN"
        pictures = root / category / "images"
        if not texts.is_dir():
            texts = pictures = root / category
        files = sorted(texts.glob("*.txt"))
        if not files:
            raise UserError(f"{texts}: no .txt, expected MME's questions of {category}")
        for file in files:
            shown = [path for suffix in _SUFFIXES if (path := pictures / f"{file.stem}{suffix}").is_file()]
            if not shown:
                raise UserError(f"{pictures / file.stem}{' or '.join(_SUFFIXES)}: no such picture")
            for number, (question, label) in enumerate(_pair(file)):
                yield BenchmarkSample(
                    id=f"{category}/{file.stem}/{number}",
                    question=about_picture(question),
                    images=(picture(pictures, shown[0].name),),
                    groups={"category": category},
                    target={"category": category, "picture": shown[0].name, "question": question, "label": label},
                )


def said(answer: str) -> str | None:
    first = answer.strip().lower()[:4]
    return "yes" if "yes" in first else "no" if "no" in first else None


def _score(sample: BenchmarkSample, answer: str) -> dict[str, float]:
    return {"accuracy": float(said(answer) == sample.target["label"]), "unparsed": float(said(answer) is None)}


def _summarize(pairs: Sequence[tuple[Any, str]]) -> dict[str, float]:
    right: dict[str, dict[str, list[bool]]] = {}
    for target, answer in pairs:
        own = right.setdefault(target["category"], {}).setdefault(target["picture"], [])
        own.append(said(answer) == target["label"])
    scores: dict[str, float] = {}
    for category, own in right.items():
        if all(len(both) == 2 for both in own.values()):
            accuracy = sum(map(sum, own.values())) / (2 * len(own))
            scores[category] = accuracy + sum(map(all, own.values())) / len(own)
    sums = {
        name: sum(scores[category] for category in part)
        for name, part in (("perception", PERCEPTION), ("cognition", COGNITION))
        if all(category in scores for category in part)
    }
    return sums | scores


def _export(pairs: Sequence[tuple[BenchmarkSample, str]], folder: Path, _: Path) -> None:
    lines: dict[str, list[str]] = {}
    for sample, answer in pairs:
        cells = (sample.target["picture"], sample.target["question"], sample.target["label"].capitalize(), answer)
        lines.setdefault(sample.target["category"], []).append("\t".join(" ".join(cell.split()) for cell in cells))
    for category, own in lines.items():
        write_text(folder / f"{category}.txt", "\n".join(own) + "\n")


BENCHMARK = Benchmark(
    name="mme",
    suite="general",
    samples=samples,
    score=_score,
    summarize=_summarize,
    export=_export,
    new_tokens=16,
    note="perception, cognition and the categories are MME's scores, accuracy plus accuracy+: at most 2,000, 800 and "
    "200. Asked in MME's own words; LLaVA puts its instruction for short answers in the place of their last sentence.",
    files="MME_Benchmark_release_version/<category>/ of all 14 categories, with their .txt and pictures",
)
