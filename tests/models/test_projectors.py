"""Each projector against NumPy in float64, one of a fork's own, and how configs and checkpoints name them."""

import dataclasses
import json
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tga_jax import config
from tga_jax.checkpoints import spec
from tga_jax.errors import UserError
from tga_jax.models import clip, llama, llava, sharding
from tga_jax.models.projectors import KINDS, Linear, Mlp2xGelu, NormMlp2xGelu, Products, Projector, Resampler
from tga_jax.train import flops

RESAMPLER = Resampler(queries=3, num_layers=2, num_heads=2, hidden=8)
TINY = llava.LlavaConfig(
    clip.ClipConfig(clip.VisionConfig(16, 2, 2, 24, image_size=28, patch_size=14), None, None),
    llama.LlamaConfig(29, 24, 2, 4, 2, 6, 32, 1e4, 1e-5, None, False),
)


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


def test_resampler_against_float64():
    """Attention and all else written out, with parameters far from their initial values."""
    rng = np.random.default_rng(3)
    features = rng.standard_normal((2, 1, 5, 16))
    module = RESAMPLER.module(24, "float32")
    shapes = jax.eval_shape(module.init, jax.random.key(0), features)["params"]
    params = jax.tree.map(lambda s: rng.standard_normal(s.shape), shapes)

    def dense(p, x):
        return x @ p["kernel"].reshape(x.shape[-1], -1) + p["bias"].reshape(-1)

    def norm(p, x):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * p["scale"] + p["bias"]

    def one(f):
        f, x = norm(params["feature_norm"], f), params["queries"]
        k, v = (dense(params[n], f).reshape(-1, 2, 4) for n in ("key", "value"))
        for i in range(2):
            q = dense(params[f"query_{i}"], norm(params[f"attention_norm_{i}"], x)).reshape(-1, 2, 4)
            heads = []
            for h in range(2):
                scores = np.exp(q[:, h] @ k[:, h].T / 2.0)
                heads.append(scores / scores.sum(-1, keepdims=True) @ v[:, h])
            read = params[f"read_{i}"]
            x = x + np.concatenate(heads, -1) @ read["kernel"].reshape(8, 8) + read["bias"]
            h = dense(params[f"up_{i}"], norm(params[f"mlp_norm_{i}"], x))
            x = x + dense(params[f"down_{i}"], 0.5 * h * (1 + np.vectorize(math.erf)(h / math.sqrt(2))))
        return dense(params["out"], norm(params["final_norm"], x))

    ours = module.apply({"params": jax.tree.map(jnp.float32, params)}, features.astype(np.float32))
    assert ours.shape == (2, 1, 3, 24)
    np.testing.assert_allclose(ours, [[one(f[0])] for f in features], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "made", [Linear(), Mlp2xGelu(), Mlp2xGelu(hidden=7), NormMlp2xGelu(), NormMlp2xGelu(hidden=7)], ids=str
)
def test_projector_against_float64(made):
    rng = np.random.default_rng(2)
    features = rng.standard_normal((2, 1, 4, 16)) * 6 + 2
    hidden = getattr(made, "hidden", None) or 24
    params, read = {}, features
    if made.kind == "norm_mlp2x_gelu":
        params["norm"] = {"scale": rng.standard_normal(16), "bias": rng.standard_normal(16)}
        read = (features - features.mean(-1, keepdims=True)) / np.sqrt(features.var(-1, keepdims=True) + 1e-5)
        read = read * params["norm"]["scale"] + params["norm"]["bias"]
    params |= {"linear_1": {"kernel": rng.standard_normal((16, hidden)), "bias": rng.standard_normal(hidden)}}
    expected = read @ params["linear_1"]["kernel"] + params["linear_1"]["bias"]
    if made.kind != "linear":
        params["linear_2"] = {"kernel": rng.standard_normal((hidden, 24)), "bias": rng.standard_normal(24)}
        expected = expected * 0.5 * (1 + np.vectorize(math.erf)(expected / math.sqrt(2)))
        expected = expected @ params["linear_2"]["kernel"] + params["linear_2"]["bias"]
    module = made.module(24, "float32")
    shapes = jax.eval_shape(module.init, jax.random.key(0), features)["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)
    assert made.last in shapes
    assert made.tokens(4) == 4
    ours = module.apply({"params": jax.tree.map(jnp.float32, params)}, features.astype(np.float32))
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=3e-5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairs(Projector):
    """Of a fork: two neighbouring features become one image token."""

    slope: float = 1.0
    last = "joined"

    def tokens(self, features):
        return features // 2

    def module(self, out, dtype):
        return _Pairs(self.slope, out)

    def products(self, features, width, out):
        return Products(first=features * width * out)


class _Pairs(nn.Module):
    slope: float
    out: int

    @nn.compact
    def __call__(self, x):
        x = x.reshape(*x.shape[:-2], x.shape[-2] // 2, -1)
        return self.slope * nn.Dense(self.out, name="joined")(x) + self.param("shift", nn.initializers.ones, ())


def model_json(folder, projector, **fields) -> None:
    described = dataclasses.asdict(spec.Spec(kind="llava", config=TINY))
    described["config"] |= {"projector": projector, **fields}
    (folder / spec.FILE).write_text(json.dumps(described))


def test_a_projector_of_ones_own(tmp_path):
    """Named in a config, built, counted, placed, and kept in a checkpoint's description."""
    kind = f"{__name__}:Pairs"
    made = dataclasses.replace(TINY, projector=config.build(Projector, {"kind": kind, "slope": 2}))
    assert made.projector == Pairs(slope=2.0) != Pairs()  # made in Python, it knows its name, too
    assert made.image_tokens == 2
    params = llava.init(made, jax.random.key(0), ("projector",))["projector"]
    features = np.random.default_rng(0).standard_normal((3, 4, 16)).astype(np.float32)
    found = llava.projector(made).apply({"params": params}, features)
    joined = features.reshape(3, 2, 32) @ np.asarray(params["joined"]["kernel"])
    np.testing.assert_allclose(found, 2 * joined + 1, rtol=1e-4, atol=1e-4)
    assert flops.projector(made)[0].forward == 2 * 2 * 32 * 24
    sharding.shardings({"projector": params}, sharding.make_mesh(devices=jax.devices()[:1]))
    spec.write(tmp_path, spec.Spec(kind="llava", config=made))
    assert spec.read(tmp_path).config == made


@pytest.mark.parametrize("made", [Linear(), Mlp2xGelu(), NormMlp2xGelu(hidden=7), RESAMPLER], ids=str)
def test_a_checkpoint_keeps_each_kind(tmp_path, made):
    assert made.kind in KINDS
    whole = spec.Spec(kind="llava", config=dataclasses.replace(TINY, projector=made))
    spec.write(tmp_path, whole)
    assert spec.read(tmp_path) == whole


@pytest.mark.parametrize(
    ("stored", "width", "expected"),
    [
        ("linear", 9, Linear()),  # which did not use it
        ("mlp2x_gelu", None, Mlp2xGelu()),
        ("norm_mlp2x_gelu", 7, NormMlp2xGelu(hidden=7)),
        ({"queries": 3, "num_layers": 2, "num_heads": 2}, 8, RESAMPLER),
        ({"queries": 3, "num_layers": 2, "num_heads": 2}, None, dataclasses.replace(RESAMPLER, hidden=None)),
    ],
)
def test_a_description_of_an_earlier_version_is_read(tmp_path, stored, width, expected):
    model_json(tmp_path, stored, projector_hidden=width)
    assert spec.read(tmp_path).config == dataclasses.replace(TINY, projector=expected)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kind": "linear", "hidden": 8}, "projector: unknown field hidden; Linear has kind"),
        ({"kind": "mlp2x_gelu", "queries": 8}, "projector: unknown field queries; Mlp2xGelu has kind, hidden"),
        ({"kind": "mlp2x_gelu", "hidden": 0}, "projector: hidden is 0, expected a whole number from 1 to 131072"),
        ({"kind": "resampler", "queries": 8, "num_layers": 1}, "num_heads"),
        ({"kind": "mlp3x"}, "kind: 'mlp3x', expected linear, mlp2x_gelu, norm_mlp2x_gelu, resampler or module:Class;"),
        (
            {"kind": "evil.py:Mine"},
            "kind: 'evil.py:Mine', expected linear, .* a checkpoint names no files",
        ),
        ({"kind": "numpy:ndarray"}, "kind: 'numpy:ndarray' is no Projector"),
        ({"kind": "antigravity:Fly"}, "projector is 'antigravity:Fly', which is not run; expected a class that is"),
        ({"kind": "nowhere.at:All"}, r"kind: 'nowhere.at:All' cannot be imported \(ModuleNotFound"),
        ("mlp3x", "kind: 'mlp3x', expected linear"),
        ({"kind": 3}, "kind: 3, expected linear"),
    ],
)
def test_what_a_kind_does_not_have_is_refused(tmp_path, fields, said):
    model_json(tmp_path, fields)
    with pytest.raises(UserError, match=said) as error:
        spec.read(tmp_path)
    assert str(tmp_path / spec.FILE) in str(error.value)


def test_a_kind_alone_is_no_projector():
    with pytest.raises(UserError, match=r"config.projector: 'linear', expected fields with a kind, such as \{'kind'"):
        config.build(llava.LlavaConfig, {**dataclasses.asdict(TINY), "projector": "linear"})


def test_heads_divide_the_width():
    with pytest.raises(ValueError, match=r"projector.hidden: 24, expected a multiple of num_heads, 5"):
        Resampler(queries=3, num_layers=2, num_heads=5).module(24, "float32")
