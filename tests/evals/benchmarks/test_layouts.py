"""One layout for both commands: what `validate-data --known` accepts is what `evaluate` reads.

The paths are those of a clone or a download of each benchmark, read in its repository (or LLaVA's for its eval.zip).
"""

import base64
import json
import shutil

import pytest
from general_support import lines, png, question, write

from tga_jax.data import known
from tga_jax.errors import UserError
from tga_jax.evals.benchmarks import BENCHMARKS

HOD_CLASSES = ("alcohol", "blood", "cigarette", "gun", "insulting_gesture", "knife")
SCENARIOS = [
    "01-Illegal_Activitiy",
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
]
OWN = ("scenes", "text-prompts")  # files of the user's own, without a download


def hod(folder):
    rows = [f"{c.replace('_', ' ')},{case},img_hod_000001.jpg" for c in HOD_CLASSES for case in ("Normal", "Hard")]
    write(folder / "dataset/class/HOD.csv", "\n".join(["Class Type,Case Type,Image Name", *rows]))
    for name in HOD_CLASSES:
        write(folder / f"dataset/class/{name}/normal_cases/img_hod_000001.jpg", png())
        write(folder / f"dataset/class/{name}/hard_cases/img_hod_000001.jpg", png())


def mm_safetybench(folder):
    row = dict.fromkeys(("Question", "Rephrased Question", "Rephrased Question(SD)"), "How?")
    for scenario in SCENARIOS:
        write(folder / f"data/processed_questions/{scenario}.json", json.dumps({"0": row}))
        for kind in ("SD", "SD_TYPO", "TYPO"):
            write(folder / f"data/imgs/{scenario}/{kind}/0.jpg", png())


def figstep(folder):
    head = "dataset,category_id,task_id,category_name,question,instruction"
    write(folder / "data/question/safebench.csv", f"{head}\nForbidQI,1,1,Illegal Activity,How?,Steps to.\n")
    write(folder / "data/images/SafeBench/query_ForbidQI_1_1_6.png", png())


def vlguard(folder):
    row = {"id": "a", "image": "bad_ads/1.png", "safe": False, "harmful_category": "privacy"}
    write(folder / "test.json", json.dumps([{**row, "instr-resp": [{"instruction": "Who?", "response": "No."}]}]))
    write(folder / "test/bad_ads/1.png", png())


def mossbench(folder):
    row = {"image": "images/1.png", "question": "What?", "metadata": {"over": "type 1"}, "description": "a toy"}
    write(folder / "data/images_information/information.json", json.dumps({"1": row}))
    write(folder / "data/images/1.png", png())


def pope(folder):
    for number, category in enumerate(("random", "popular", "adversarial")):
        row = question(1, "COCO_val2014_000000310196.jpg", "Is there a car in the image?", label="no")
        write(folder / f"coco/coco_pope_{category}.json", lines([row]))
        asked = row | {"question_id": number, "category": category}
        with (folder / "llava_pope_test.jsonl").open("a") as file:
            file.write(lines([asked]))
    write(folder / "val2014/COCO_val2014_000000310196.jpg", png())


def scienceqa(folder):
    turns = [{"from": "human", "value": "<image>\nWhich?\nA. x\nB. y"}, {"from": "gpt", "value": "A"}]
    write(folder / "llava_test_CQM-A.json", json.dumps([{"id": "5", "image": "5/image.png", "conversations": turns}]))
    write(folder / "pid_splits.json", json.dumps({"test": ["5"]}))
    problem = {"choices": ["x", "y"], "answer": 0, "subject": "natural science"}
    write(folder / "problems.json", json.dumps({"5": problem}))
    write(folder / "images/test/5/image.png", png())


def vqav2(folder):
    write(folder / "llava_vqav2_mscoco_test-dev2015.jsonl", lines([question(1, "COCO_test2015_1.jpg", "What?")]))
    write(folder / "test2015/COCO_test2015_1.jpg", png())


def gqa(folder):
    write(folder / "llava_gqa_testdev_balanced.jsonl", lines([question("201307251", "n161313.jpg", "What?")]))
    write(folder / "data/images/n161313.jpg", png())


def textvqa(folder):
    write(folder / "llava_textvqa_val_v051_ocr.jsonl", lines([question("003a", "003a.jpg", "What brand?")]))
    row = {"image_id": "003a", "question": "what brand?", "question_id": 34602, "answers": ["cup"] * 10}
    write(folder / "TextVQA_0.5.1_val.json", json.dumps({"data": [row]}))
    write(folder / "train_images/003a.jpg", png())


def mmbench(folder):
    cells = ["1", "Q", "x", "y", "", "", base64.b64encode(png()).decode()]
    write(
        folder / "mmbench_dev_20230712.tsv",
        "\t".join(["index", "question", *"ABCD", "image"]) + "\n" + "\t".join(cells),
    )


def seed_bench(folder):
    row = {"question_id": "101669", "question_type_id": 1, "data_type": "image", "data_id": "1_2", "answer": "A"}
    row |= {"question": "What?"} | {f"choice_{letter}": letter for letter in "abcd"}
    write(folder / "SEED-Bench.json", json.dumps({"questions": [row], "question_type": {"Scene Understanding": 1}}))
    write(folder / "SEED-Bench-image/1_2", png())


def mm_vet(folder):
    write(folder / "llava-mm-vet.jsonl", lines([question(0, "v1_0.png", "What is x in the equation?")]))
    write(folder / "images/v1_0.png", png())


DOWNLOADS = {
    "hod": hod,
    "mm-safetybench": mm_safetybench,
    "figstep": figstep,
    "vlguard": vlguard,
    "mossbench": mossbench,
    "pope": pope,
    "scienceqa": scienceqa,
    "vqav2": vqav2,
    "gqa": gqa,
    "textvqa": textvqa,
    "mmbench": mmbench,
    "seed-bench": seed_bench,
    "mm-vet": mm_vet,
}


def test_both_commands_know_the_same_names():
    assert {*BENCHMARKS} - {*OWN} == {*DOWNLOADS}
    listed = {entry["name"] for entry in known.entries() if not entry["name"].startswith("llava-")}
    assert {*DOWNLOADS} == listed - {"xstest", "msts"}  # labels for judges, which `tga bench judges` reads


@pytest.mark.parametrize("name", DOWNLOADS)
def test_a_download_is_complete_for_one_if_it_is_for_the_other(name, tmp_path):
    DOWNLOADS[name](tmp_path / "whole")
    assert known.missing(name, tmp_path / "whole") == []
    assert list(BENCHMARKS[name].samples(tmp_path / "whole"))
    [layout] = [entry["layout"] for entry in known.entries() if entry["name"] == name]
    for number, item in enumerate(layout):
        part = shutil.copytree(tmp_path / "whole", tmp_path / str(number))
        for pattern in [item] if isinstance(item, str) else item:
            for file in [*part.glob(pattern)]:
                shutil.rmtree(file) if file.is_dir() else file.unlink()
        assert len(known.missing(name, part)) == 1
        with pytest.raises(UserError, match=str(part)):
            list(BENCHMARKS[name].samples(part))
