"""Small valid files of benchmarks, for `fuzz_texts.py`."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq

from tga_jax.evals.benchmarks.mm_safetybench import QUESTIONS, SCENARIOS
from tga_jax.evals.benchmarks.mme import COGNITION, PERCEPTION

_DOT = b"no picture: none is opened"
_Q = {"question_id": 1, "image": "a.png", "text": "What?", "category": "random"}
_TSV = "index\tquestion\tA\tB\tC\tD\timage\tanswer\n"
_TEN = [{"answer": "cat"}] * 10
_MME = "Is it a cat? Please answer yes or no.\tYes\nIs it a dog? Please answer yes or no.\tNo\n"
_SAFETY = {"1": {"Question": "q", "Rephrased Question": "r", "Rephrased Question(SD)": "s", "Changed Question": "c"}}


def _parquet() -> bytes:
    written = io.BytesIO()
    rows = {"question": ["q"], "image": [{"bytes": _DOT, "path": "a.png"}], "class1": ["c"]}
    pq.write_table(pa.table(rows), written)
    return written.getvalue()


# Benchmark -> the file that is mutated, and what it may hold.
FILES = {
    "advbench": ["data/advbench/harmful_behaviors.csv", "goal,target\nDo it,Sure\n"],
    "harmbench": [
        "data/behavior_datasets/harmbench_behaviors_text_all.csv",
        "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID\nDo,contextual,a,,c,x\n",
    ],
    "strongreject": ["strongreject_dataset/strongreject_dataset.csv", "category,source,forbidden_prompt\na,b,c\n"],
    "xstest": ["xstest_prompts.csv", "id,prompt,type,label\n1,What?,a,safe\n"],
    "hod": ["dataset/class/HOD.csv", "Class Type,Case Type,Image Name\ngun,Normal,a.png\n"],
    "figstep": [
        "data/question/safebench.csv",
        "dataset,category_id,task_id,category_name,instruction\nsafebench,1,1,a,Do it\n",
    ],
    "jailbreakv-28k": [
        "JailBreakV_28K/JailBreakV_28K.csv",
        "id,jailbreak_query,redteam_query,format,policy,image_path\n1,q,r,f,p,a.png\n",
    ],
    "mmbench": [
        "mmbench_dev.tsv",
        _TSV + "1\tq\ta\tb\t\t\t" + "QUJD" * 30 + "\tA\n",
    ],
    "text-prompts": ["prompts.jsonl", {"id": "a", "text": "t", "harmful": True, "group": "g"}],
    "mmbench-cn": ["mmbench_dev_cn_1.tsv", _TSV + "1\tq\ta\tb\t\t\t" + "QUJD" * 30 + "\tA\n"],
    "mme": ["MME_Benchmark_release_version/existence/a.txt", _MME],
    "mm-safetybench": [f"data/processed_questions/{SCENARIOS[0]}.json", _SAFETY],
    "msts": [
        "data/prompts/english_multimodal.csv",
        "prompt_id,prompt_text,unsafe_image_id,hazard_category,prompt_type\n1,Should I?,a,c,t\n",
    ],
    "jailbreakbench": ["data/harmful-behaviors.csv", "Index,Goal,Category\n0,g,c\n"],
    "spa-vl": ["test/harm-0.parquet", _parquet()],
    "vlguard": [
        "test.json",
        [{"id": "a", "image": "a.png", "safe": False, "harmful_category": "c", "instr-resp": [{"instruction": "i"}]}],
    ],
    "vlsbench": [
        "data.json",
        [
            {"instruction_id": 1, "instruction": "i", "image_path": "a.png", "image_description": "d", "category": "c"}
            | {"sub_category": "s"}
        ],
    ],
    "siuo": ["data/siuo_gen.json", [{"question_id": 1, "question": "q", "image": "a.png", "category": "c"}]],
    "holisafe": [
        "holisafe_bench.json",
        [{"id": 1, "type": "SSS", "query": "q", "image": "a.png", "category": "c", "subcategory": "s"}],
    ],
    "mossbench": [
        "data/images_information/information.json",
        {"1": {"question": "q", "image": "a.png", "description": "d", "metadata": {"over": "o"}}},
    ],
    "mssbench": [
        "combined.json",
        {
            "chat": [{"safe_image_path": "a.png", "unsafe_image_path": "a.png", "queries": ["q"], "Type": "t"}],
            "embodied": [],
        },
    ],
    "pope": ["llava_pope_test.jsonl", _Q],
    "gqa": ["data/testdev_balanced_questions.json", {"1": {"answer": "cat"}}],
    "vqav2": ["v2_mscoco_val2014_annotations.json", {"annotations": [{"question_id": 1, "answers": _TEN}]}],
    "textvqa": [
        "TextVQA_0.5.1_val.json",
        {"data": [{"image_id": "a", "question": "What?", "question_id": 7, "answers": ["x"] * 10}]},
    ],
    "vizwiz": [
        "val.json",
        [{"image": "a.png", "question": "q", "answer_type": "other", "answerable": 1, "answers": _TEN}],
    ],
    "scienceqa": ["problems.json", {"1": {"choices": ["a", "b"], "answer": 1, "subject": "s"}}],
    "seed-bench": [
        "SEED-Bench.json",
        {
            "questions": [
                {"question_id": 1, "question_type_id": 1, "data_id": "a.png", "data_type": "image", "question": "q"}
                | {"answer": "A", "choice_a": "a", "choice_b": "b", "choice_c": 3, "choice_d": "d"}
            ],
            "question_type": {"Scene": 1},
        },
    ],
    "mm-vet": ["llava-mm-vet.jsonl", _Q],
    "llava-bench": ["questions.jsonl", _Q | {"category": "conv"}],
    "scenes": ["captions.jsonl", {"image": "gun/a.png", "image_caption": "a gun"}],
}
# Benchmark -> what lies beside it.
_PICTURES = {
    "hod": "dataset/class/gun/normal_cases/a.png",
    "figstep": "data/images/SafeBench/query_safebench_1_1_6.png",
    "jailbreakv-28k": "JailBreakV_28K/a.png",
    "vlguard": "test/a.png",
    "vlsbench": "a.png",
    "siuo": "data/images/a.png",
    "holisafe": "images/a.png",
    "mossbench": "data/a.png",
    "mssbench": "chat/a.png",
    "pope": "val2014/a.png",
    "gqa": "data/images/a.png",
    "vqav2": "val2014/a.png",
    "textvqa": "train_images/a.png",
    "vizwiz": "val/a.png",
    "seed-bench": "SEED-Bench-image/a.png",
    "mm-vet": "images/a.png",
    "llava-bench": "images/a.png",
    "scenes": "gun/a.png",
    "msts": "data/unsafe_images/a.jpg",
}
FOLDERS: dict[str, dict[str, bytes | str]] = {name: {place: _DOT} for name, place in _PICTURES.items()}
FOLDERS["pope"] |= {
    "coco/coco_pope_random.json": json.dumps({"image": "a.png", "text": "What?", "label": "yes"}),
    "coco/coco_pope_popular.json": "",
    "coco/coco_pope_adversarial.json": "",
}
FOLDERS["mme"] = {
    f"MME_Benchmark_release_version/{name}/a.{kind}": _MME if kind == "txt" else _DOT
    for name in (*PERCEPTION, *COGNITION)
    for kind in ("txt", "jpg")
}
FOLDERS["mm-safetybench"] = {f"data/processed_questions/{name}.json": json.dumps(_SAFETY) for name in SCENARIOS} | {
    f"data/imgs/{name}/{kind}/1.jpg": _DOT for name in SCENARIOS for kind in QUESTIONS
}
FOLDERS["msts"]["data/prompts/english_textonly.csv"] = "prompt_id,prompt_text\n1,Should I?\n"
FOLDERS["jailbreakbench"] = {"data/benign-behaviors.csv": "Index,Goal,Category\n0,g,c\n"}
FOLDERS["spa-vl"] = {"test/help-0.parquet": _parquet()}
FOLDERS["gqa"]["llava_gqa_testdev_balanced.jsonl"] = json.dumps(_Q)
FOLDERS["vqav2"]["llava_vqav2_mscoco_val2014.jsonl"] = json.dumps(_Q)
FOLDERS["textvqa"]["llava_textvqa_val_v051_ocr.jsonl"] = json.dumps(_Q | {"question_id": "a"})
FOLDERS["scienceqa"] = {
    "pid_splits.json": '{"test": ["1"]}',
    "llava_test_CQM-A.json": json.dumps(
        [{"id": "1", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}]
    ),
}
