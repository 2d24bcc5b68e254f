"""Which fields of the hub's `config.json` are used here, which are without effect on inference, and which have to have
a value that the models here compute. Any other field is an error that names it."""

import dataclasses
from typing import Any

from tga_jax.errors import UserError

# Read by `hub_config` and `families` from the config that transformers makes of the file.
USED = {
    # of language models
    "attention_bias", "attn_logit_softcapping", "bos_token_id", "eos_token_id", "final_logit_softcapping", "head_dim",
    "hidden_act", "hidden_activation", "hidden_size", "intermediate_size", "layer_types", "max_position_embeddings",
    "max_window_layers", "mlp_bias", "model_type", "num_attention_heads", "num_hidden_layers", "num_key_value_heads",
    "original_max_position_embeddings", "pad_token_id", "query_pre_attn_scalar", "rms_norm_eps", "rope_parameters",
    "sliding_window", "tie_word_embeddings", "use_bidirectional_attention", "use_sliding_window", "vocab_size",
    # of vision towers and LLaVA
    "image_grid_pinpoints", "image_size", "image_token_id", "image_token_index", "layer_norm_eps",
    "multimodal_projector_bias", "num_channels", "patch_size", "projection_dim", "projector_hidden_act", "text_config",
    "vision_aspect_ratio", "vision_config", "vision_feature_layer", "vision_feature_select_strategy",
}  # fmt: skip
HARMLESS = {
    # Older spellings, which transformers translates into fields above.
    "rope_scaling", "rope_theta", "text_config_dict", "vision_config_dict",
    # Videos, which are not read.
    "video_token_id", "video_token_index",
    # SigLIP's pooling head, which no picture in a LLaVA passes.
    "vision_use_head",
    # Names, versions and types of numbers; the weights tell which head a model has.
    "_attn_implementation_autoset", "_commit_hash", "_name_or_path", "architectures", "dtype", "is_llama_config",
    "tokenizer_class", "torch_dtype", "transformers.js_config", "transformers_version",
    # Training: dropout, first values, losses and their labels.
    "attention_dropout", "dropout", "embd_pdrop", "finetuning_task", "id2label", "ignore_index", "initializer_factor",
    "initializer_range", "label2id", "logit_scale_init_value", "num_labels", "problem_type", "resid_pdrop",
    "task_specific_params",
    # How transformers runs a model and what it gives back, with the same numbers in it.
    "chunk_size_feed_forward", "image_seq_length", "output_attentions", "output_hidden_states", "output_scores",
    "pretraining_tp", "return_dict", "return_dict_in_generate", "torchscript", "use_bfloat16", "use_cache",
    # How transformers' `generate` goes on from the logits, which its callers choose here.
    "bad_words_ids", "begin_suppress_tokens", "decoder_start_token_id", "diversity_penalty", "do_sample",
    "early_stopping", "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "forced_bos_token_id",
    "forced_eos_token_id", "length_penalty", "max_length", "min_length", "no_repeat_ngram_size", "num_beam_groups",
    "num_beams", "num_return_sequences", "prefix", "remove_invalid_values", "repetition_penalty", "sep_token_id",
    "suppress_tokens", "temperature", "top_k", "top_p", "typical_p",
}  # fmt: skip
# The only values of which the models here are right; without the field, the first.
FIXED: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False, None),
    "cross_attention_hidden_size": (None,),
    "is_decoder": (False, None),
    "is_encoder_decoder": (False, None),
    "partial_rotary_factor": (1.0, None),
    "pruned_heads": ({}, None),
    "rope_interleaved": (False, None),
    "tf_legacy_loss": (False, None),
    "tie_encoder_decoder": (False, None),
    "use_image_newline_parameter": (True,),
}


def only(where: str, found: Any, expected: Any, name: str) -> None:
    """Raises UserError for a value of the field `name` that is not computed."""
    if found != expected:
        raise UserError(f"{where}: {name} is {found!r}, expected {expected!r}; nothing else is supported")


def check(
    where: str,
    raw: dict[str, Any],
    cls: type,
    also: set[str] = frozenset(),  # pyrefly: ignore
    fixed: dict[str, tuple[Any, ...]] | None = None,
) -> None:
    """Raises UserError naming the first field that is not understood, or has a value that is not computed.

    raw: a file's fields; cls: of transformers, which has parsed them; also: further fields that are known; fixed:
    further ones with the only values that they may have.
    """
    fixed = {name: values for name, values in (FIXED | (fixed or {})).items() if name not in also}
    for name in sorted(raw.keys() & fixed.keys()):
        if raw[name] not in fixed[name]:
            raise UserError(f"{where}: {name} is {raw[name]!r}, expected {fixed[name][0]!r}; nothing else is supported")
    own = {field.name for field in dataclasses.fields(cls)} | set(getattr(cls, "attribute_map", {})) | {"model_type"}
    if unknown := sorted(raw.keys() - (own & USED) - HARMLESS - also - fixed.keys()):
        raise UserError(f"{where}: unknown field {', '.join(unknown)}; what it means for the model is not known here")
