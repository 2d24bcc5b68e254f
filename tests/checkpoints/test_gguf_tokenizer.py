"""Tokenizers of GGUF files against the software that makes and reads them: sentencepiece, tokenizers, transformers.

`pytest -m slow tests/weights` adds the real SmolLM2.
"""

import io
import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from transformers.convert_slow_tokenizer import TikTokenConverter
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

import tga_jax
from tga_jax.checkpoints import gguf as gguf_file
from tga_jax.checkpoints import hub

gguf = pytest.importorskip("gguf")
sentencepiece = pytest.importorskip("sentencepiece")
ModelProto = pytest.importorskip("sentencepiece.sentencepiece_model_pb2").ModelProto
TEXTS = [
    "",
    " ",
    "   ",
    "Hello world",
    " leading, trailing ",
    "  two  and   three    spaces",
    "a   12 b 3",
    "lines\n\nand\r\n\ttabs \n x",
    "It's we'll THEY'VE don't I'M 'quoted'",
    "I'Many HIM'SELF we'Ll 'Tis a/\n b*//\n/\n\n",
    "0 12 345 6789 1234567890 3.14 ½ ٣٤ Ⅻ",
    "Ünïcödé: français, Čeština, Türkçe, tiếng Việt",
    "e\u0301 u\u0308 한국어 \u1112\u1161\u11ab A\u030a",  # decomposed
    "日本語のテキスト 中文文本，标点。 русский текст Ελληνικά",
    "हिन्दी में வணக்கம் ไทยภาษา العربية עברית",
    "😀👩‍👩‍👧‍👦🇫🇷 ✓ → ∑∫",
    "snake_case camelCase HTTPServer x=y*2; // a/b\n",
    "▁ literal▁underline ▁▁",
    "<0x41> <unk> </ s>",
    "\x00\x7f\u200b\ufeff\U0010ffff",
]
MARKED = [
    "<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n",
    "a<|im_end|>b <|im_end|> c  <|im_end|>",
    "look: <image> and <image>here",
    "<|im_start|><|im_end|><image>",
]
MARKS = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<image>")
WORDS = st.text(st.sampled_from(list("aeést'TLVM ▁\n\r\t0123,.-/!_é日😀\u0301")), max_size=40)
TEXT = WORDS | st.text(max_size=40)
CORPUS = [
    *TEXTS,
    *(line for path in sorted(Path(__file__).parent.glob("*.py")) for line in path.read_text().split("\n")),
    *(str(n**3) for n in range(100, 1000)),
    *["SELF SELF SELF HIM'SELF", "a/\n b*//\n/\n\n"] * 100,
]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5


def write(path: Path, fields: dict, family: str = "llama", extra: dict | None = None) -> Path:
    """A model of random weights with these `tokenizer.*` fields and, under their whole names, the extra ones."""
    writer = gguf.GGUFWriter(path, family)
    writer.add_block_count(1)
    writer.add_context_length(32)
    writer.add_embedding_length(8)
    writer.add_feed_forward_length(8)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    for name, value in fields.items():
        if value is not None:
            is_id = name.endswith("_id") and isinstance(value, int) and value >= 0
            kind = gguf.GGUFValueType.UINT32 if is_id else gguf.GGUFValueType.get_type(value)
            writer.add_key_value(f"tokenizer.{name}", value, kind)
    for name, value in (extra or {}).items():
        writer.add_key_value(name, value, gguf.GGUFValueType.get_type(value))
    rng = np.random.default_rng(0)
    projections = {f"blk.0.{n}.weight": (8, 8) for n in ("attn_q", "attn_k", "attn_v", "attn_output")}
    projections |= {f"blk.0.{n}.weight": (8, 8) for n in ("ffn_gate", "ffn_up", "ffn_down")}
    norms = {f"{n}.weight": (8,) for n in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm")}
    biases = {f"blk.0.{n}.bias": (8,) for n in ("attn_q", "attn_k", "attn_v")} if family == "qwen2" else {}
    tokens = fields["ggml.tokens"]
    table = {"token_embd.weight": (len(tokens) if isinstance(tokens, list) else 3, 8)}
    for name, shape in (table | projections | norms | biases).items():
        writer.add_tensor(name, rng.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


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
    """(file, ours, Llama's tokenizer of the same model by transformers, sentencepiece, prefix)"""
    folder, prefix = tmp_path_factory.mktemp("pieces"), request.param
    model = sentencepiece_model(prefix)
    (folder / "tokenizer.model").write_bytes(model)
    config = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True, "add_prefix_space": prefix}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    file = write(folder / "a.gguf", sentencepiece_fields(model, prefix))
    bare = ModelProto.FromString(model)
    bare.normalizer_spec.add_dummy_prefix = False
    processor = sentencepiece.SentencePieceProcessor(model_proto=bare.SerializeToString())
    return file, gguf_file.tokenizer(file), theirs, processor, prefix


def with_prefix(text: str, prefix: bool) -> str:
    """Hugging Face puts no second space in front of a text."""
    return f" {text}" if prefix and text and text[0] not in " ▁" else text


def test_sentencepiece_ids_are_sentencepiece_s(pieces):
    _, ours, theirs, processor, prefix = pieces
    for text in TEXTS:
        ids = ours.encode(text, add_special_tokens=False)
        if "<unk>" not in text:  # special to transformers
            assert ids == processor.Encode(with_prefix(text, prefix)), text
        assert ours.encode(text) == [1, *ids]
    for text in TEXTS + MARKED:
        ids = ours.encode(text)
        assert ids == theirs.encode(text), text
        for skip in (True, False):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
    assert len(ours) == len(processor)
    assert ours.special_tokens_map == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    assert ours.decode(ours.encode("<|im_end|>a<image>"), skip_special_tokens=True) == "a<image>"


@given(text=TEXT.filter(lambda text: not any(token in text for token in MARKS)))  # sentencepiece has no special tokens
@settings(max_examples=300)
def test_sentencepiece_ids_of_any_text(pieces, text):
    _, ours, _, processor, prefix = pieces
    ids = ours.encode(text, add_special_tokens=False)
    assert ids == processor.Encode(with_prefix(text, prefix))
    spaced = with_prefix(text, prefix).replace("▁", " ")
    assert ours.decode(ids) == (spaced.removeprefix(" ") if prefix else spaced)


def byte_level(pre_tokenizer, nfc=False, ignore_merges=False) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizer, decoders.ByteLevel()
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
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
    "llama-v3": (lambda: byte_level(split(LLAMA3), ignore_merges=True), True),
    "llama3": (lambda: byte_level(split(LLAMA3), ignore_merges=True), True),
    "qwen2": (lambda: byte_level(split(PRETOKENIZE_REGEX), nfc=True), False),
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


def test_byte_level_ids_are_the_original_s(bytes_):
    pre, _, ours, original, begins = bytes_
    for text in TEXTS + MARKED:
        ids = ours.encode(text, add_special_tokens=False)
        assert ids == original.encode(text).ids, text
        assert ours.encode(text) == [0] * begins + ids
        assert ours.decode(ids) == (unicodedata.normalize("NFC", text) if pre == "qwen2" else text)
    assert ours.decode(ours.encode("<|im_end|>a<image>"), skip_special_tokens=True) == "a<image>"
    assert len(ours) == original.get_vocab_size() + 5
    assert (ours.bos_token_id, ours.eos_token_id, ours.pad_token_id, ours.unk_token_id) == (0, 2, 0, None)
    messages = [{"role": "user", "content": "Hi"}]
    assert ours.apply_chat_template(messages, tokenize=False) == "<|im_start|>user\nHi<|im_end|>\n"


@given(text=TEXT)
@settings(max_examples=100)
def test_byte_level_ids_of_any_text(bytes_, text):
    _, _, ours, original, _ = bytes_
    assert ours.encode(text, add_special_tokens=False) == original.encode(text).ids


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.24"), reason="older ones read these files as other tokenizers"
)
def test_as_transformers_reads_the_file(bytes_):
    """transformers takes every other `pre` for GPT-2's, composes no text, and builds from merges what is a token."""
    pre, file, ours, _, _ = bytes_
    theirs = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    if pre == "gpt-2":
        for text in TEXTS + MARKED:
            assert ours.encode(text) == theirs.encode(text), text
    for name in ("bos", "eos", "pad", "unk"):
        assert getattr(ours, f"{name}_token_id") == getattr(theirs, f"{name}_token_id")
    assert ours.chat_template == theirs.chat_template
    assert ours.padding_side == theirs.padding_side
    assert ours.added_tokens_decoder == theirs.added_tokens_decoder


def test_saved_and_exported_it_stays_the_same(bytes_, tmp_path):
    _, file, ours, _, _ = bytes_
    hub.import_hub(file, tmp_path / "ours", "float32")
    hub.export_hub(tmp_path / "ours", tmp_path / "hub")
    for again in (
        tga_jax.load(file).processor.tokenizer,
        tga_jax.load(tmp_path / "ours").processor.tokenizer,
        transformers.AutoTokenizer.from_pretrained(tmp_path / "hub"),
    ):
        for text in TEXTS + MARKED:
            assert again.encode(text) == ours.encode(text), text
        assert again.special_tokens_map == ours.special_tokens_map
        assert again.chat_template == TEMPLATE


def test_saved_and_exported_pieces_stay_the_same(pieces, tmp_path):
    file, ours, theirs, _, _ = pieces
    hub.import_hub(file, tmp_path / "ours", "float32")
    hub.export_hub(tmp_path / "ours", tmp_path / "hub")
    for again in (tga_jax.load(tmp_path / "ours").processor.tokenizer,
                  transformers.AutoTokenizer.from_pretrained(tmp_path / "hub")):  # fmt: skip
        for text in TEXTS + MARKED:
            assert again.encode(text) == theirs.encode(text), text
            assert again.decode(again.encode(text)) == ours.decode(ours.encode(text))


ABC = {
    "ggml.model": "gpt2",
    "ggml.pre": "gpt-2",
    "ggml.tokens": ["a", "b", "ab", "<s>", "</s>"],
    "ggml.token_type": [1, 1, 1, 3, 3],
    "ggml.merges": ["a b"],
}
IDS = {"ggml.bos_token_id": 3, "ggml.eos_token_id": 4}
PIECES = {
    "ggml.model": "llama",
    "ggml.tokens": ["<unk>", "<s>", "</s>", "a", "b", "ab", "ba"],
    "ggml.token_type": [2, 3, 3, 1, 1, 1, 1],
    "ggml.scores": [0.0, 0.0, 0.0, 0.0, 0.0, -1.0, -2.0],
    "ggml.add_space_prefix": False,
}


@pytest.mark.parametrize(
    ("fields", "adds", "ids"),
    [
        (ABC | IDS, {}, [2, 2]),
        (ABC | IDS, {"ggml.add_bos_token": True}, [3, 2, 2]),
        (ABC | IDS, {"ggml.add_eos_token": True}, [2, 2, 4]),
        (ABC | IDS | {"ggml.pre": "llama-bpe"}, {}, [3, 2, 2]),
        (ABC | IDS | {"ggml.pre": "llama-bpe"}, {"ggml.add_bos_token": False, "ggml.add_eos_token": True}, [2, 2, 4]),
        (ABC | {"ggml.token_type": None}, {}, [2, 2]),
        (PIECES, {}, [1, 5, 5]),
        (PIECES, {"ggml.add_bos_token": False, "ggml.add_eos_token": True}, [5, 5, 2]),
        (PIECES, {"ggml.bos_token_id": 2}, [2, 5, 5]),
        (PIECES, {"ggml.scores": [0.0, 0.0, 0.0, 0.0, 0.0, -2.0, -1.0]}, [1, 3, 6, 4]),
        (PIECES, {"ggml.scores": [-1000.0] * 7}, [1, 5, 5]),  # the order of ids
        (PIECES, {"ggml.token_type": [2, 3, 3, 1, 1, 6, 1]}, [1, 3, 6, 4]),  # no merges make a byte token
        (PIECES, {"ggml.merges": ["b a", "a b"]}, [1, 3, 6, 4]),
        (PIECES, {"ggml.scores": None, "ggml.merges": ["a b"]}, [1, 5, 5]),
    ],
)
def test_merges_begin_and_end(tmp_path, fields, adds, ids):
    assert gguf_file.tokenizer(write(tmp_path / "a.gguf", fields | adds)).encode("abab") == ids


def test_unknown_characters_without_byte_tokens(tmp_path):
    assert gguf_file.tokenizer(write(tmp_path / "a.gguf", PIECES)).encode("aéßb") == [1, 3, 0, 4]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (ABC | {"ggml.model": "bert"}, "tokenizer.ggml.model is 'bert', expected gpt2 or llama"),
        (ABC | {"ggml.model": None}, "no field tokenizer.ggml.model"),
        (ABC | {"ggml.model": 3}, "tokenizer.ggml.model is 3, expected a string"),
        (ABC | {"ggml.pre": None}, "no field tokenizer.ggml.pre"),
        (ABC | {"ggml.pre": "default"}, "tokenizer.ggml.pre is 'default', expected one of gpt-2, llama-bpe, "),
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


def test_without_torch(tmp_path):
    command = [sys.executable, "-c", WITHOUT_TORCH, write(tmp_path / "a.gguf", PIECES), tmp_path / "ours"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    assert done.returncode == 0, done.stderr
    ids, answer, *again = done.stdout.splitlines()[-4:]  # older transformers print an empty line first
    assert ids == "[1, 5, 5]"
    assert again == [ids, answer]
