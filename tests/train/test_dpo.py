"""Preference training: the step against the equation by hand in float64, its reference model, and the real loop."""

import dataclasses
import functools
import io
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rich.console
import train_support
from step_support import KEY, MODEL, STAGE_2, batch_of, parameters
from test_step_lora import LORA, with_lora

from tga_jax import config as config_files
from tga_jax.data import pipeline, sources
from tga_jax.data.llava_source import LlavaSource
from tga_jax.errors import UserError
from tga_jax.models import layers, llama, llava, presets, sharding
from tga_jax.train import loop, optim, setup, step, stopping
from tga_jax.train.step import DpoConfig, LossConfig

CONFIG = LossConfig(lm=0.0, dpo=DpoConfig(0.3))
# Chosen and rejected answers by turns, of unequal lengths; one pair of text alone.
KINDS = ("full", "full", "text", "text", "no caption", "no caption")


def by_hand(params: dict, batch) -> np.ndarray:
    """log pi of each sample's targets, from the decoder's logits, in float64."""
    x = llava.embed(MODEL, params, batch.tokens, batch.image_mask, batch.image_features)
    decoder = functools.partial(layers.apply, llama.Decoder(MODEL.llm), params["llm"])
    hidden = decoder(x, llama.positions(jnp.asarray(batch.valid)), batch.valid).hidden
    logits = np.asarray(decoder(hidden, method="logits"), np.float64)
    logits -= logits.max(-1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return np.array(
        [
            sum(log_p[b, t - 1, batch.tokens[b, t]] for t in np.flatnonzero(batch.targets[b]))
            for b in range(len(batch.tokens))
        ]
    )


def expected_loss(policy: np.ndarray, reference: np.ndarray, beta: float) -> float:
    change = (policy - reference).reshape(-1, 2)
    return float(np.mean(np.log1p(np.exp(-beta * (change[:, 0] - change[:, 1])))))


def started(model, params: dict, schedule=STAGE_2, **fields):
    optimizer = optim.OptimConfig(1e-1, schedule, warmup=0.0, **fields)
    return optimizer, step.init_state(params, optimizer, 100, reference="float32")


def test_the_step_is_the_equation():
    """After the model has moved: against itself as it was at first, of which the state keeps a copy."""
    batch, params = batch_of(KINDS), parameters()
    optimizer, state = started(MODEL, params)
    assert {path for path in state.frozen if path.startswith("reference/")} == {
        f"reference/{p}" for p in state.trainable
    }
    run = jax.jit(functools.partial(step.train_step, MODEL, CONFIG, optimizer, 100))
    first = by_hand(params, batch)
    for _ in range(2):  # the first has learning rate 0
        state, metrics = run(state, batch, KEY)
        np.testing.assert_allclose(metrics["loss"], np.log(2), rtol=1e-4)
    moved = optim.combine(state.trainable, state.frozen)
    policy = by_hand({part: moved[part] for part in params}, batch)
    _, metrics = run(state, batch, KEY)
    np.testing.assert_allclose(metrics["loss"], expected_loss(policy, first, 0.3), rtol=1e-4)
    np.testing.assert_allclose(metrics["rewards/chosen"], 0.3 * np.mean((policy - first)[::2]), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(metrics["logps/rejected"], np.mean(policy[1::2]), rtol=1e-5)
    assert abs(float(metrics["loss"]) - np.log(2)) > 1e-2


@pytest.mark.slow
def test_with_lora_the_reference_is_the_model_without_it():
    """The adapter is kept once; that it has learnt something is seen in the rewards."""
    model, params = with_lora()
    batch = batch_of(KINDS)
    optimizer, state = started(model, params, ((r".*_lora/.*", 1.0), (r".*", 0.0)))
    assert not any(path.startswith("reference/") for path in state.frozen)
    _, metrics = jax.jit(functools.partial(step.train_step, model, CONFIG, optimizer, 100))(state, batch, KEY)
    plain = {**params, "llm": {**params["llm"], "blocks": {
        name: x for name, x in params["llm"]["blocks"].items() if not name.endswith("_lora")
    }}}  # fmt: skip
    merged = {**params, "llm": layers.merge_lora(model.llm.lora, params["llm"])}
    expected = expected_loss(by_hand(merged, batch), by_hand(plain, batch), 0.3)
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-4)
    assert model.llm.lora == LORA
    assert abs(expected - np.log(2)) > 1e-2


@pytest.mark.slow
def test_parts_of_a_step_keep_their_pairs():
    batch = batch_of((*KINDS, "no retrieved", "no retrieved"))
    found = []
    for parts in (1, 2):
        optimizer, state = started(MODEL, parameters(), accumulate=parts, clip_norm=1e9)
        run = jax.jit(functools.partial(step.train_step, MODEL, CONFIG, optimizer, 100))
        found.append(run(state, batch, KEY))
    for path, x in found[0][0].opt_state[1].mu.items():
        np.testing.assert_allclose(found[1][0].opt_state[1].mu[path], x, rtol=1e-4, atol=1e-6, err_msg=path)
    np.testing.assert_allclose(found[1][1]["logps/chosen"], found[0][1]["logps/chosen"], rtol=1e-5)


@pytest.mark.parametrize(("name", "value"), [("lm", 1.0), ("contrastive", 1.0), ("embedding_noise", 5.0)])
def test_it_is_learnt_alone(name, value):
    with pytest.raises(ValueError, match=rf"loss.{name}: {value} beside loss.dpo"):
        LossConfig(**{"lm": 0.0, name: value, "dpo": DpoConfig()})
    with pytest.raises(ValueError, match=r"loss.dpo.beta: 0.0, expected more than 0"):
        DpoConfig(0.0)


# --- the loop ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "samples"
    train_support.write_data(folder)
    pairs = [
        {"image": f"{i}.png", "question": "describe this", "chosen": caption, "rejected": "a gun"}
        for i, caption in enumerate(train_support.CAPTIONS)
    ]
    pairs.append({"question": "a gun", "chosen": "i can not talk about that", "rejected": "a dog on a blue background"})
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return folder


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(presets.LLAVA, "tiny", train_support.model)
    monkeypatch.setattr(sharding, "place_batch", sharding.place_batch)


def training(data, **fields):
    made = train_support.config(data, **{"loss": CONFIG, "steps": 2, "checkpoint_every": 9, **fields})
    source = LlavaSource(str(data / "pairs.jsonl"), str(data / "images"))
    return dataclasses.replace(made, data=dataclasses.replace(made.data, source={"pairs": source}))


def test_the_pipeline_gives_pairs(data):
    config = training(data, batch_size=4)
    vocabulary, records = (
        sources.vocabulary(config.data),
        sources.records(config.data, sources.Pictures(8), config.seed),
    )
    shape = config.data.shape(4)
    whole = pipeline.Batches(records, vocabulary, shape, 4, 3, pairs=True)[0]
    assert len(whole.tokens) == len(whole.images) == 8
    for i in range(0, 8, 2):
        np.testing.assert_array_equal(whole.images[i], whole.images[i + 1])
        start = int(np.flatnonzero(whole.targets[i])[0])
        np.testing.assert_array_equal(whole.tokens[i, :start], whole.tokens[i + 1, :start])
        said = [vocabulary.decode(whole.tokens[j][whole.targets[j]]) for j in (i, i + 1)]
        expected = ("can not", "dog") if not whole.image_mask[i].any() else ("background", "a gun")
        assert all(word in answer for word, answer in zip(expected, said, strict=True)), said
    halves = [pipeline.Batches(records, vocabulary, shape, 4, 3, host=h, hosts=2, pairs=True)[0] for h in (0, 1)]
    np.testing.assert_array_equal(np.concatenate([half.tokens for half in halves]), whole.tokens)


@pytest.mark.slow
def test_a_training_stopped_and_resumed(data, tmp_path):
    config = training(data, steps=3)
    quiet = rich.console.Console(file=io.StringIO())
    loop.run(config, tmp_path / "whole", quiet)
    train_support.at_step(2, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(stopping.Interrupted):
        loop.run(config, tmp_path / "run", quiet)
    loop.run(config, tmp_path / "run", quiet)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    np.testing.assert_allclose(lines[0]["loss"], np.log(2), rtol=1e-5)
    assert lines[2]["rewards/margins"] != 0  # against the model at first, not at the stop
    one, two = (train_support.trained(tmp_path / name, config) for name in ("whole", "run"))
    assert all((one[path] == two[path]).all() for path in one)


def test_samples_without_a_rejected_answer_are_named(data, tmp_path):
    made = train_support.config(data, loss=CONFIG)
    with pytest.raises(UserError, match=r"sample 's?\w+': no `rejected` answer, expected one beside the chosen one"):
        loop.run(made, tmp_path / "run", rich.console.Console(file=io.StringIO()))


def test_the_config_to_copy(monkeypatch):
    monkeypatch.syspath_prepend(str(setup.__file__).rsplit("/tga_jax/", 1)[0])
    from configs import dpo
    from tga_jax.train.config import TrainConfig

    made = config_files.build(TrainConfig, dpo.get_config())
    assert made.loss == LossConfig(lm=0.0, dpo=DpoConfig(0.1))
    assert made.data.source == {"llava": LlavaSource("pairs.jsonl", "pictures", "chat", False)}
    model = setup.make_model(made, presets.get("tga-mistral-7b"))
    made = dataclasses.replace(made, mesh=dataclasses.replace(made.mesh, fsdp=1))
    state = setup.abstract_state(made, model, setup.make_mesh(made))
    assert all("_lora/" in path for path in state.trainable)
    assert not any(path.startswith("reference/") for path in state.frozen)
