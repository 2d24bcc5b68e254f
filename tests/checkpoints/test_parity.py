"""Hub folders, loaded through the package's door, against transformers and torch in float32."""

import jax
import numpy as np
import pytest
import torch
import transformers
from hub_support import CONFIGS, IMAGE_ID, model, save, token_rows, tokenizer, with_end

import tga_jax
from tga_jax.checkpoints import hub
from tga_jax.models import clip

LONGROPE = "phi3"  # transformers chooses its factors by the longest row of a batch, with its padding
LANGUAGE = [name for name in CONFIGS if not name.startswith(("clip", "llava", "siglip")) and name != LONGROPE]


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module", name="pair", params=LANGUAGE)
def fixture_pair(request, tmp_path_factory):
    made = model(request.param)
    return made, tga_jax.load(save(made, tmp_path_factory.mktemp(request.param)), dtype="float32")


def relative(ours, theirs) -> float:
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def check(ours, theirs, valid: np.ndarray) -> None:
    """Logits and every hidden state on what is no padding. transformers' last state is after the final norm."""
    assert relative(np.asarray(ours.logits)[valid], theirs.logits.numpy()[valid]) < 2e-5
    assert len(ours.hidden_states) == len(theirs.hidden_states)
    for a, b in zip(ours.hidden_states[:-1], theirs.hidden_states[:-1], strict=True):
        assert relative(np.asarray(a)[valid], b.numpy()[valid]) < 2e-5


@pytest.mark.parametrize("left", [False, True])
def test_language_models_in_padded_batches(pair, left):
    theirs, ours = pair
    ids, mask = token_rows(np.random.default_rng(0), [11, 7, 1, 9], 11, left)
    with torch.no_grad():
        found = theirs(torch.tensor(ids), attention_mask=torch.tensor(mask), output_hidden_states=True)
    check(ours.forward(ids, mask), found, mask.astype(bool))


@pytest.mark.parametrize("left", [False, True])
def test_longrope_is_chosen_for_each_row_by_its_own_length(tmp_path, left):
    """Rows at and beyond the original length of 8, each as transformers computes it alone."""
    theirs = model(LONGROPE)
    ours = tga_jax.load(save(theirs, tmp_path / LONGROPE), dtype="float32")
    lengths = [11, 8, 1, 9]
    ids, mask = token_rows(np.random.default_rng(0), lengths, 11, left)
    found = ours.forward(ids, mask)
    for row, valid in enumerate(mask.astype(bool)):
        with torch.no_grad():
            alone = theirs(torch.tensor(ids[row : row + 1, valid]), output_hidden_states=True)
        mine = type(found)(found.logits[row : row + 1], found.hidden_states[:, row : row + 1])
        cut = jax.tree.map(lambda x, valid=valid: np.asarray(x)[..., valid, :], mine)
        check(cut, alone, np.ones((1, lengths[row]), bool))


def image_rows(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Two images with text around them; one; none."""
    image = [IMAGE_ID] * count
    rows = [[1, 5, *image, 6, 7, *image, 8], [1, *image, 9, 10], [1, 4, 3]]
    width = max(map(len, rows))
    ids = np.array([row + [0] * (width - len(row)) for row in rows])
    return ids, (np.arange(width) < np.array([[len(r)] for r in rows])).astype(np.int64)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        *(("llava", 4), ("llava-full", 5), ("llava-layers", 4), ("llava-siglip", 4), ("llava-siglip-layers", 4)),
        *(("llava-gemma2", 4), pytest.param("llava-phi3", 4, marks=pytest.mark.slow)),
    ],
)
def test_llava_end_to_end(name, count, tmp_path):
    """Gemma scales words on their way in, image embeddings not. transformers' Llava leaves out its cap of logits."""
    theirs = model(name)
    ours = tga_jax.load(save(theirs, tmp_path / name), dtype="float32")
    ids, mask = image_rows(count)
    size = theirs.config.vision_config.image_size
    pixels = np.random.default_rng(1).standard_normal((3, 3, size, size)).astype(np.float32)
    with torch.no_grad():
        found = theirs(
            torch.tensor(ids), attention_mask=torch.tensor(mask), pixel_values=torch.tensor(pixels),
            output_hidden_states=True,
        )  # fmt: skip
    if (cap := ours.config.llm.logit_cap) is not None:
        found.logits = cap * torch.tanh(found.logits / cap)
    check(ours.forward(ids, mask, pixels), found, mask.astype(bool))
    with pytest.raises(tga_jax.UserError, match=f"{3 * count} image tokens and 2 pictures, expected {count} a picture"):
        ours.forward(ids, mask, pixels[:2])


@pytest.mark.parametrize("alone", [False, True])
def test_a_siglip_is_read_for_its_tower(tmp_path, alone):
    """Of a folder with both towers, or the vision tower; written again, it is transformers' SiglipVisionModel."""
    whole = model("siglip")
    theirs = whole.vision_model if not alone else transformers.SiglipVisionModel(whole.config.vision_config)
    theirs.load_state_dict(whole.vision_model.state_dict())
    found = hub.import_hub(save(theirs if alone else whole, tmp_path / "siglip"), tmp_path / "ours", "float32")
    assert found.kind == "clip"
    assert isinstance(found.config, clip.ClipConfig)
    assert found.config.text is None
    assert (found.image_mode, found.config.vision.pixel_mean) == ("stretch", (0.5, 0.5, 0.5))
    images = np.random.default_rng(1).standard_normal((2, 3, 32, 32)).astype(np.float32)
    params = hub.load_params(tmp_path / "ours", found, None)["clip"]["vision"]
    ours = clip.vision_features(found.config.vision, params, images.transpose(0, 2, 3, 1), -2, "full")
    hub.export_hub(tmp_path / "ours", tmp_path / "out")
    again = transformers.SiglipVisionModel.from_pretrained(tmp_path / "out")
    for torch_model in (theirs, again):
        with torch.no_grad():
            states = torch_model(torch.tensor(images), output_hidden_states=True).hidden_states
        assert relative(ours, states[-2]) < 2e-5
    with pytest.raises(tga_jax.UserError, match="embedding needs both towers"):
        tga_jax.load(tmp_path / "ours").embed_texts(["w4"])


def test_clip_embeddings_and_similarity(tmp_path):
    theirs = model("clip")
    theirs.config.text_config.eos_token_id = 2  # as early files have it: the end is where the largest id stands
    folder = save(theirs, tmp_path / "clip")
    with_end(tokenizer(), "w66", 66).save_pretrained(folder)
    ours = tga_jax.load(folder, dtype="float32")
    rng = np.random.default_rng(2)
    pictures = [rng.integers(0, 256, (28, 28, 3)).astype(np.uint8) for _ in range(3)]
    texts = ["w5 w7", "w9", "w4 w4 w4 w5", "w66 w8", "", " ".join(f"w{i}" for i in range(40, 60))]
    processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    pixels = processor(pictures, return_tensors="pt")["pixel_values"]
    how = {"padding": "max_length", "truncation": True, "max_length": 11, "return_tensors": "pt"}
    tokens = ours.processor.tokenizer(texts, **how)
    with torch.no_grad():
        found = theirs(**{k: tokens[k] for k in ("input_ids", "attention_mask")}, pixel_values=pixels)
    images, words = ours.embed_images(pictures), ours.embed_texts(texts)
    assert relative(images, found.image_embeds) < 2e-5
    assert relative(words, found.text_embeds) < 2e-5
    scale = np.exp(theirs.logit_scale.item())
    assert relative(scale * images @ words.T, found.logits_per_image) < 2e-5
