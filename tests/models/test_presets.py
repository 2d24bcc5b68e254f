"""Every preset's parameters and forward pass at its real size, by shapes alone."""

import math

import jax
import jax.numpy as jnp
import pytest

from tga_jax.errors import UserError
from tga_jax.models import clip, llama, llava, presets

KEY = jax.eval_shape(lambda: jax.random.key(0))


def ints(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def flags(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.bool_)


def parameters(tree) -> int:
    return sum(math.prod(p.shape) for p in jax.tree.leaves(tree))


def clip_params(config, images):
    return jax.eval_shape(clip.Clip(config).init, KEY, images, ints(2, config.text.context_length))["params"]


def llm_params(config):
    def init(key, tokens, valid):
        return llama.Decoder(config).init(key, tokens, valid, method="from_tokens")

    return jax.eval_shape(init, KEY, ints(2, 8), flags(2, 8))["params"]


@pytest.mark.parametrize("name", presets.CLIP)
def test_clip(name):
    config = presets.CLIP[name]
    v, size = config.vision, config.vision.image_size
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    params = clip_params(config, images)
    forward = jax.eval_shape(
        lambda p, *a: clip.Clip(config).apply({"params": p}, *a), params, images, ints(2, config.text.context_length)
    )
    assert [x.shape for x in forward] == [(2, config.embed_size)] * 2 + [()]
    features = jax.eval_shape(lambda p, x: clip.vision_features(v, p, x, -2, "patch"), params["vision"], images)
    assert features.shape == (2, (size // v.patch_size) ** 2, v.hidden_size)
    assert size % v.patch_size == 0
    assert 0 <= config.text.eos_token_id < config.text.vocab_size


@pytest.mark.parametrize("name", presets.LLM)
def test_llm(name):
    config = presets.LLM[name]
    params = llm_params(config)
    assert ("lm_head" in params) != config.tie_embeddings

    def forward(p, tokens, valid):
        return llama.Decoder(config).apply({"params": p}, tokens, valid, method="from_tokens")

    logits = jax.eval_shape(forward, params, ints(2, 16), flags(2, 16))
    assert (logits.shape, logits.dtype) == ((2, 16, config.vocab_size), jnp.float32)

    def step(p, x, positions, valid):
        cache = llama.empty_cache(config, 2, 32)
        return llama.Decoder(config).apply({"params": p}, x, positions, valid, None, cache)

    x = jax.ShapeDtypeStruct((2, 1, config.hidden_size), config.dtype)
    out = jax.eval_shape(step, params, x, ints(2, 1), flags(2, 1))
    assert out.hidden.dtype == out.cache.k.dtype == config.dtype
    assert out.cache.k.shape == (config.num_layers, 2, 32, config.num_kv_heads, config.head_dim)


@pytest.mark.parametrize("name", presets.LLAVA)
def test_llava(name):
    """Two images per row between text, segments included, from pixels to logits and segment means."""
    config = presets.get(name)
    size, count = config.clip.vision.image_size, config.image_tokens
    length = 2 * count + 32
    params = jax.eval_shape(lambda key: llava.init(config, key), KEY)

    def forward(params, images, tokens, valid, image_mask, segments):
        features = llava.image_features(config, params["clip"], images)
        x = llava.embed(config, params, tokens, image_mask, features)
        positions = jnp.broadcast_to(jnp.arange(length), tokens.shape)
        decoder = llama.Decoder(config.llm)
        out = decoder.apply({"params": params["llm"]}, x, positions, valid, segments)
        return features, x, out.means, decoder.apply({"params": params["llm"]}, out.hidden, method="logits")

    pixels = jax.ShapeDtypeStruct((2, 2, size, size, 3), jnp.uint8)
    mask = flags(2, length)
    features, x, means, logits = jax.eval_shape(
        forward, params, pixels, ints(2, length), mask, mask, flags(2, 3, length)
    )
    llm = config.llm
    patches = config.clip.vision.num_patches + (config.feature_select == "full")
    assert features.shape == (2, 2, patches, config.clip.vision.hidden_size)
    assert (x.shape, x.dtype) == ((2, length, llm.hidden_size), llm.dtype)
    assert means.shape == (llm.num_layers + 1, 2, 3, llm.hidden_size)
    assert logits.shape == (2, length, llm.vocab_size)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("clip-vit-b-32", 151_277_313),
        ("clip-vit-b-16", 149_620_737),
        ("clip-vit-l-14", 427_616_513),
        ("clip-vit-l-14-336", 427_944_193),
    ],
)
def test_clip_parameter_counts(name, count):
    """The counts of transformers' CLIPModel in the published configurations."""
    config = presets.CLIP[name]
    size = config.vision.image_size
    assert parameters(clip_params(config, jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32))) == count


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("llama-2-7b", 6_738_415_616),
        ("vicuna-7b-v1.5", 6_738_415_616),
        ("mistral-7b-v0.1", 7_241_732_096),
        ("mistral-7b-v0.2", 7_241_732_096),
        ("smollm2-135m", 134_515_008),
    ],
)
def test_llm_parameter_counts(name, count):
    assert parameters(llm_params(presets.LLM[name])) == count


def test_projector_parameter_count():
    """LLaVA-1.5's two linear layers, 1024 to 4096 to 4096."""
    params = jax.eval_shape(lambda key: llava.init(presets.get("llava-v1.5-7b"), key, ("projector",)), KEY)
    assert parameters(params) == 20_979_712


def test_image_tokens_of_public_presets():
    assert {name: presets.get(name).image_tokens for name in presets.LLAVA} == {
        "llava-v1.5-7b": 576,
        "tga-mistral-7b": 576,
        "tga-llama-2-7b": 576,
        "tga-smollm2-135m": 49,
        **dict.fromkeys(("llava-v1.5-7b-resampler", "tga-mistral-7b-resampler", "tga-llama-2-7b-resampler"), 64),
        "tga-smollm2-135m-resampler": 32,
        "smollm2-hands": 16,
        "smollm2-hands-mlp": 26,
        "smollm2-hands-norm-mlp": 26,
        "bench-small": 576,
        "emoji": 10,
        "emoji-mlp": 17,
    }


def test_get_replaces_both_vocabularies():
    plain, config = presets.get("emoji"), presets.get("emoji", vocab_size=321)
    assert (config.clip.text.vocab_size, config.llm.vocab_size) == (321, 321)
    assert config.llm.hidden_size == plain.llm.hidden_size
    assert presets.get("emoji") == plain
    assert plain.llm.vocab_size == 512


def test_a_public_checkpoints_table_stays_whatever_the_tokenizer_has():
    """A tokenizer with <image> and <pad> behind the words is used; those two are not."""
    assert presets.get("llava-v1.5-7b", vocab_size=32002).llm.vocab_size == 32000


@pytest.mark.parametrize("name", ["llava-v1.6", "", "llama-2-7b"])
def test_get_names_what_it_does_not_know(name):
    with pytest.raises(UserError, match=f"preset '{name}'") as caught:
        presets.get(name)
    assert "emoji" in str(caught.value)
