"""CLIP against transformers' CLIPModel with the same random weights."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import parity_support
import pytest
import torch
import transformers

from tga_jax.models import clip

EOS = 30  # with ids above it in the vocabulary: the largest id does not mark the end
TOKENS = np.array(
    [
        [28, 3, 4, 5, 6, 7, 8, 9, EOS],
        [28, 3, EOS, 38, 39, 35, 38, 39, 0],
        [28, 5, 9, EOS, EOS, EOS, EOS, EOS, EOS],
        [28, EOS, 4, 8, EOS, 0, 0, 0, 0],
    ]
)
CASES = {
    "quick_gelu": {"act": "quick_gelu", "eps": 1e-5, "image": 28, "patch": 14, "layers": 3, "vision_heads": 4},
    "gelu": {"act": "gelu", "eps": 3e-3, "image": 42, "patch": 14, "layers": 2, "vision_heads": 2},
}


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module", params=CASES, name="pair")
def fixture_pair(request):
    """The torch model, its configuration and parameters here, and pixels [B, I, I, 3]."""
    case = CASES[request.param]
    shared = {"hidden_act": case["act"], "layer_norm_eps": case["eps"], "num_hidden_layers": case["layers"]}
    hf = transformers.CLIPConfig(
        text_config=dict(
            **shared, hidden_size=24, intermediate_size=40, num_attention_heads=3, vocab_size=40,
            max_position_embeddings=11, bos_token_id=28, eos_token_id=EOS, pad_token_id=0,
        ),
        vision_config=dict(
            **shared, hidden_size=32, intermediate_size=56, num_attention_heads=case["vision_heads"],
            image_size=case["image"], patch_size=case["patch"],
        ),
        projection_dim=20, attn_implementation="eager",
    )  # fmt: skip
    model = parity_support.randomize(transformers.CLIPModel(hf), seed=len(request.param))
    config, params = parity_support.converted(model)
    params = params["clip"]
    images = np.random.default_rng(0).standard_normal((4, case["image"], case["image"], 3)).astype(np.float32)
    return model, config, params, images


@functools.partial(jax.jit, static_argnums=0)
def run(config, params, images, tokens):
    """The vision tower's (states, normalised ones), and what Clip returns."""
    vision = clip.VisionTower(config.vision).apply({"params": params["vision"]}, images)
    return vision, clip.Clip(config).apply({"params": params}, images, tokens)


@functools.partial(jax.jit, static_argnums=0)
def run_text(config, params, tokens):
    return clip.TextTower(config.text).apply({"params": params["text"]}, tokens)


def pixels(images: np.ndarray) -> torch.Tensor:
    return torch.tensor(images.transpose(0, 3, 1, 2))


def close(ours, theirs: torch.Tensor):
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-5, atol=1e-5)


def test_converted_parameters_have_the_shapes_of_init(pair):
    _, config, params, images = pair
    made = jax.eval_shape(clip.Clip(config).init, jax.random.key(0), images, TOKENS)["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, made)


def test_vision_states_of_every_layer(pair):
    model, config, params, images = pair
    states = model.vision_model(pixels(images), output_hidden_states=True).hidden_states
    count = config.vision.num_layers
    assert len(states) == count + 1
    layers = range(-count - 1, count + 1)

    @jax.jit
    def ours(vision, images):
        return {
            (layer, select): clip.vision_features(config.vision, vision, images, layer, select)
            for layer in layers
            for select in ("full", "patch")
        }

    features = ours(params["vision"], images)
    for layer in layers:
        close(features[layer, "full"], states[layer])
        assert features[layer, "patch"].shape == (4, config.vision.num_patches, 32)
        np.testing.assert_allclose(features[layer, "patch"], features[layer, "full"][:, 1:], rtol=0, atol=1e-6)


@pytest.mark.parametrize("layer", [(-2, 1, -1), (2, 0), (2, 2)])
def test_states_of_several_layers_are_joined(pair, layer):
    _, config, params, images = pair
    read = jax.jit(functools.partial(clip.vision_features, config.vision), static_argnums=(2, 3))
    found = read(params["vision"], images, layer, "patch")
    expected = [read(params["vision"], images, one, "patch") for one in layer]
    np.testing.assert_allclose(found, np.concatenate(expected, axis=-1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", [(), (-2, 9), -9, (4,)])
def test_a_layer_that_the_tower_lacks_is_refused(layer):
    with pytest.raises(ValueError, match=r"^feature_layer: .*, expected from -4 to 3$"):
        clip.blocks_below(clip.VisionConfig(8, 3, 2, 16), layer)


def test_siglip_states_of_every_layer():
    """32 pixels in patches of 14: the last four are left out."""
    shape = {"hidden_size": 32, "intermediate_size": 56, "num_attention_heads": 4, "num_hidden_layers": 2}
    shape["layer_norm_eps"] = 2e-3
    hf = transformers.SiglipConfig(
        vision_config={**shape, "image_size": 32, "patch_size": 14}, text_config={**shape, "vocab_size": 20},
        attn_implementation="eager",
    )  # fmt: skip
    model = parity_support.randomize(transformers.SiglipModel(hf), seed=3)
    config, params = parity_support.converted(model)
    model = model.vision_model
    assert (config.vision.num_patches, config.vision.activation) == (4, "gelu_pytorch_tanh")
    images = np.random.default_rng(0).standard_normal((3, 32, 32, 3)).astype(np.float32)
    theirs = model(pixels(images), output_hidden_states=True)
    read = jax.jit(functools.partial(clip.vision_features, config.vision), static_argnums=(2, 3))
    for layer, states in zip((0, 1, -1), theirs.hidden_states, strict=True):
        for select in ("patch", "full"):  # there is no CLS to leave out
            close(read(params["clip"]["vision"], images, layer, select), states)
    close(clip.VisionTower(config.vision).apply({"params": params["clip"]["vision"]}, images)[1], theirs[0])


def test_vision_tower_last_states_and_normalised_ones(pair):
    model, config, params, images = pair
    theirs = model.vision_model(pixels(images))
    (states, normed), _ = run(config, params, images, TOKENS)
    close(states, theirs.last_hidden_state)
    close(normed[:, 0], theirs.pooler_output)
    close(normed, model.vision_model.post_layernorm(theirs.last_hidden_state))


@pytest.mark.parametrize("length", [9, 5])
def test_text_state_at_the_first_end_token(pair, length):
    model, config, params, _ = pair
    tokens = TOKENS[:, :length] if length == 9 else TOKENS[1:, :length]
    ends = [list(row).index(EOS) for row in tokens]
    mask = np.arange(length) <= np.array(ends)[:, None]
    ours = run_text(config, params, tokens)
    for attention_mask in (None, torch.tensor(mask)):
        theirs = model.text_model(torch.tensor(tokens), attention_mask=attention_mask)
        close(ours, theirs.pooler_output)
        close(ours, theirs.last_hidden_state[torch.arange(len(ends)), torch.tensor(ends)])


@pytest.mark.parametrize("pair", ["quick_gelu"], indirect=True)
def test_what_follows_the_first_end_token_is_not_read(pair):
    _, config, params, _ = pair
    mask = np.cumsum(TOKENS == EOS, axis=1) - (TOKENS == EOS) > 0
    assert mask.any()
    other = np.where(mask, np.random.default_rng(1).integers(0, 40, TOKENS.shape), TOKENS)
    np.testing.assert_allclose(run_text(config, params, TOKENS), run_text(config, params, other), rtol=0, atol=1e-6)


def test_embeddings_and_scaled_similarities(pair):
    model, config, params, images = pair
    theirs = model(input_ids=torch.tensor(TOKENS), pixel_values=pixels(images))
    _, (image, text, scale) = run(config, params, images, TOKENS)
    close(image, theirs.image_embeds)
    close(text, theirs.text_embeds)
    close(scale, model.logit_scale.exp())
    close(scale * image @ text.T, theirs.logits_per_image)
    np.testing.assert_allclose(np.linalg.norm(image, axis=-1), 1, rtol=1e-6)


@pytest.mark.parametrize("pair", ["quick_gelu"], indirect=True)
@pytest.mark.parametrize(("parameter", "scale"), [(0.0, 1.0), (4.0, np.exp(4.0)), (4.7, 100.0), (50.0, 100.0)])
def test_the_similarity_scale_is_at_most_100(pair, parameter, scale):
    _, config, params, images = pair
    params = {**params, "logit_scale": jnp.float32(parameter)}
    np.testing.assert_allclose(run(config, params, images, TOKENS)[1][2], scale, rtol=1e-6)


@pytest.mark.parametrize("pair", ["quick_gelu"], indirect=True)
def test_blocks_above_the_layer_are_not_run(pair):
    _, config, params, images = pair
    vision = params["vision"]
    blocks = jax.tree.map(lambda p: np.concatenate([p[:1], np.full_like(p[1:], np.nan)]), vision["blocks"])

    @jax.jit
    def features(vision):
        return [clip.vision_features(config.vision, vision, images, layer, "full") for layer in (0, 1, 2)]

    lowest, first, second = features({**vision, "blocks": blocks})
    expected = features(vision)
    np.testing.assert_array_equal(lowest, expected[0])
    np.testing.assert_array_equal(first, expected[1])
    assert np.isnan(second).any()


@pytest.mark.parametrize("pair", ["quick_gelu"], indirect=True)
def test_features_outside_the_tower_are_refused(pair):
    _, config, params, images = pair
    count = config.vision.num_layers
    for layer, select, message in [
        (count + 1, "patch", f"feature_layer: {count + 1}"),
        (-count - 2, "patch", f"feature_layer: {-count - 2}"),
        (-1, "default", "feature_select: 'default'"),
    ]:
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(
                lambda p, x, a=(layer, select): clip.vision_features(config.vision, p, x, *a), params["vision"], images
            )


@pytest.mark.parametrize("pair", ["quick_gelu"], indirect=True)
def test_bfloat16_stays_close(pair):
    _, config, params, images = pair
    low = clip.ClipConfig(
        dataclasses.replace(config.vision, dtype="bfloat16"), dataclasses.replace(config.text, dtype="bfloat16"), 20
    )
    (states, _), ours = run(low, params, images, TOKENS)
    assert states.dtype == jnp.bfloat16
    _, exact = run(config, params, images, TOKENS)
    for a, b in zip(ours[:2], exact[:2], strict=True):
        assert a.dtype == jnp.float32
        assert np.sum(a * b, axis=-1).min() > 0.999
