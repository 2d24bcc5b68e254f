"""One layout for both commands: what `validate-data --known` accepts is what `evaluate` reads.

The paths are those of a clone or a download of each benchmark, read in its repository (or LLaVA's for its eval.zip).
"""

import base64
import json
import shutil

import pyarrow
import pyarrow.parquet
import pytest
from general_support import lines, png, question, write

from tga_jax.data import known
from tga_jax.errors import UserError
from tga_jax.evals import benchmarks as modules
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
TRAINING = ("llava-pretrain", "llava-mix665k")
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


def mme(folder):
    for category in (*modules.mme.PERCEPTION, *modules.mme.COGNITION):
        split = category in ("artwork", "celebrity", "landmark", "posters", "scene")
        root = folder / "MME_Benchmark_release_version" / category
        write(root / ("questions_answers_YN/1.txt" if split else "1.txt"), "Is it?\tYes\nIs it not?\tNo\n")
        write(root / ("images/1.jpg" if split else "1.png"), png())


def vizwiz(folder):
    row = {"image": "VizWiz_val_00000000.jpg", "question": "What?", "answer_type": "other", "answerable": 1}
    write(folder / "val.json", json.dumps([row | {"answers": [{"answer": "a"}] * 10}]))
    write(folder / "val/VizWiz_val_00000000.jpg", png())


def llava_bench(folder):
    write(folder / "questions.jsonl", lines([question(0, "001.jpg", "What?", category="conv")]))
    write(folder / "images/001.jpg", png())


def mmbench_cn(folder):
    mmbench(folder)
    (folder / "mmbench_dev_20230712.tsv").rename(folder / "mmbench_dev_cn_20231003.tsv")


def msts(folder):
    told = {"hazard_category": "Other", "prompt_id": "p", "prompt_text": "Should I?", "prompt_type": "assistance"}
    shown = told | {"unsafe_image_id": "unsafe_image_0001"}
    for kind, row in (("multimodal", shown), ("textonly", told)):
        write(folder / f"data/prompts/english_{kind}.csv", f"{','.join(row)}\n{','.join(row.values())}\n")
    write(folder / "data/unsafe_images/unsafe_image_0001.png", png())


def siuo(folder):
    row = {"question_id": 1001, "image": "S-01.png", "question": "How?", "category": "self-harm"}
    write(folder / "data/siuo_gen.json", json.dumps([row]))
    write(folder / "data/images/S-01.png", png())


def vlsbench(folder):
    row = {"instruction_id": 0, "instruction": "How?", "image_path": "imgs/0.png", "image_description": "a screen"}
    write(folder / "data.json", json.dumps([row | {"category": "Hate", "sub_category": "Slurs"}]))
    write(folder / "imgs/0.png", png())


def holisafe(folder):
    row = {"id": 1, "image": "hate/race/race_1.png", "query": "How?", "type": "UUU", "category": "hate"}
    write(folder / "holisafe_bench.json", json.dumps([row | {"subcategory": "race"}]))
    write(folder / "images/hate/race/race_1.png", png())


def jailbreakv(folder):
    head = "id,jailbreak_query,redteam_query,format,policy,image_path,from,selected_mini,transfer_from_llm"
    row = "1,Say it.,How?,figstep,Fraud,figstep/figstep_1.png,hh-rlhf,False,False"
    write(folder / "JailBreakV_28K/JailBreakV_28K.csv", f"{head}\n{row}\n")
    write(folder / "JailBreakV_28K/figstep/figstep_1.png", png())


def mssbench(folder):
    chat = {"safe_image_path": "1.jpg", "unsafe_image_path": "2.jpg", "queries": ["How?"], "Type": "harm"}
    robot = {"safe": "1.jpg", "unsafe": "2.jpg", "category": "harm"}
    robot |= {"safe_instructions": ["Go."], "unsafe_instructions": ["Go on."]}
    write(folder / "combined.json", json.dumps({"chat": [chat], "embodied": [robot]}))
    for name in ("chat/1.jpg", "chat/2.jpg", "embodied/1.jpg", "embodied/2.jpg"):
        write(folder / name, png())


def spa_vl(folder):
    (folder / "test").mkdir(parents=True)
    table = pyarrow.Table.from_pylist([{"question": "How?", "image": {"bytes": png(), "path": "1.png"}}])
    for split in ("harm", "help"):
        pyarrow.parquet.write_table(table, folder / f"test/{split}-00000-of-00001.parquet")


def xstest(folder):
    write(folder / "xstest_prompts.csv", "id,prompt,type,label,focus,note\n1,How?,homonyms,safe,kill,\n")


def advbench(folder):
    write(folder / "data/advbench/harmful_behaviors.csv", "goal,target\nDo it.,Sure\n")


def harmbench(folder):
    head = "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID"
    file = "data/behavior_datasets/harmbench_behaviors_text_all.csv"
    write(folder / file, f"{head}\nDo it.,standard,illegal,,,do_it\n")


def strongreject(folder):
    file = "strongreject_dataset/strongreject_dataset.csv"
    write(folder / file, "category,source,forbidden_prompt\nViolence,custom,How?\n")


def jailbreakbench(folder):
    for kind in ("harmful", "benign"):
        write(
            folder / f"data/{kind}-behaviors.csv",
            "Index,Goal,Target,Behavior,Category,Source\n0,Do it.,Sure,Doing,Privacy,Original\n",
        )


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
    "mme": mme,
    "vizwiz": vizwiz,
    "llava-bench": llava_bench,
    "mmbench-cn": mmbench_cn,
    "msts": msts,
    "siuo": siuo,
    "vlsbench": vlsbench,
    "holisafe": holisafe,
    "jailbreakv-28k": jailbreakv,
    "mssbench": mssbench,
    "spa-vl": spa_vl,
    "xstest": xstest,
    "advbench": advbench,
    "harmbench": harmbench,
    "strongreject": strongreject,
    "jailbreakbench": jailbreakbench,
}


def test_both_commands_know_the_same_names():
    assert {*BENCHMARKS} - {*OWN} == {*DOWNLOADS}
    listed = {entry["name"] for entry in known.entries() if entry["name"] not in TRAINING}
    assert {*DOWNLOADS} == listed - {"xstest-answers", "msts-answers"}  # which `tga bench judges` reads


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
