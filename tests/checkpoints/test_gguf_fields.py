"""Fields of GGUF files: those that change the forward pass are used or refused by name."""

import pytest
from gguf_support import write

from tga_jax.checkpoints import gguf as gguf_file
from tga_jax.errors import UserError

gguf = pytest.importorskip("gguf")
TOKENS = {"ggml.model": "gpt2", "ggml.pre": "smollm", "ggml.tokens": ["a", "b", "c"]}


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("rope.scale_linear", 4.0, "expected 1.0"),
        ("rope.scaling.factor", 2.0, "expected 1.0"),
        ("attention.sliding_window", 3, "expected 0"),
        ("attention.causal", False, "expected True"),
        ("expert_count", 8, "expected 0"),
        ("attention.value_length", 8, "expected 4"),
        ("rope.dimension_count", 2, "expected 4"),
        ("logit_scale", 0.5, "not known here"),  # granite's and command-r's
        ("attention.clamp_kqv", 8.0, "not known here"),
    ],
)
def test_a_field_that_changes_the_model_is_refused_by_name(tmp_path, field, value, expected):
    file = write(tmp_path / "a.gguf", TOKENS, extra={f"llama.{field}": value})
    with pytest.raises(UserError, match=rf"a\.gguf: llama\.{field} is .*{expected}"):
        gguf_file.open_file(file)


@pytest.mark.parametrize(
    ("field", "value"),
    [("rope.scale_linear", 1.0), ("attention.sliding_window", 0), ("vocab_size", 3), ("attention.key_length", 4)],
)
def test_a_field_at_the_value_that_is_computed_is_accepted(tmp_path, field, value):
    plain, _ = gguf_file.open_file(write(tmp_path / "a.gguf", TOKENS))
    spec, _ = gguf_file.open_file(write(tmp_path / "b.gguf", TOKENS, extra={f"llama.{field}": value}))
    assert spec.llm == plain.llm


def test_the_width_of_a_head_is_read(tmp_path):
    """Of heads that together are wider than the model, as Mistral-Nemo's."""
    fields = {"llama.attention.key_length": 8, "llama.attention.value_length": 8, "llama.rope.dimension_count": 8}
    spec, _ = gguf_file.open_file(write(tmp_path / "a.gguf", TOKENS, extra=fields))
    assert spec.llm.head_dim == 8
