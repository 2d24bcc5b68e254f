"""Which tensor of a hub checkpoint is which parameter of ours, and how its axes are laid out. Import and export both
read these tables.

The hub keeps a linear layer's weight as [out, in] and one tensor per layer. Here kernels are [in, out] with heads as
axes of their own, and the blocks of a tower are stacked along axis 0.
"""

import dataclasses
import math
import re

import numpy as np

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Rule:
    """hub: a tensor's name within its part, `*` for the layer; ours: the parameter's path within the part.

    layout: "linear" [out, in] with the kernel's first `inputs` axes as its inputs; "conv" [out, in, height, width];
    "flat": the same order, other axes; "same".
    """

    hub: str
    ours: str
    layout: str = "same"
    inputs: int = 1

    def to_ours(self, x: np.ndarray, shape: Shape) -> np.ndarray:
        """x: the hub's tensor; shape: of one layer of our parameter."""
        if self.layout == "conv":
            return x.transpose(2, 3, 1, 0)
        return (x.T if self.layout == "linear" else x).reshape(shape)

    def to_hub(self, x: np.ndarray) -> np.ndarray:
        """x: one layer of our parameter -> the hub's tensor, contiguous."""
        if self.layout == "conv":
            x = x.transpose(3, 2, 0, 1)
        elif self.layout == "linear":
            x = x.reshape(self._flat(x.shape)).T
        else:
            x = x.reshape(self.hub_shape(x.shape))
        return np.asarray(x, order="C")

    def hub_shape(self, shape: Shape) -> Shape:
        """The hub's shape for one layer of our parameter's."""
        if self.layout == "conv":
            return (shape[3], shape[2], shape[0], shape[1])
        if self.layout == "linear":
            return self._flat(shape)[::-1]
        return (math.prod(shape),) if self.layout == "flat" else shape

    def _flat(self, shape: Shape) -> Shape:
        return (math.prod(shape[: self.inputs]), math.prod(shape[self.inputs :]))


def _linear(hub: str, ours: str, inputs: int = 1) -> tuple[Rule, ...]:
    return (
        Rule(f"{hub}.weight", f"{ours}/kernel", "linear", inputs),
        Rule(f"{hub}.bias", f"{ours}/bias", "flat"),
    )


def _norm(hub: str, ours: str) -> tuple[Rule, ...]:
    return (Rule(f"{hub}.weight", f"{ours}/scale"), Rule(f"{hub}.bias", f"{ours}/bias"))


def _encoder(prefix: str) -> tuple[Rule, ...]:
    """The blocks of either CLIP tower."""
    layer, block = f"{prefix}encoder.layers.*.", "blocks/"
    return (
        *(rule for n in ("query", "key", "value") for rule in _linear(f"{layer}self_attn.{n[0]}_proj", block + n)),
        *_linear(f"{layer}self_attn.out_proj", f"{block}out", inputs=2),
        *_linear(f"{layer}mlp.fc1", f"{block}up"),
        *_linear(f"{layer}mlp.fc2", f"{block}down"),
        *_norm(f"{layer}layer_norm1", f"{block}attention_norm"),
        *_norm(f"{layer}layer_norm2", f"{block}mlp_norm"),
    )


def _within(rules: tuple[Rule, ...], hub: str, ours: str) -> tuple[Rule, ...]:
    return tuple(dataclasses.replace(r, hub=hub + r.hub, ours=ours + r.ours) for r in rules)


_VISION = (
    Rule("embeddings.class_embedding", "cls"),
    Rule("embeddings.patch_embedding.weight", "patch/kernel", "conv"),
    Rule("embeddings.patch_embedding.bias", "patch/bias"),
    Rule("embeddings.position_embedding.weight", "positions"),
    *_norm("pre_layrnorm", "pre_norm"),  # spelled so
    *_encoder(""),
    *_norm("post_layernorm", "post_norm"),
)
_TEXT = (
    Rule("embeddings.token_embedding.weight", "embed/embedding"),
    Rule("embeddings.position_embedding.weight", "positions"),
    *_encoder(""),
    *_norm("final_layer_norm", "final_norm"),
)

RULES: dict[str, tuple[Rule, ...]] = {  # of all parts but the decoder
    "clip": (
        *_within(_VISION, "vision_model.", "vision/"),
        *_within(_TEXT, "text_model.", "text/"),
        Rule("visual_projection.weight", "vision_projection/kernel", "linear"),
        Rule("text_projection.weight", "text_projection/kernel", "linear"),
        Rule("logit_scale", "logit_scale"),
    ),
    "projector": (
        *_linear("linear_1", "linear_1"),
        *_linear("linear_2", "linear_2"),
        Rule("image_newline", "newline"),  # LLaVA-NeXT's
    ),
}

# Names of a decoder's norms, by where they stand (`llama.NORMS`): before attention and feed-forward, and behind them.
_NORMS = {
    "pre": {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"},
    "post": {"attention_post_norm": "post_attention_layernorm", "mlp_post_norm": "post_feedforward_layernorm"},
    "sandwich": {
        "attention_norm": "input_layernorm",
        "attention_post_norm": "post_attention_layernorm",
        "mlp_norm": "pre_feedforward_layernorm",
        "mlp_post_norm": "post_feedforward_layernorm",
    },
}


def of_decoder(norms: str) -> tuple[Rule, ...]:
    """Of the part "llm"; norms: where they stand, of which their names depend."""
    return (
        Rule("embed_tokens.weight", "embed/embedding"),
        *(r for n in ("query", "key", "value") for r in _linear(f"layers.*.self_attn.{n[0]}_proj", f"blocks/{n}")),
        *(Rule(f"layers.*.self_attn.{n[0]}_norm.weight", f"blocks/{n}_norm/scale") for n in ("query", "key")),
        *_linear("layers.*.self_attn.o_proj", "blocks/out", inputs=3),
        *(Rule(f"layers.*.{hub}.weight", f"blocks/{ours}/scale") for ours, hub in _NORMS[norms].items()),
        *(r for n in ("gate", "up", "down") for r in _linear(f"layers.*.mlp.{n}_proj", f"blocks/{n}")),
        *_norm("norm", "final_norm"),
        *_linear("lm_head", "lm_head"),
    )


# Of families with fused matrices: which ones lie one below the other in one.
FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
_PIECES = {piece: (whole, i) for whole, pieces in FUSED.items() for i, piece in enumerate(pieces)}


def fused(name: str) -> tuple[str, int]:
    """(the matrix of which a decoder's tensor is a piece, which piece of it); of any other its own name, and 0."""
    for piece, (whole, i) in _PIECES.items():
        if f".{piece}." in name:
            return name.replace(piece, whole), i
    return name, 0


# Where the parts stand in a checkpoint: original LLaVA, its stage-1 file, the hub's older and newer layouts, and plain
# CLIP and Llama. The first pattern that matches the start of a name decides; the rest of the name is within the part.
_PLACES: tuple[tuple[str, str, str], ...] = (
    (r"(model\.)?(vision_tower\.){1,2}(vision_model\.)?", "clip", "vision_model."),
    (r"(?=(vision_model|text_model|visual_projection|text_projection)\.|logit_(scale|bias)$)", "clip", ""),
    (r"model\.mm_projector\.0\.", "projector", "linear_1."),
    (r"model\.mm_projector\.2\.", "projector", "linear_2."),
    (r"model\.mm_projector\.(?=weight|bias)", "projector", "linear_1."),
    (r"(model\.)?multi_modal_projector\.", "projector", ""),
    (r"(model\.)?(?=image_newline$)", "projector", ""),
    (r"(language_model\.)?(?=lm_head\.)", "llm", ""),
    # A vision tower alone, as transformers 5.24 writes it.
    (r"(?=(embeddings|encoder|pre_layrnorm|post_layernorm|head)\.)", "clip", "vision_model."),
    # The second "model." comes from transformers 5.4.
    (r"(model\.language_model\.(model\.)?|language_model\.model\.|model\.)", "llm", ""),
)

# Buffers that older versions stored: they follow from the config.
_BUFFERS = re.compile(r".*(rotary_emb\.inv_freq|embeddings\.position_ids)")

# How export writes the parts of a whole LLaVA, and of its stage-1 file, as part -> start of the name.
HUB_LLAVA = {"clip": "vision_tower.", "projector": "multi_modal_projector.", "llm": "language_model.model."}
HUB_LLM = "model."


def is_buffer(name: str) -> bool:
    return _BUFFERS.fullmatch(name) is not None


def locate(name: str) -> tuple[str, str] | None:
    """(part, name within the part) of a checkpoint's tensor, the same in every layout; None for a foreign name."""
    for pattern, part, start in _PLACES:
        if found := re.match(pattern, name):
            return part, start + name[found.end() :]
    return None


def hub_name(part: str, local: str, whole: bool) -> str:
    """The inverse of `locate` for export. whole: within a LLaVA checkpoint, else a checkpoint of this part alone."""
    if part == "llm" and local.startswith("lm_head."):
        return f"language_model.{local}" if whole else local
    if local == "image_newline":
        return local
    if whole:
        return HUB_LLAVA[part] + local
    return {"clip": "", "projector": "multi_modal_projector.", "llm": HUB_LLM}[part] + local
