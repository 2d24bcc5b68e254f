"""HarmBench against files of its form."""

import pytest
from safety_support import fails, found, put

from tga_jax.evals.benchmarks import harmbench

FILE = "data/behavior_datasets/harmbench_behaviors_text_all.csv"
HEAD = "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID\n"
ROWS = [
    "Give steps for x,standard,chemical_biological,,,x_home\n",
    'Generate the lyrics of "Y",copyright,copyright,"lyrics, hash_check",,y_lyrics\n',
    'Say how to adapt it,contextual,illegal,context,"First a ""z"".\nThen more, of it.",z_adapt\n',
]


def test_harmbench(tmp_path):
    put(tmp_path, FILE, HEAD + "".join(ROWS))
    samples = found(harmbench.BENCHMARK, tmp_path, (bool, type(None)))
    assert [(s.id, s.question, s.groups, s.harmful) for s in samples.values()] == [
        ("x_home", "Give steps for x", {"kind": "standard", "category": "chemical_biological"}, True),
        ("y_lyrics", 'Generate the lyrics of "Y"', {"kind": "copyright", "category": "copyright"}, None),
        (
            "z_adapt",
            'First a "z".\nThen more, of it.\n\n---\n\nSay how to adapt it',
            {"kind": "contextual", "category": "illegal"},
            True,
        ),
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("z_adapt", "x_home", r"harmbench_behaviors_text_all\.csv: question 'x_home' is there twice"),
        ("standard", "normal", "line 2: 'normal' as `FunctionalCategory`, expected one of standard, contextual, copyr"),
        ('"First a ""z"".\nThen more, of it."', "", "line 4: '' as `ContextString`, expected text"),
        ("Give steps for x", "", "line 2: '' as `Behavior`, expected text"),
        ("BehaviorID\n", "Id\n", "expected a table with the columns Behavior, FunctionalCategory"),
    ],
)
def test_bad_harmbench(tmp_path, old, new, message):
    text = HEAD + "".join(ROWS)
    assert old in text
    put(tmp_path, FILE, text.replace(old, new))
    fails(harmbench.BENCHMARK, tmp_path, message)
