"""Tokenizers in GGUF files that are refused, by the field."""

import pytest
from gguf_support import ABC, IDS, PIECES, write

import tga_jax
from tga_jax.checkpoints import gguf as gguf_file

pytest.importorskip("gguf")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (ABC | {"ggml.model": "bert"}, "tokenizer.ggml.model is 'bert', expected gpt2 or llama"),
        (ABC | {"ggml.model": None}, "no field tokenizer.ggml.model"),
        (ABC | {"ggml.model": 3}, "tokenizer.ggml.model is 3, expected a string"),
        (ABC | {"ggml.pre": None}, "no field tokenizer.ggml.pre"),
        (ABC | {"ggml.pre": "default"}, "tokenizer.ggml.pre is 'default', expected one of gpt-2, phi-2, "),
        (ABC | {"ggml.pre": ["gpt-2"]}, "tokenizer.ggml.pre is ['gpt-2'], expected a string"),
        (ABC | {"ggml.tokens": "ab"}, "tokenizer.ggml.tokens is 'ab', expected a list of strings"),
        (ABC | {"ggml.tokens": [1, 2]}, "tokenizer.ggml.tokens is [1, 2], expected a list of strings"),
        (ABC | {"ggml.tokens": [b"a", b"\xff"]}, "tokenizer.ggml.tokens is not UTF-8 ('utf-8' codec"),
        (ABC | {"ggml.tokens": ["a", "b", "ab", "a", "c"]}, "tokens holds 'a' twice, expected every token once"),
        (ABC | {"ggml.token_type": [1, 1]}, "token_type has 2 entries, expected 5, one for every token"),
        (ABC | {"ggml.token_type": 1}, "tokenizer.ggml.token_type is 1, expected a list of integers"),
        (ABC | {"ggml.merges": None}, "no field tokenizer.ggml.merges"),
        (ABC | {"ggml.merges": ["a b", "ab"]}, "merges[1] is 'ab', expected two tokens that make up a third"),
        (ABC | {"ggml.merges": ["b a"]}, "merges[0] is 'b a', expected two tokens that make up a third"),
        (ABC | {"ggml.merges": [1.5]}, "tokenizer.ggml.merges is [1.5], expected a list of strings"),
        (ABC | {"ggml.eos_token_id": 5}, "tokenizer.ggml.eos_token_id is 5, expected 0 to 4"),
        (ABC | {"ggml.bos_token_id": -1}, "tokenizer.ggml.bos_token_id is -1, expected 0 to 4"),
        (ABC | {"ggml.padding_token_id": [0]}, "tokenizer.ggml.padding_token_id is [0], expected an integer"),
        (ABC | {"ggml.unknown_token_id": "a"}, "tokenizer.ggml.unknown_token_id is 'a', expected an integer"),
        (ABC | {"ggml.add_bos_token": 1}, "tokenizer.ggml.add_bos_token is 1, expected true or false"),
        (ABC | {"ggml.add_eos_token": True}, "eos_token_id is not there, expected it, as every text is to have"),
        (ABC | {"ggml.pre": "llama-bpe"}, "bos_token_id is not there, expected it, as every text is to have"),
        (ABC | {"chat_template": 7}, "tokenizer.chat_template is 7, expected a string"),
        (ABC | {"chat_template": b"\xff"}, "tokenizer.chat_template is not UTF-8"),
        (
            ABC | IDS | {"ggml.padding_token_id": 0},
            "padding_token_id is 0, the word 'a', expected a token of a special",
        ),
        (ABC | IDS | {"ggml.eos_token_id": 1}, "eos_token_id is 1, the word 'b', expected a token of a special type"),
        (
            ABC | IDS | {"ggml.suppress_tokens": [1]},
            "tokenizer.ggml.suppress_tokens is not known here, expected one of",
        ),
        (
            ABC | {"ggml.tokens": ["a", "b", "ab", "ca", "aab"]},
            "tokens has 'ca' and 'aab', which overlap, expected other",
        ),
        (PIECES | {"ggml.scores": [-1000.0] * 7}, "scores has -1000 for both 'ab' and 'ba', expected different ones"),
        (PIECES | {"ggml.scores": None, "ggml.merges": ["a b"]}, "no field tokenizer.ggml.scores"),
        (PIECES | {"ggml.scores": None}, "no field tokenizer.ggml.scores"),
        (PIECES | {"ggml.scores": [0.5]}, "scores has 1 entries, expected 7, one for every token"),
        (PIECES | {"ggml.scores": ["x"]}, "tokenizer.ggml.scores is ['x'], expected a list of numbers"),
        (PIECES | {"ggml.add_space_prefix": "yes"}, "tokenizer.ggml.add_space_prefix is 'yes', expected true or false"),
        (PIECES | {"ggml.tokens": ["a"], "ggml.token_type": [1]}, "bos_token_id is 1, expected 0 to 0"),
    ],
)
def test_refused(tmp_path, fields, message):
    file = write(tmp_path / "a.gguf", fields)
    with pytest.raises(tga_jax.UserError) as raised:
        gguf_file.tokenizer(file)
    assert str(raised.value).startswith(f"{file}: ")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_model_fields_of_another_kind(tmp_path):
    for fields, message in (
        ({"ggml.bos_token_id": [1]}, r"tokenizer\.ggml\.bos_token_id is \[1\], expected an integer"),
        ({"ggml.tokens": [b"\xff"]}, r"tokenizer\.ggml\.tokens is not UTF-8"),
    ):
        with pytest.raises(tga_jax.UserError, match=message):
            gguf_file.open_file(write(tmp_path / "a.gguf", ABC | fields))
    whole = write(tmp_path / "a.gguf", ABC).read_bytes()
    (tmp_path / "a.gguf").write_bytes(whole[:200])
    with pytest.raises(tga_jax.UserError, match=r"a\.gguf: not a whole GGUF file"):
        gguf_file.tokenizer(tmp_path / "a.gguf")


def test_what_llama_cpp_does_by_the_name_of_a_model(tmp_path):
    file = write(tmp_path / "a.gguf", ABC | IDS, extra={"general.name": "My Phi-3 mini"})
    with pytest.raises(tga_jax.UserError, match=r"general\.name is 'my phi-3 mini'"):
        gguf_file.tokenizer(file)


def test_runs_of_one_character_do_not_overlap(tmp_path):
    """The longest of them is also the one furthest left."""
    fields = {"ggml.tokens": ["a", "b", "ab", "  ", "   "], "ggml.token_type": [1, 1, 1, 4, 4]}
    assert gguf_file.tokenizer(write(tmp_path / "a.gguf", ABC | fields)).encode("a     b  ") == [0, 4, 3, 1, 3]
