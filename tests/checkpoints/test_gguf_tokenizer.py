"""Tokenizers of GGUF files against llama.cpp, for which they are written, and against what the models came with:
sentencepiece, tokenizers, transformers.

With llama-cpp-python installed, llama.cpp itself is asked about any text; without, its ids are read from a file.
`pytest -m slow tests/checkpoints` adds the real SmolLM2.
"""

import importlib.util
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers
import transformers
from gguf_support import ABC, FILES, IDS, MARKS, PIECES, TEMPLATE, TEXTS, literals, write
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from packaging.version import Version
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers.convert_slow_tokenizer import TikTokenConverter
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

import tga_jax
from tga_jax.checkpoints import gguf as gguf_file
from tga_jax.checkpoints import hub

pytest.importorskip("gguf")
sentencepiece = pytest.importorskip("sentencepiece")
ModelProto = pytest.importorskip("sentencepiece.sentencepiece_model_pb2").ModelProto
ALPHABET = st.sampled_from([*"aeést'TLVM ▁\n\r\t0123,.-/!_é日😀\u0301\x04ΣǅʰÉ½\xa0", "  ", "the ", "\n\n"])
WORDS = st.lists(ALPHABET, max_size=30).map("".join)
# Characters that Python's tables have, as llama.cpp's then have too.
TEXT = WORDS | st.text(st.characters(exclude_categories=("Cn", "Cs")), max_size=40)
MARKED_TEXT = st.lists(ALPHABET | st.sampled_from(MARKS), max_size=20).map("".join)
CORPUS = [
    *TEXTS,
    *(line for path in sorted(Path(__file__).parent.glob("*.py")) for line in path.read_text().split("\n")),
    *(str(n**3) for n in range(100, 1000)),
    *["SELF SELF SELF HIM'SELF", "a/\n b*//\n/\n\n"] * 100,
]
CONTROL, USER_DEFINED, UNUSED, NORMAL = 3, 4, 5, 1


@pytest.fixture(scope="module", name="file", params=FILES)
def fixture_file(request, tmp_path_factory):
    """(name, file, ours)"""
    file = write(tmp_path_factory.mktemp("file") / "a.gguf", FILES[request.param]())
    return request.param, file, gguf_file.tokenizer(file)


def test_ids_are_llama_cpp_s(file):
    name, _, ours = file
    for text, ids in zip(TEXTS, literals(name), strict=True):
        assert ours.encode(text) == ids, text


def test_every_rule_gives_other_ids():
    """So that the texts and vocabularies tell the rules apart."""
    assert len({str(literals(name)) for name in FILES}) == len(FILES)


@pytest.fixture(scope="module", name="llama_cpp")
def fixture_llama_cpp(file):
    """The file read by llama.cpp."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="`pip install llama-cpp-python`, which compiles it")
    return llama_cpp.Llama(str(file[1]), vocab_only=True, verbose=False)


@pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason="`pip install llama-cpp-python` adds it")
@given(text=TEXT | MARKED_TEXT)
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_ids_of_any_text_are_llama_cpp_s(file, llama_cpp, text):
    assert file[2].encode(text) == llama_cpp.tokenize(text.encode(), add_bos=True, special=True)


def sentencepiece_model(prefix: bool) -> bytes:
    """As Llama's: BPE, bytes for what is unknown, digits alone, no normalization."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=model, model_type="bpe", vocab_size=900, byte_fallback=True,
        split_digits=True, allow_whitespace_only_pieces=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, add_dummy_prefix=prefix, character_coverage=0.99, minloglevel=2,
        user_defined_symbols=["<image>"], control_symbols=["<|im_start|>", "<|im_end|>"],
    )  # fmt: skip
    return model.getvalue()


def sentencepiece_fields(model: bytes, prefix: bool) -> dict:
    """As llama.cpp's conversion writes them."""
    pieces = ModelProto.FromString(model).pieces
    return {
        "ggml.model": "llama",
        "ggml.pre": "default",
        "ggml.tokens": [piece.piece for piece in pieces],
        "ggml.scores": [piece.score for piece in pieces],
        "ggml.token_type": [piece.type for piece in pieces],
        "ggml.bos_token_id": 1,
        "ggml.eos_token_id": 2,
        "ggml.unknown_token_id": 0,
        "ggml.add_space_prefix": None if prefix else False,
        "chat_template": TEMPLATE,
    }


@pytest.fixture(scope="module", name="pieces", params=[True, False], ids=["prefix", "no-prefix"])
def fixture_pieces(request, tmp_path_factory):
    """(file, ours, sentencepiece, prefix)"""
    model = sentencepiece_model(request.param)
    file = write(tmp_path_factory.mktemp("pieces") / "a.gguf", sentencepiece_fields(model, request.param))
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return file, gguf_file.tokenizer(file), processor, request.param


def unmarked(text: str) -> bool:
    """Without what is a token of its own here, and text to sentencepiece."""
    return not any(token in text for token in MARKS)


def test_sentencepiece_ids_are_sentencepiece_s(pieces):
    _, ours, processor, prefix = pieces
    for text in filter(unmarked, TEXTS):
        ids = ours.encode(text, add_special_tokens=False)
        assert ids == processor.Encode(text), text
        assert ours.encode(text) == [1, *ids]
    # Between special tokens every text is one of its own.
    parts = [1, *processor.Encode("a"), 4, *processor.Encode(" b"), 5, *processor.Encode("c ")]
    assert ours.encode("a<|im_end|> b<image>c ") == [i if i not in (4, 5) else ours.convert_tokens_to_ids(
        {4: "<|im_end|>", 5: "<image>"}[i]) for i in parts]  # fmt: skip
    assert ours.decode(ours.encode("  a b")) == "<s>   a b" if prefix else "<s>  a b"
    assert len(ours) == len(processor)
    assert ours.special_tokens_map == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    assert ours.decode(ours.encode("<|im_end|>a<image>"), skip_special_tokens=True).strip() == "a<image>"


@given(text=TEXT.filter(unmarked))
@settings(max_examples=300)
def test_sentencepiece_ids_of_any_text(pieces, text):
    _, ours, processor, _ = pieces
    ids = ours.encode(text, add_special_tokens=False)
    assert ids == processor.Encode(text)
    assert ours.decode(ids) == text.replace("▁", " ")


def byte_level(pre_tokenizer, ignore_merges=False) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizer, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([tokenizers.AddedToken("<image>", normalized=False)])
    state = json.loads(tokenizer.to_str())
    # Llama-3 has tokens that no merges lead to, such as these.
    state["model"]["merges"] = state["model"]["merges"][:-200]
    state["model"]["ignore_merges"] = ignore_merges
    return tokenizers.Tokenizer.from_str(json.dumps(state))


def byte_level_fields(tokenizer: tokenizers.Tokenizer, pre: str, rows: int) -> dict:
    """As llama.cpp's conversion writes them, with as many rows as the model's table has."""
    state, vocab = json.loads(tokenizer.to_str()), tokenizer.get_vocab()
    special = {token["id"]: CONTROL if token["special"] else USER_DEFINED for token in state["added_tokens"]}
    names = {i: token for token, i in vocab.items()}
    types = [special.get(i, NORMAL if i in names else UNUSED) for i in range(rows)]
    return {
        "ggml.model": "gpt2",
        "ggml.pre": pre,
        "ggml.tokens": [names.get(i, f"[PAD{i}]") for i in range(rows)],
        "ggml.token_type": types,
        "ggml.merges": [" ".join(merge) for merge in state["model"]["merges"]],
        "ggml.bos_token_id": 0,
        "ggml.eos_token_id": 2,
        "ggml.padding_token_id": 0,
        "chat_template": TEMPLATE,
    }


def split(pattern: str):
    words = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


# As in the tokenizer.json of Mistral-Nemo.
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = TikTokenConverter(vocab_file=None).pattern
GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
# pre -> (the model's own tokenizer, whether it puts a begin token first)
BYTE_LEVEL = {
    "gpt-2": (lambda: byte_level(GPT2), False),
    "llama-bpe": (lambda: byte_level(split(LLAMA3), ignore_merges=True), True),
    "qwen2": (lambda: byte_level(split(PRETOKENIZE_REGEX)), False),  # without NFC, of which llama.cpp does not know
    "smollm": (lambda: byte_level(pre_tokenizers.Sequence([pre_tokenizers.Digits(True), GPT2])), False),
    "tekken": (lambda: byte_level(split(TEKKEN), ignore_merges=True), True),
}


@pytest.fixture(scope="module", name="bytes_", params=BYTE_LEVEL)
def fixture_bytes(request, tmp_path_factory):
    """(name of the pre-tokenizer, file, ours, the original, whether there is a begin token)"""
    build, begins = BYTE_LEVEL[request.param]
    original = build()
    family = "qwen2" if request.param == "qwen2" else "llama"
    fields = byte_level_fields(original, request.param, original.get_vocab_size() + 5)
    file = write(tmp_path_factory.mktemp("bytes") / "a.gguf", fields, family)
    return request.param, file, gguf_file.tokenizer(file), original, begins


def common(pre: str, text: str) -> bool:
    """Where llama.cpp gives the original's ids: `\'ſ` is no `\'s` there, and beyond ASCII letters have no case."""
    return "ſ" not in text and (pre != "tekken" or text.isascii())


def test_byte_level_ids_are_the_original_s(bytes_):
    pre, _, ours, original, begins = bytes_
    for text in TEXTS:
        ids = ours.encode(text, add_special_tokens=False)
        if common(pre, text):
            assert ids == original.encode(text).ids, text
        assert ours.encode(text) == [0] * begins + ids
        assert ours.decode(ids) == text
    assert ours.decode(ours.encode("<|im_end|>a<image>"), skip_special_tokens=True) == "a<image>"
    assert len(ours) == original.get_vocab_size() + 5
    assert (ours.bos_token_id, ours.eos_token_id, ours.pad_token_id, ours.unk_token_id) == (0, 2, 0, None)
    messages = [{"role": "user", "content": "Hi"}]
    assert ours.apply_chat_template(messages, tokenize=False) == "<|im_start|>user\nHi<|im_end|>\n"


@given(text=TEXT | MARKED_TEXT | st.text(st.characters(codec="ascii")))
@settings(max_examples=100)
def test_byte_level_ids_of_any_text(bytes_, text):
    pre, _, ours, original, _ = bytes_
    assume(common(pre, text))
    assert ours.encode(text, add_special_tokens=False) == original.encode(text).ids


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.24"), reason="older ones read these files as other tokenizers"
)
def test_as_transformers_reads_the_file(bytes_):
    """transformers takes every other `pre` for GPT-2's, and builds from merges what is a token."""
    pre, file, ours, _, _ = bytes_
    theirs = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    if pre == "gpt-2":
        for text in TEXTS:
            assert ours.encode(text) == theirs.encode(text), text
    for name in ("bos", "eos", "pad", "unk"):
        assert getattr(ours, f"{name}_token_id") == getattr(theirs, f"{name}_token_id")
    assert ours.chat_template == theirs.chat_template
    assert ours.padding_side == theirs.padding_side
    assert ours.added_tokens_decoder == theirs.added_tokens_decoder


def test_saved_and_exported_it_stays_the_same(file, tmp_path):
    name, path, ours = file
    hub.import_hub(path, tmp_path / "ours", "float32")
    hub.export_hub(tmp_path / "ours", tmp_path / "hub")
    for again in (
        tga_jax.load(path).processor.tokenizer,
        tga_jax.load(tmp_path / "ours").processor.tokenizer,
        transformers.AutoTokenizer.from_pretrained(tmp_path / "hub"),
    ):
        for text, ids in zip(TEXTS, literals(name), strict=True):
            assert again.encode(text) == ids, text
            assert again.decode(ids) == ours.decode(ids)
        assert again.special_tokens_map == ours.special_tokens_map
        assert again.chat_template == TEMPLATE


def ids_of(folder: Path, fields: dict, text: str) -> list[int]:
    return gguf_file.tokenizer(write(folder / "a.gguf", fields)).encode(text)


@pytest.mark.parametrize(
    ("fields", "adds", "ids"),
    [
        (ABC | IDS, {}, [2, 2]),
        (ABC | IDS, {"ggml.add_bos_token": True}, [3, 2, 2]),
        (ABC | IDS, {"ggml.add_eos_token": True}, [2, 2, 4]),
        (ABC | IDS | {"ggml.pre": "llama-bpe"}, {}, [3, 2, 2]),
        (ABC | IDS | {"ggml.pre": "llama-bpe"}, {"ggml.add_bos_token": False, "ggml.add_eos_token": True}, [2, 2, 4]),
        (ABC | {"ggml.token_type": None}, {}, [2, 2]),
        (
            ABC,
            {"ggml.merges": ["a b", "b a", "a b"], "ggml.tokens": ["a", "b", "ab", "ba"], "ggml.token_type": None},
            [2, 2],
        ),
        (PIECES, {}, [1, 5, 5]),
        (PIECES, {"ggml.add_bos_token": False, "ggml.add_eos_token": True}, [5, 5, 2]),
        (PIECES, {"ggml.bos_token_id": 2}, [2, 5, 5]),
        (PIECES, {"ggml.scores": [0.0, 0.0, 0.0, 0.0, 0.0, -2.0, -1.0]}, [1, 3, 6, 4]),
        (PIECES, {"ggml.token_type": [2, 3, 3, 1, 1, 6, 5]}, [1, 5, 5]),  # bytes and unused ones are words too
        (PIECES, {"ggml.token_type": [2, 3, 3, 1, 1, 3, 1]}, [1, 5, 5]),  # cut out
        (PIECES, {"ggml.merges": ["b a", "a b"]}, [1, 5, 5]),  # scores alone count
    ],
)
def test_merges_begin_and_end(tmp_path, fields, adds, ids):
    """As llama.cpp gives them."""
    assert ids_of(tmp_path, fields | adds, "abab") == ids


@pytest.mark.parametrize(
    ("tokens", "text", "ids"),
    [
        (["<|im_end|>", "<fim_prefix>"], "a<|im_end|>b<fim_prefix>", [0, 3, 1, 4]),  # known by name
        (["", "</s>"], "ab</s>", [2, 4]),
        (["x", "abx"], "ab\x04ab", [2, 2]),
    ],
)
def test_tokens_of_any_type(tmp_path, tokens, text, ids):
    """As llama.cpp gives them."""
    fields = ABC | {"ggml.tokens": ["a", "b", "ab", *tokens], "ggml.token_type": None}
    assert ids_of(tmp_path, fields, text) == ids


def test_a_byte_without_a_token_keeps_its_neighbours_apart(tmp_path):
    signs = {"ggml.tokens": ["!", "!!", "<s>", "</s>"], "ggml.merges": ["! !"], "ggml.token_type": [1, 1, 3, 3]}
    assert ids_of(tmp_path, ABC | signs, "!!\x04!!!\x04!") == [1, 1, 0, 0]  # llama.cpp's


def test_unknown_characters_without_byte_tokens(tmp_path):
    assert ids_of(tmp_path, PIECES, "aéßb") == [1, 3, 0, 4]  # sentencepiece's; llama.cpp ends there


def test_where_an_answer_ends(tmp_path):
    """At all that llama.cpp calls an end of generation: by field and by name."""
    named = {"ggml.tokens": ["a", "b", "ab", "<s>", "</s>", "<|eot_id|>", "<|file_sep|>", "<x>"]}
    fields = ABC | IDS | named | {"ggml.token_type": [1, 1, 1, 3, 3, 3, 3, 3], "ggml.eom_token_id": 7}
    assert tga_jax.load(write(tmp_path / "a.gguf", fields)).processor.stop_ids == (4, 5, 6, 7)
    hub.import_hub(tmp_path / "a.gguf", tmp_path / "ours", "float32")
    hub.export_hub(tmp_path / "ours", tmp_path / "hub")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "hub")
    assert config.eos_token_id == [4, 5, 6, 7]


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["accelerate"] = None
from pathlib import Path
import tga_jax
from tga_jax.checkpoints import hub
source, folder = map(Path, sys.argv[1:])
hub.import_hub(source, folder, "float32")
for model in (tga_jax.load(folder), tga_jax.load(source, dtype="float32")):
    print(model.processor.tokenizer.encode("abab"))
    print(model.generate(["ab"], new_tokens=3))
"""


@pytest.mark.slow  # smoke.py has no torch either
def test_without_torch(tmp_path):
    command = [sys.executable, "-c", WITHOUT_TORCH, write(tmp_path / "a.gguf", PIECES), tmp_path / "ours"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    assert done.returncode == 0, done.stderr
    ids, answer, *again = done.stdout.splitlines()[-4:]  # older transformers print an empty line first
    assert ids == "[1, 5, 5]"
    assert again == [ids, answer]
