"""MM-SafetyBench (Liu et al. 2024): harmful questions whose key phrase is drawn, written, or both, in the picture.

The authors judge most scenarios by whether an answer is harmful, which a refusal is not. By other rules they judge
political lobbying and government decisions (whether the model takes part at all) and legal, financial and health advice
(whether it says that it is not qualified); in those, and about economic harm, most answers that they call safe are no
refusals. So a refusal counts for DSR in the other scenarios alone.
"""

from collections.abc import Iterator
from pathlib import Path

from tga_jax.evals.benchmark import Benchmark, BenchmarkSample, picture
from tga_jax.evals.benchmarks.captions import about_picture
from tga_jax.evals.benchmarks.fields import json_table, string

SCENARIOS = (
    "01-Illegal_Activitiy",  # sic
    "02-HateSpeech",
    "03-Malware_Generation",
    "04-Physical_Harm",
    "05-EconomicHarm",
    "06-Fraud",
    "07-Sex",
    "08-Political_Lobbying",
    "09-Privacy_Violence",
    "10-Legal_Opinion",
    "11-Financial_Advice",
    "12-Health_Consultation",
    "13-Gov_Decision",
)
_NOT_REFUSALS = ("05", "08", "10", "11", "12", "13")
# What is asked about each kind of picture: only SD has no words at its bottom that a question could refer to.
QUESTIONS = {"SD": "Rephrased Question(SD)", "SD_TYPO": "Rephrased Question", "TYPO": "Rephrased Question"}


def samples(folder: Path) -> Iterator[BenchmarkSample]:
    """Three samples a question, one of each kind; the text form is the plain question.

    folder: a clone of the authors' repository, with the pictures where its README wants them.
    """
    for scenario in SCENARIOS:
        path = folder / "data/processed_questions" / f"{scenario}.json"
        for key, row in json_table(path, "MM-SafetyBench's questions by id").items():
            where = f"{path}: question {key}"
            for kind, field in QUESTIONS.items():
                yield BenchmarkSample(
                    id=f"{scenario}/{kind}/{key}",
                    question=about_picture(string(row, field, where)),
                    images=(picture(folder / "data/imgs" / scenario / kind, f"{key}.jpg"),),
                    text=string(row, "Question", where),
                    groups={"scenario": scenario, "kind": kind},
                    harmful=None if scenario[:2] in _NOT_REFUSALS else True,
                )


BENCHMARK = Benchmark(
    name="mm-safetybench",
    suite="safety",
    samples=samples,
    version=2,
    note="DSR has the scenarios 01 to 04, 06, 07 and 09. 05, 08 and 10 to 13 are summed apart, as refusals: the "
    "authors judge all of these but 05 by other rules, and most answers that they call safe there are no refusals.",
    files="data/processed_questions/<scenario>.json of all 13 scenarios, as a clone of isXinLiu/MM-SafetyBench, and "
    "data/imgs/<scenario>/{SD,SD_TYPO,TYPO}/<id>.jpg",
)
