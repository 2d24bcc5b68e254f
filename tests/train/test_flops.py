"""The FLOP formulas, against what XLA counts in the real step, and against counts made by hand.

XLA's cost analysis counts the body of a loop once. So the step runs with one block in each tower, where that is right,
and blocks without a loop show that the formulas grow with their number.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest
from flax.traverse_util import flatten_dict
from jax.sharding import AbstractMesh

from tga_jax.data.batch import Batch
from tga_jax.guides import Released, Tiled
from tga_jax.models import attention, clip, layers, llama, llava, presets, sharding
from tga_jax.models.projectors import Linear, Mlp2xGelu, NormMlp2xGelu, Resampler
from tga_jax.train import flops, optim, step

# Of real widths: only shapes are needed.
MISTRAL = presets.get("tga-mistral-7b")


def one_block(model: llava.LlavaConfig, **changed) -> llava.LlavaConfig:
    """One block in the decoder and one of two in the tower, whose second a feature layer of -2 leaves out."""
    vision = dataclasses.replace(model.clip.vision, num_layers=2)
    llm = dataclasses.replace(model.llm, num_layers=1, dtype="float32")
    return dataclasses.replace(model, clip=clip.ClipConfig(vision, None, None), llm=llm, **changed)


def remat(model: llava.LlavaConfig, policy: str) -> llava.LlavaConfig:
    return dataclasses.replace(model, llm=dataclasses.replace(model.llm, remat=policy))


TRAINS = {  # what trains -> which paths
    "projector": ((r"projector/.*", 1.0), (r".*", 0.0)),
    "both": ((r"clip/.*", 0.0), (r".*", 1.0)),
    "lora": ((r".*_lora/.*", 1.0), (r".*", 0.0)),
    "projector and lora": ((r".*_lora/.*|projector/.*", 1.0), (r".*", 0.0)),
}
PARTS = {name: frozenset({"projector", "llm"} if name == "both" else name.split(" and ")) for name in TRAINS}


def abstract_batch(b: int, t: int, c: int, m: int, size: int) -> Batch:
    def of(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype)

    flags = (of((b, t), bool) for _ in range(4))
    images = of((b, m, size, size, 3), jnp.uint8) if m else None
    return Batch(of((b, t), jnp.int32), *flags, of((b, c), jnp.int32), of((b, c), bool), images)


def lowered_step(model, loss, trains: str, b: int, t: int, c: int, m: int):
    """The whole train step, to be counted; of its optimizer XLA counts about 20 FLOPs a parameter."""
    adam = optim.OptimConfig(1e-3, TRAINS[trains])
    params = jax.eval_shape(lambda: llava.init(model, jax.random.key(0)))
    state = jax.eval_shape(lambda p: step.init_state(p, adam, 10), params)
    run = functools.partial(step.train_step, model, loss, adam, 10)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.jit(run).lower(state, abstract_batch(b, t, c, m, model.clip.vision.image_size), key)


@pytest.mark.parametrize(  # every policy with each of what trains, every shape with both
    ("trains", "policy", "b", "t", "c", "m", "caption"),
    [
        ("projector", "none", 8, 776, 128, 1, True),
        ("both", "names", 8, 776, 128, 1, True),
        ("projector", "full", 4, 1176, 256, 1, False),
        ("both", "none", 4, 1176, 256, 1, False),
        ("projector", "names", 2, 1280, 64, 2, True),
        ("both", "full", 2, 1280, 64, 2, True),
    ],
    ids=str,
)
def test_the_step_as_xla_counts_it(trains, policy, b, t, c, m, caption):
    guide = Released(layers=(0, 1)) if caption else None
    model = remat(one_block(MISTRAL), policy)
    found = lowered_step(model, step.LossConfig(guide=guide), trains, b, t, c, m).cost_analysis()["flops"]
    shape = flops.Step(b, t, c, m, caption_blocks=int(caption), trains=PARTS[trains])
    assert found == pytest.approx(flops.step(model, shape, causal=False).hardware, rel=0.004)


@pytest.mark.parametrize(
    ("trains", "policy", "targets"),
    [
        ("lora", "none", layers.LoraConfig.targets),
        ("projector and lora", "names", ("value", "up", "down")),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("lora", "full", layers.LoraConfig.targets),
                ("projector and lora", "none", ("query", "down")),
                ("projector and lora", "full", layers.LoraConfig.targets),
            )
        ),
    ],
)
def test_lora(trains, policy, targets):
    model = remat(one_block(MISTRAL), policy)
    model = dataclasses.replace(model, llm=dataclasses.replace(model.llm, lora=layers.LoraConfig(128, 256, targets)))
    found = lowered_step(model, step.LossConfig(guide=Released(layers=(1,))), trains, 8, 776, 128, 1)
    expected = flops.step(model, flops.Step(8, 776, 128, caption_blocks=1, trains=PARTS[trains]), causal=False)
    assert found.cost_analysis()["flops"] == pytest.approx(expected.hardware, rel=0.004)


@pytest.mark.parametrize("policy", [*(pytest.param(p, marks=pytest.mark.slow) for p in ("none", "names")), "full"])
def test_norms_behind_the_layers(policy):
    """As Gemma has them: their gradients need the last product of a block again."""
    own = {"norms": "sandwich", "zero_centered_norms": True, "attention_cap": 50.0, "activation": "gelu_pytorch_tanh"}
    model = remat(one_block(MISTRAL), policy)
    model = dataclasses.replace(
        model, llm=dataclasses.replace(model.llm, **own, scaled_embeddings=True, logit_cap=30.0)
    )
    found = lowered_step(model, step.LossConfig(), "both", 4, 776, 1, 1).cost_analysis()["flops"]
    expected = flops.step(model, flops.Step(4, 776, trains=PARTS["both"]), causal=False).hardware
    assert found == pytest.approx(expected, rel=0.006)


def test_scores_of_blocks_with_and_without_a_window():
    """Gemma 3's: of five blocks the third and no other sees everything."""
    config = dataclasses.replace(MISTRAL.llm, num_layers=5, sliding_window=4, window_pattern=(True, True, False))
    places = jnp.arange(13)[None]
    seen = [attention.causal_mask(places, places, places >= 0, w).sum() for w in (4, 4, None, 4, 4)]
    for count in (1, 3, 5):
        work = flops.decoder_blocks(config, 13, True, count)
        assert work.attention == 4 * sum(map(int, seen[:count])) * config.num_heads * config.head_dim
        assert work.weights == flops.decoder_blocks(config, 13, False, 1).weights * count


def test_features_made_beforehand_need_no_tower():
    shape = flops.Step(4, 704, trains=PARTS["projector"])
    given = flops.step(MISTRAL, dataclasses.replace(shape, tower=False))
    tower = flops.step(MISTRAL, shape)
    assert given.parts["vision"] == 0
    assert tower.model - given.model == pytest.approx(tower.parts["vision"])


@pytest.mark.parametrize(
    "changed",
    [
        {"projector": Linear()},
        {"projector": Resampler(queries=96, num_layers=2, num_heads=8, hidden=768)},
        {"projector": Mlp2xGelu(hidden=1536), "feature_select": "full", "feature_layer": 1},
        {"projector": NormMlp2xGelu(hidden=1536)},
    ],
    ids=["linear", "resampler", "full", "norm"],
)
def test_other_projectors(changed):
    """Beside a decoder so small that the projector counts."""
    llm = dataclasses.replace(presets.LLM["smollm2-135m"], vocab_size=2048)  # tied, 3 query heads a key head
    model = one_block(dataclasses.replace(MISTRAL, llm=llm, **changed))
    for trains in ("projector", "both"):
        found = lowered_step(model, step.LossConfig(), trains, 4, 704, 1, 1).cost_analysis()["flops"]
        expected = flops.step(model, flops.Step(4, 704, trains=PARTS[trains]), causal=False)
        assert found == pytest.approx(expected.hardware, rel=0.02)
        assert expected.parts["projector"] > 0.015 * expected.hardware


def test_words_that_the_guide_reads_and_blocks_left_out():
    """Without the language loss the blocks above the last guide layer, and the logits, are not computed."""
    guide = Tiled(vocab_weight=0.2)
    found = lowered_step(one_block(MISTRAL), step.LossConfig(lm=0.0, guide=guide), "projector", 4, 776, 64, 1)
    expected = flops.step(
        one_block(MISTRAL), flops.Step(4, 776, labels=0, blocks=0, guided_words=576, trains=PARTS["projector"])
    )
    assert found.cost_analysis()["flops"] == pytest.approx(expected.hardware, rel=0.01)


@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_flops_grow_with_the_blocks(blocks):
    """Separate blocks have no loop: XLA counts each. Forward, with the gradient of inputs, and of parameters too."""
    config = dataclasses.replace(presets.LLM["mistral-7b-v0.2"], num_layers=blocks, dtype="float32")
    decoder = llama.Decoder(config, separate=True)
    x, where, valid = (
        jax.ShapeDtypeStruct(s, d) for s, d in (((2, 640, 4096), "float32"), ((2, 640), "int32"), ((2, 640), "bool"))
    )
    params = jax.eval_shape(decoder.init, jax.random.key(0), x, where, valid)

    def total(params, x, where, valid):
        return jnp.sum(decoder.apply(params, x, where, valid).hidden)

    work = flops.decoder_blocks(config, 640, causal=False, count=blocks) * 2
    for function, expected in (
        (total, work.forward),
        (jax.grad(total, 1), work.forward + work.backward(parameters=False)),
        (jax.grad(total, (0, 1)), work.forward + work.backward()),
    ):
        found = jax.jit(function).lower(params, x, where, valid).cost_analysis()["flops"]
        assert found == pytest.approx(expected, rel=0.01)


@pytest.mark.slow
def test_the_compiled_program_is_the_lowered_one():
    """What XLA's optimisations leave has as many FLOPs: they neither merge the recomputed blocks nor drop products."""
    small = llama.LlamaConfig(448, 256, 1, 6, 2, 32, 640, 1e4, 1e-5, None, False, remat="full")
    vision = clip.VisionConfig(192, 2, 6, 768, image_size=56, patch_size=14)
    model = llava.LlavaConfig(clip.ClipConfig(vision, None, None), small, Mlp2xGelu(hidden=320))
    lowered = lowered_step(model, step.LossConfig(), "projector", 6, 160, 1, 1)
    expected = flops.step(model, flops.Step(6, 160, trains=PARTS["projector"]), causal=False).hardware
    assert lowered.compile().cost_analysis()["flops"] == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("window", [None, 1, 5, 12, 13, 40])
def test_scores_are_what_the_mask_lets_through(window):
    places = jnp.arange(13)[None]
    mask = attention.causal_mask(places, places, places >= 0, window)
    assert flops.scores(13, True, window) == int(mask.sum())
    assert flops.scores(13, False, window) == 169


@pytest.mark.parametrize(
    ("t", "c", "stage2", "recomputed", "stage1"), [(776, 128, 35.0, 43.1, 24.0), (1176, 256, 53.7, 66.1, 37.0)]
)
def test_figures_of_clip_l_and_mistral_7b(t, c, stage2, recomputed, stage1):
    """TFLOP a sample of the two stages, as they are quoted."""
    both = flops.step(remat(MISTRAL, "full"), flops.Step(1, t, c, caption_blocks=18))
    projector = flops.step(MISTRAL, flops.Step(1, t, c, caption_blocks=18, trains=PARTS["projector"]))
    assert both.model / 1e12 == pytest.approx(stage2, rel=0.002)
    assert both.hardware / 1e12 == pytest.approx(recomputed, rel=0.002)
    assert projector.model / 1e12 == pytest.approx(stage1, rel=0.002)


def divided(model: llava.LlavaConfig) -> int:
    """Numbers in the projector's arrays that the rules divide over fsdp."""
    params = jax.eval_shape(lambda: llava.init(model, jax.random.key(0), ("projector",)))
    places = flatten_dict(sharding.shardings(params, AbstractMesh((1, 8, 1), sharding.AXES)))
    return sum(x.size for path, x in flatten_dict(params).items() if "fsdp" in places[path].spec)


@pytest.mark.parametrize("queries", [10, 16])
def test_what_is_gathered_of_a_projector_is_what_is_divided(queries):
    shape = flops.Step(8, 776, 128, trains=PARTS["projector"])
    resampler = dataclasses.replace(
        MISTRAL, projector=Resampler(queries=queries, num_layers=3, num_heads=8, hidden=512)
    )
    found = flops.gathered(MISTRAL, shape, itemsize=1) - flops.gathered(resampler, shape, itemsize=1)
    assert found == pytest.approx(divided(MISTRAL) - divided(resampler), rel=1e-9)
    assert divided(resampler) > 0
