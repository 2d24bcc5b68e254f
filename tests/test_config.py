"""From nested values to dataclasses: every typo is named."""

import dataclasses

import pytest
from ml_collections import ConfigDict

from tga_jax.config import build
from tga_jax.errors import UserError
from tga_jax.losses import GuideConfig
from tga_jax.optim import OptimConfig
from tga_jax.step import LossConfig


def test_values_become_dataclasses():
    values = {"lm": 1, "guide": {"form": "exp", "layers": [1, 2], "pair_weight": 1}}
    expected = LossConfig(lm=1.0, guide=GuideConfig("exp", (1, 2), 1.0))
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
        ({"lmm": 1.0}, r"run: unknown field lmm; LossConfig has lm, contrastive, guide"),
        ({"guide": {"layer": (1,)}}, r"run.guide: unknown field layer; GuideConfig has form, layers"),
        ({"guide": {"layers": 3}}, r"run.guide.layers: 3, expected a tuple"),
        ({"lm": "much"}, r"run: .*lm"),
        ({"guide": {"form": "cube"}}, r"guide.form: 'cube'"),
        ({"guide": {"layers": (-1,)}}, r"guide.layers"),
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
