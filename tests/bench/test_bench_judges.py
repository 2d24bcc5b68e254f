"""`tga bench judges` on made-up files in the shapes of XSTest, MSTS and VLGuard."""

import csv
import json

import pytest

from tga_jax import cli
from tga_jax.bench import judges
from tga_jax.errors import UserError
from tga_jax.evals.judges.published import GCG, VLGUARD

REFUSED, TOLD = "I'm sorry, but I can't help with that.", "Take a pan."


def write(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    return path


def xstest(path, *rows):
    names = {"a": "1_full_compliance", "r": "2_full_refusal", "p": "3_partial_refusal"}
    return write(path, [{"prompt": "How?", "completion": c, "final_label": names[kind]} for kind, c in rows])


def test_xstest(tmp_path):
    rows = [("r", REFUSED), ("r", REFUSED), ("r", "No."), ("a", TOLD), ("a", "As an aside: " + TOLD), ("p", REFUSED)]
    name, answers = judges.read(xstest(tmp_path / "m.csv", *rows))
    assert (name, len(answers)) == ("xstest", 6)
    found = judges.measure(answers, GCG)  # finds two of three, and takes "As an" for a refusal
    assert found == {
        "answers": 5,
        "refusals": 3,
        "precision": 2 / 3,
        "recall": 2 / 3,
        "f1": 2 / 3,
        "partial": {"refusal": 1},
        "sources": {"m": {"people": 3 / 5, "judge": 3 / 5}},
    }


def test_msts(tmp_path):
    kinds = {
        "1.2 - refusal only": [REFUSED, TOLD, "FinishReason.SAFETY", "API RetryError occurred."],  # no model's words
        "1.1 - rejection or rebuttal": [REFUSED, "No, you should not."],
        "2.2 - advice": [TOLD],
    }
    rows = [
        {"prompt_text": "Should I?", "response": text, "final_taxonomy": kind, "model": "m"}
        for kind, texts in kinds.items()
        for text in texts
    ]
    name, answers = judges.read(write(tmp_path / "m.csv", rows))
    assert (name, [a.label for a in answers]) == ("msts", ["refusal", "refusal", "answer"])
    found = judges.measure(answers, VLGUARD)
    assert (found["precision"], found["recall"], found["f1"]) == (1, 1 / 2, 2 / 3)


def test_vlguard(tmp_path):
    rows = [
        {"instr-resp": [{"safe_instruction": "a", "response": TOLD}, {"unsafe_instruction": "b", "response": REFUSED}]},
        {"instr-resp": [{"instruction": "c", "response": REFUSED}]},
    ]
    path = tmp_path / "test.json"
    path.write_text(json.dumps(rows))
    name, answers = judges.read(path)
    assert (name, [a.label for a in answers]) == ("vlguard", ["answer", "refusal", "refusal"])
    assert judges.measure(answers[:1], GCG)["precision"] is None


def test_the_command(tmp_path, capsys):
    files = [str(xstest(tmp_path / f"{n}.csv", ("r", REFUSED), ("a", TOLD))) for n in "ab"]
    assert cli.run(["bench", "judges", *files, f"--json={tmp_path / 'figures.json'}"]) == 0
    assert "| xstest | phrases-2 | 4 | 2 | 1.000 | 1.000 | 1.000 |" in capsys.readouterr().out
    found = json.loads((tmp_path / "figures.json").read_text())
    assert found["sets"]["xstest"]["gcg-1"]["sources"].keys() == {"a", "b"}
    assert cli.run(["bench", "judges"]) == 2
    assert "expected files of labelled answers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "prompt,answer\na,b\n", "a.csv: has neither XSTest's column completion nor MSTS's final_taxonomy"),
        ("a.csv", "completion,prompt\na,b\n", "expected a table with the columns prompt, completion, final_label"),
        ("a.csv", "prompt,completion,final_label\na,b,4\n", "a.csv: line 2: final_label '4', expected one of"),
        ("a.csv", "prompt,completion,final_label\na,b\n", "a.csv: line 2: `final_label` is null, expected a string"),
        ("a.csv", "\udcff", "a.csv: cannot be read"),
        ("a.json", "{}", "a.json: is an object, expected VLGuard's list of samples"),
        ("a.json", "[3]", "a.json: sample 0: 3, expected an object"),
        ("a.json", '[{"instr-resp": [{"response": "a"}]}]', "sample 0: instr-resp: no instruction, expected safe_"),
        ("b.csv/a.csv", None, "cannot be read"),
    ],
)
def test_other_files_are_refused(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=message):
        judges.read(tmp_path / name)
