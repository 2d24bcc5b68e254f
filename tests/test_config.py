"""From nested values to dataclasses: every typo is named."""

import dataclasses

import pytest
from ml_collections import ConfigDict

from tga_jax.config import build
from tga_jax.errors import UserError
from tga_jax.guides import Guide, Paper
from tga_jax.train.optim import OptimConfig
from tga_jax.train.step import LossConfig


def test_values_become_dataclasses():
    values = {"lm": 1, "guide": {"kind": "paper", "layers": [1, 2], "pair_weight": 1}}
    expected = LossConfig(lm=1.0, guide=Paper(layers=(1, 2), pair_weight=1.0))
    for made in (build(LossConfig, values), build(LossConfig, ConfigDict(values))):
        assert made == expected
        assert isinstance(made.lm, float)
        assert isinstance(made.guide.pair_weight, float)
        assert isinstance(made.guide.layers, tuple)
    assert build(LossConfig, {}) == LossConfig()


def test_nested_tuples_survive():
    schedule = ((".*", 1.0),)
    assert build(OptimConfig, {"learning_rate": 1e-3, "schedule": schedule}).schedule == schedule


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"lmm": 1.0}, r"run: unknown field lmm; LossConfig has lm, contrastive, patches, guide"),
        ({"guide": {"kind": "paper", "layer": (1,)}}, r"run.guide: unknown field layer; Paper has kind, layers"),
        # A field of another guide is refused.
        ({"guide": {"kind": "paper", "vocab_weight": 0.5}}, r"run.guide: unknown field vocab_weight; Paper has"),
        ({"guide": {"kind": "tiled", "hinge_weight": 0.7}}, r"run.guide: unknown field hinge_weight; Tiled has"),
        ({"guide": {"kind": "paper", "layers": 3}}, r"run.guide.layers: 3, expected a tuple"),
        ({"lm": "much"}, r"run: .*lm"),
        (
            {"guide": {"kind": "cube"}},
            r"run.guide: kind: 'cube', expected paper, released, tiled, transport, instruction, module:",
        ),
        ({"guide": {}}, r"run.guide: kind: None, expected paper"),
        (
            {"guide": {"kind": "nowhere.at:All"}},
            r"run.guide: kind: 'nowhere.at:All' cannot be imported \(ModuleNotFound",
        ),
        ({"guide": {"kind": "none.py:All"}}, r"run.guide: kind: 'none.py:All' cannot be imported \(FileNotFound"),
        ({"guide": {"kind": "pathlib:Path"}}, r"run.guide: kind: 'pathlib:Path' is no Guide"),
        ({"guide": {"kind": "paper", "layers": (-1,)}}, r"guide.layers"),
    ],
)
def test_a_bad_field_is_named(values, named):
    with pytest.raises(UserError, match=named):
        build(LossConfig, values, "run")


@dataclasses.dataclass(frozen=True)
class Named:
    losses: dict[str, LossConfig]


def test_fields_of_named_entries_are_prepared_and_named_too():
    assert build(Named, {"losses": {"a": {"lm": 2}}}) == Named({"a": LossConfig(lm=2.0)})
    with pytest.raises(UserError, match=r"config.losses.a: unknown field lmm; LossConfig has"):
        build(Named, {"losses": {"a": {"lmm": 2}}})


def test_a_missing_field_is_named():
    with pytest.raises(UserError, match="learning_rate"):
        build(OptimConfig, {"schedule": ()})


def test_a_class_that_lacks_a_method_and_one_of_another_kind_are_named(tmp_path):
    (tmp_path / "half.py").write_text(
        "import dataclasses\nfrom tga_jax.guides import Paper, Guide\n\n\n"
        "@dataclasses.dataclass(frozen=True, kw_only=True)\nclass Half(Guide):\n"
        "    def student(self, batch):\n        return None\n"
    )
    for kind, said in (
        (
            f"{tmp_path}/half.py:Half",
            "half.py:Half lacks the method cost, counts, loss, teacher, expected those of Guide",
        ),
        ("tga_jax.guides.pooled:Pooled", "lacks the method over_layers, terms"),
        ("tga_jax.data.sources:Source", "is no Guide, expected a class that inherits it"),
        (int, "is no Guide, expected a class that inherits it"),
    ):
        with pytest.raises(UserError) as error:
            build(Guide, {"kind": kind})
        assert said in str(error.value)
