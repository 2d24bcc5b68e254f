"""LoRA in the train step."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from step_support import KEY, MODEL, RELEASED, batch_of, evaluate, parameters

from tga_jax.models import layers, llava
from tga_jax.train import optim, step
from tga_jax.train.step import LossConfig

LORA = layers.LoraConfig(rank=3, alpha=7.0, targets=("query", "value", "out", "gate", "down"))


def with_lora(seed: int = 0) -> tuple[llava.LlavaConfig, dict]:
    """A model with LoRA that has learnt something, and its parameters."""
    model = dataclasses.replace(MODEL, llm=dataclasses.replace(MODEL.llm, lora=LORA))
    fresh = jax.jit(lambda: llava.init(model, jax.random.key(seed)))()
    for name, block in fresh["llm"]["blocks"].items():
        if name.endswith("_lora"):
            assert not np.any(block["up"]["kernel"])
            up = jax.random.normal(jax.random.key(len(name)), block["up"]["kernel"].shape)
            block["up"]["kernel"] = 0.3 * up
        else:
            fresh["llm"]["blocks"][name] = parameters()["llm"]["blocks"][name]
    return model, {**parameters(), "llm": {**parameters()["llm"], "blocks": fresh["llm"]["blocks"]}}


def test_merged_lora_computes_what_lora_does():
    model, params = with_lora()
    config, batch = LossConfig(guide=RELEASED), batch_of()
    merged = {**params, "llm": layers.merge_lora(model.llm.lora, params["llm"])}
    assert jax.tree.structure(merged) == jax.tree.structure(parameters())
    loss, metrics = jax.jit(lambda p, b: step.loss_fn(model, config, p, b, KEY, jnp.asarray(0.25)))(params, batch)
    expected, whole = evaluate(config, merged, batch)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for name in whole:
        np.testing.assert_allclose(metrics[name], whole[name], rtol=1e-4, err_msg=name)
    plain, _ = evaluate(config, parameters(), batch)
    assert abs(float(loss) - float(plain)) > 1e-3
    # One kernel by hand, in float64.
    down, up = (np.asarray(params["llm"]["blocks"]["out_lora"][half]["kernel"], np.float64) for half in ("down", "up"))
    kernel = np.asarray(params["llm"]["blocks"]["out"]["kernel"], np.float64)
    expected = kernel + 7 / 3 * np.einsum("lkghr,lrd->lkghd", down, up)
    np.testing.assert_allclose(merged["llm"]["blocks"]["out"]["kernel"], expected, atol=1e-5)


def test_only_lora_and_the_projector_move():
    model, params = with_lora()
    optimizer = optim.OptimConfig(1e-2, ((r"projector/.*|.*_lora/.*", 1.0), (r".*", 0.0)), warmup=0.0)
    state = step.init_state(params, optimizer, 4)
    assert {path.split("/")[2].removesuffix("_lora") for path in state.trainable if "llm/" in path} == set(LORA.targets)
    run = jax.jit(functools.partial(step.train_step, model, LossConfig(guide=RELEASED), optimizer, 4))
    after, _ = run(state, batch_of(), KEY)  # at learning rate 0
    after, metrics = run(after, batch_of(), KEY)
    assert all(np.any(x != state.trainable[path]) for path, x in after.trainable.items())
    assert float(metrics["grad_norm/llm"]) > 0
    assert float(metrics["grad_norm/projector"]) > 0
