"""From nested values to dataclasses: every typo is named."""

import dataclasses

import pytest
from ml_collections import ConfigDict

from tga_jax.config import build
from tga_jax.errors import UserError
from tga_jax.guides import Guide, Paper
from tga_jax.models.layers import LoraConfig
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


@pytest.mark.parametrize(
    ("cls", "values", "named"),
    [
        (LossConfig, {"lm": float("nan")}, "config.lm: nan, expected a finite number"),
        (LossConfig, {"lm": -1.0}, "loss.lm: -1.0, expected at least 0"),
        (LossConfig, {"lm": True}, "config.lm: True, expected a number"),
        (LossConfig, {"lm": 10**400}, "config.lm: inf, expected a finite number"),
        (LossConfig, {"embedding_noise": float("inf")}, "config.embedding_noise: inf"),
        (LossConfig, {"lm": 0.0, "dpo": {"beta": float("nan")}}, "config.dpo.beta: nan"),
        (LossConfig, {"guide": {"kind": "paper", "layers": [True]}}, "config.guide.layers[0]: True, expected a number"),
        (LossConfig, {"guide": {"kind": "paper", "pair_weight": -1}}, "guide.pair_weight: -1.0"),
        (LossConfig, {"guide": {"kind": "tiled", "vocab_weight": float("inf")}}, "config.guide.vocab_weight: inf"),
        (LossConfig, {"guide": {"kind": "transport", "temperature": 0.0}}, "guide.temperature: 0.0, expected more"),
        (OptimConfig, {"learning_rate": 1e39}, "optim.learning_rate: 1e+39, expected a finite number, at least 0"),
        (OptimConfig, {"warmup": 1.5}, "optim.warmup: 1.5, expected at least 0, at most 1"),
        (OptimConfig, {"clip_norm": 0.0}, "optim.clip_norm: 0.0, expected more than 0"),
        (OptimConfig, {"weight_decay": -0.1}, "optim.weight_decay: -0.1"),
        (OptimConfig, {"accumulate": True}, "config.accumulate: True, expected a number"),
        (OptimConfig, {"schedule": ((".*", float("nan")),)}, "config.schedule[0][1]: nan, expected a finite number"),
        (OptimConfig, {"schedule": ((".*", -1),)}, "optim.schedule: -1.0 for '.*', expected at least 0"),
        (OptimConfig, {"schedule": (("(", 1),)}, "optim.schedule: '(' is no regular expression"),
        (OptimConfig, {"schedule": ((".*", 1, 2),)}, "config.schedule[0]: ('.*', 1, 2), expected 2 values"),
        (LoraConfig, {"rank": 4, "alpha": 0}, "lora.alpha: 0.0, expected more than 0"),
    ],
)  # fmt: skip
def test_a_number_that_none_can_be_is_named(cls, values, named):
    with pytest.raises(UserError) as error:
        build(cls, {"learning_rate": 1e-3, "schedule": ()} | values if cls is OptimConfig else values)
    assert named in str(error.value)


def test_ranges_hold_for_dataclasses_that_are_made_without_a_config():
    for made in (lambda: OptimConfig(float("nan"), ()), lambda: LoraConfig(4, float("inf"))):
        with pytest.raises(ValueError, match="expected a finite number"):
            made()
