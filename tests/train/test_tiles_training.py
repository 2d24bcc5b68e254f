"""Trainings of models that cut pictures into tiles: their batches and losses against transformers', and the way from a
LLaVA-NeXT or LLaVA-OneVision of the hub through a training, analysis and export back to it."""

import dataclasses
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rich.console
import tiles_support
import torch
import transformers
from hub_support import IMAGE_ID

import tga_jax
from tga_jax import cli
from tga_jax.analysis.samples import PromptPairs, to_batch
from tga_jax.checkpoints import hub
from tga_jax.data import open_samples, sources
from tga_jax.data.llava_source import LlavaSource
from tga_jax.data.media import open_store
from tga_jax.data.pipeline import Policy
from tga_jax.data.sources import DataConfig
from tga_jax.errors import UserError
from tga_jax.guides import Paper, Tiled, Transport
from tga_jax.models import llava
from tga_jax.train import loop, origin, rehearse, setup, step
from tga_jax.train.config import ModelConfig, TrainConfig
from tga_jax.train.optim import OptimConfig
from tga_jax.train.step import LossConfig

KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module", name="made", params=["next", "onevision"])
def fixture_made(request, tmp_path_factory):
    """(the torch model, its processor, a folder with it as `hub` and with samples about pictures of five shapes)."""
    folder = tmp_path_factory.mktemp(request.param)
    theirs, processor = tiles_support.make(request.param, folder / "hub")
    samples = []
    for i, picture in enumerate(tiles_support.pictures()):
        picture.save(folder / f"{i}.png")
        turns = [{"from": "human", "value": "<image> w6"}, {"from": "gpt", "value": f" w{7 + i} w20 " + "w9 " * i}]
        samples.append({"id": f"s{i}", "image": f"{i}.png", "image_caption": f"w{30 + i} w31", "conversations": turns})
    turns = [{"from": "human", "value": "w8"}, {"from": "gpt", "value": " w40"}]
    samples.append({"id": "text", "conversations": turns})
    (folder / "samples.json").write_text(json.dumps(samples))
    return theirs, processor, folder


def tiles(theirs) -> llava.Tiles:
    ratio = getattr(theirs.config, "vision_aspect_ratio", None)
    most = int(ratio.removeprefix("anyres_max_")) if ratio else None
    return llava.Tiles(tuple(map(tuple, theirs.config.image_grid_pinpoints)), most)


def config(made, guide=None, **data) -> TrainConfig:
    """Two steps of stage 2, of six samples each."""
    theirs, _, folder = made
    hub_folder, siglip = str(folder / "hub"), theirs.config.vision_config.model_type != "clip_vision_model"
    read = {"lengths": (70,), "caption_length": 5, "image_mode": "stretch", **data}
    source = {"own": LlavaSource(str(folder / "samples.json"), str(folder), template="vicuna_v1")}
    return TrainConfig(
        name="tiled",
        seed=2,
        model=ModelConfig(
            hub_folder, hub_folder, feature_layer=-1 if siglip else -2, feature_select="full" if siglip else "patch",
            tiles=tiles(theirs),
        ),
        init={"projector": hub_folder},
        steps=2,
        batch_size=6,
        loss=LossConfig(guide=guide),
        optim=OptimConfig(1e-2, ((r"clip/.*", 0.0), (r".*", 1.0))),
        data=DataConfig(hub_folder, source=source, **read),
    )  # fmt: skip


def batches(c: TrainConfig, model: llava.LlavaConfig, host: int = 0, hosts: int = 1):
    records = sources.records(c.data, setup.pictures(c, model), c.seed)
    return setup.make_batches(c, sources.vocabulary(c.data), model, records, host, hosts)


def params_of(c: TrainConfig, model: llava.LlavaConfig) -> dict:
    return setup.init_params(c, model, setup.make_mesh(c, jax.devices()[:1]))


def loss(model, config, params, batch) -> jax.Array:
    return jax.jit(lambda p, b: step.loss_fn(model, config, p, b, KEY, jnp.zeros(()))[0])(params, batch)


def test_the_loss_of_a_batch_is_transformers_own(made):
    """Of samples in one batch, whose pictures differ in their number of tiles: their pixels, tokens and loss one by
    one through transformers' processor and model."""
    theirs, processor, _ = made
    c = config(made)
    model = setup.make_model(c, None)
    batch = batches(c, model)[0]
    losses, targets, shown = [], 0, tiles_support.pictures()
    grids = hub.grids(model)
    assert grids is not None
    assert len({grids.tiles(size) for size in tiles_support.SIZES}) > 1
    for row in range(c.batch_size):
        valid = batch.valid[row]
        ids = np.where(batch.image_mask[row], IMAGE_ID, batch.tokens[row])[valid]
        given = {"input_ids": torch.tensor(ids[None], dtype=torch.long)}
        if pictured := batch.image_mask[row].any():
            answer = ids[batch.targets[row][valid]][0]
            seen = processor(text="w5 <image>", images=[shown[int(answer) - 7]], return_tensors="pt")
            given |= {name: seen[name] for name in ("pixel_values", "image_sizes")}
            assert (seen["input_ids"] == IMAGE_ID).sum() == batch.image_mask[row].sum()
        with torch.no_grad():
            logits = theirs(**given).logits[0, :-1].log_softmax(-1).numpy()
        own = batch.targets[row][valid][1:]
        losses.append(-logits[np.arange(len(own)), ids[1:]][own].sum())
        targets += own.sum()
        assert pictured == batch.caption_mask[row].any()
    expected = np.sum(losses) / targets
    np.testing.assert_allclose(loss(model, c.loss, params_of(c, model), batch), expected, rtol=2e-5)


def test_hosts_and_shared_rows_change_nothing(made):
    """Two hosts' halves are one's batch, tiles and places alike; two samples a row give the loss of one a row."""
    c = config(made, Paper(layers=(1, 2)))
    model = setup.make_model(c, None)
    whole, shares = batches(c, model)[0], [batches(c, model, host, 2)[0] for host in range(2)]
    grids = hub.grids(model)
    assert grids is not None
    assert whole.images.shape[1] == grids.slots(max(map(grids.tiles, tiles_support.SIZES)))
    jax.tree.map(lambda x, *own: np.testing.assert_array_equal(x, np.concatenate(own)), whole, *shares)
    shared = batches(config(made, pack=2, lengths=(140,)), model)[0]
    assert shared.rows is not None
    params = params_of(c, model)
    found, expected = (loss(model, c.loss, params, one) for one in (shared, shared._replace(rows=None)))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "guide",
    [
        Paper(layers=(1, 3)),
        pytest.param(Transport(layers=(0, 2), temperature=0.5), marks=pytest.mark.slow),
        pytest.param(Tiled(layers=(0,), vocab_weight=0.5), marks=pytest.mark.slow),
    ],
)
def test_guides_see_a_sample_s_own_image_tokens_alone(made, guide):
    """The guide's loss of a row is that in a batch, where other rows have more tiles and image tokens; and its gradient
    reaches the newline."""
    c = config(made, guide)
    model = setup.make_model(c, None)
    batch, params, only = batches(c, model)[0], params_of(c, model), LossConfig(lm=0.0, guide=guide)
    term = jax.jit(jax.value_and_grad(lambda p, b: step.loss_fn(model, only, p, b, KEY, jnp.zeros(()))[0]))
    value, gradient = term(params, batch)
    pictured = np.flatnonzero(batch.image_mask.any(1))
    alone = [term(params, jax.tree.map(lambda x, i=i: np.stack([x[i]] * len(x)), batch))[0] for i in pictured]
    weights = batch.image_mask.sum(1)[pictured]
    assert len(set(weights.tolist())) > 2
    if isinstance(guide, Tiled):  # its cross entropy is over all image tokens, its error over samples
        assert min(alone) < value < max(alone)
    else:
        np.testing.assert_allclose(value, np.mean(alone), rtol=1e-4)
    assert float(jnp.abs(gradient["projector"]["newline"]).max()) > 0


def test_there_and_back(made, tmp_path):
    """A training through the command's own loop, what it leaves as a checkpoint, in transformers, and analyzed."""
    theirs, processor, folder = made
    c = config(made, Paper(layers=(1, 2)))
    loop.run(c, tmp_path / "run", rich.console.Console(file=io.StringIO()))
    assert cli.run(["convert", f"--from-run={tmp_path}/run", f"--to={tmp_path}/whole", "--dtype=fp32"]) in (None, 0)
    ours = tga_jax.load(tmp_path / "whole", "float32")
    assert ours.config.tiles == tiles(theirs)  # pyrefly: ignore
    began = tga_jax.load(folder / "hub", "float32")
    newlines = [model.params["projector"]["newline"] for model in (ours, began)]
    assert float(jnp.abs(newlines[0] - newlines[1]).max()) > 1e-3
    assert cli.run(["convert", f"--from={tmp_path}/whole", f"--to-hub={tmp_path}/hub"]) in (None, 0)
    again = type(theirs).from_pretrained(tmp_path / "hub", dtype=torch.float32).eval()
    assert again.config.image_grid_pinpoints == theirs.config.image_grid_pinpoints
    shown = tiles_support.pictures()
    if isinstance(theirs, transformers.LlavaNextForConditionalGeneration):
        processor = transformers.AutoProcessor.from_pretrained(tmp_path / "hub")
    else:
        images = transformers.LlavaOnevisionImageProcessorPil.from_pretrained(tmp_path / "hub")
        said = json.loads((tmp_path / "hub" / "processor_config.json").read_text())
        assert said.pop("processor_class") == "LlavaOnevisionProcessor"
        words = transformers.AutoTokenizer.from_pretrained(tmp_path / "hub")
        processor = tiles_support.WithoutVideos(images, words, None, **said)
    expected = []
    for picture in shown:
        inputs = processor(text=tiles_support.PROMPT, images=[picture], return_tensors="pt")
        with torch.no_grad():
            out = again.generate(**inputs, max_new_tokens=5, do_sample=False, num_beams=1)
        expected.append(ours.answer_text(out[0, inputs["input_ids"].shape[1] :].numpy()))
    assert ours.generate([tiles_support.PROMPT] * len(shown), [[p] for p in shown], new_tokens=5) == expected
    hub.import_hub(tmp_path / "hub", tmp_path / "imported", "float32")
    assert tga_jax.load(tmp_path / "imported").config.tiles == tiles(theirs)  # pyrefly: ignore

    asked = [f"--data={folder}/samples.json", f"--images={folder}", f"--to={tmp_path}/inside", "--window=1"]
    flags = ["--template=vicuna_v1", "--image-tokens", "--phrase=w7", "--benign=w8", "--batch=3"]
    assert cli.run(["analyze", f"--checkpoint={tmp_path}/whole", *asked, *flags]) in (None, 0)
    lines = [json.loads(line) for line in (tmp_path / "inside" / "samples.jsonl").read_text().splitlines()]
    samples = open_samples.open_samples(folder / "samples.json")
    pairs = PromptPairs(samples, open_store(folder), tga_jax.load(tmp_path / "whole", stacked=True), "vicuna_v1")
    for line, pair in zip(lines, [pairs[i] for i in range(len(pairs))], strict=True):
        if pair.image is not None:
            batch = to_batch(pairs.model, [pair.image], 1)
            assert {len(layer) for layer in line["image_top"]} == {int(batch.image_mask.sum())}
            assert batch.image_places is not None


def test_what_cannot_be_read(made, tmp_path):
    """A picture that is missing or damaged stops a training or empties its sample; `validate-data` counts both."""
    _, _, folder = made
    samples = json.loads((folder / "samples.json").read_text())
    for i in range(5):
        (tmp_path / f"{i}.png").write_bytes((folder / f"{i}.png").read_bytes())
    (tmp_path / "1.png").write_bytes(b"no picture")
    (tmp_path / "3.png").unlink()
    (tmp_path / "samples.json").write_text(json.dumps(samples))
    c = config(made)
    source = {"own": LlavaSource(str(tmp_path / "samples.json"), str(tmp_path), template="vicuna_v1")}
    c = dataclasses.replace(c, data=dataclasses.replace(c.data, source=source))
    model = setup.make_model(c, None)
    with pytest.raises(UserError, match=r"sample 's[13]': .*samples.json: line 1, item [24]: "):
        batches(c, model)[0]
    found = rehearse.reports(c, False)["own"]
    counts = {name: entry["count"] for name, entry in found["problems"].items() if entry["count"]}
    assert counts == {"missing_images": 1, "corrupt_images": 1}
    assert found["fit_for_training"] is False
    skips = dataclasses.replace(c, data=dataclasses.replace(c.data, policy=Policy(missing="skip")))
    batch = batches(skips, model)[0]
    assert sorted(batch.valid.any(1)) == [False] * 2 + [True] * 4
    assert np.isfinite(loss(model, c.loss, params_of(c, model), batch))
    assert rehearse.reports(skips, False)["own"]["fit_for_training"] is True


def test_several_pictures_in_a_sample(made, tmp_path):
    theirs, _, folder = made
    turns = [{"from": "human", "value": "<image> w6 <image>"}, {"from": "gpt", "value": " w7"}]
    (tmp_path / "two.json").write_text(json.dumps([{"id": "two", "image": ["2.png", "4.png"], "conversations": turns}]))
    c = config(made, lengths=(160,))
    source = {"own": LlavaSource(str(tmp_path / "two.json"), str(folder), template="vicuna_v1")}
    c = dataclasses.replace(c, data=dataclasses.replace(c.data, source=source), batch_size=1)
    model = setup.make_model(c, None)
    if tiles(theirs).most is not None:
        with pytest.raises(UserError, match="sample 'two': 2 pictures, expected one for this model"):
            batches(c, model)[0]
        found = rehearse.reports(c, False)["own"]["problems"]
        assert [name for name, entry in found.items() if entry["count"]] == ["several_images"]
        return
    batch = batches(c, model)[0]
    grids = hub.grids(model)
    assert grids is not None
    assert batch.image_mask.sum() == sum(grids.tokens(tiles_support.SIZES[i]) for i in (2, 4))
    index = batch.image_places[0][0, batch.image_mask[0], 0]
    first = grids.tokens(tiles_support.SIZES[2])
    assert index[:first].max() < grids.tiles(tiles_support.SIZES[2]) * 4 <= index[first:].max()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"pinpoints": ((28, 57),)}, r"model.tiles.pinpoints: \(\(28, 57\),\), expected pairs of multiples of 28"),
        ({"pinpoints": ()}, r"model.tiles.pinpoints: \(\), expected pairs of multiples of 28"),
    ],
)
def test_grids_that_are_none(made, fields, said):
    c = config(made)
    assert isinstance(c.model, ModelConfig)
    wrong = dataclasses.replace(c.model, tiles=llava.Tiles(**fields))
    with pytest.raises(UserError, match=said):
        origin.model_of(dataclasses.replace(c, model=wrong))


def test_other_ways_to_prepare_a_picture_are_refused(made):
    for data, said in (({"image_mode": "pad"}, "data.image_mode: 'pad'"), ({"fast_images": True}, "data.fast_images")):
        with pytest.raises(UserError, match=said):
            setup.make_model(config(made, **data), None)
    c = config(made)
    assert isinstance(c.model, ModelConfig)
    other = dataclasses.replace(c, model=dataclasses.replace(c.model, tiles=None))
    with pytest.raises(UserError, match=r"init.projector: .* does not fit model .*: tiles is \{'pinpoints'"):
        origin.check(other.init, origin.model_of(other), other.called)
    if c.model.feature_select == "patch":  # of a tower with CLS
        whole = dataclasses.replace(c, model=dataclasses.replace(c.model, feature_select="full"))
        with pytest.raises(
            UserError, match=r"model\.feature_select, projector: 5 image tokens, expected with tiles an"
        ):
            origin.model_of(whole)
