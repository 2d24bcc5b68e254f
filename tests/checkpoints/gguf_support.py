"""GGUF files as llama.cpp's conversion writes them, texts that are hard to tokenise, and llama.cpp's ids for them.

`llama_cpp.json` holds what `llama_tokenize` (llama-cpp-python 0.3.36) gives for TEXTS on the vocabularies made here and
on SmolLM2's. `pip install llama-cpp-python==0.3.36`, which compiles it, and `python tests/checkpoints/gguf_support.py
[SmolLM2-135M-Instruct.Q4_1.gguf]` write it anew.
"""

import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import pre_tokenizers

LITERALS = Path(__file__).parent / "llama_cpp.json"
MARKED = [
    "<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n",
    "a<|im_end|>b <|im_end|> c  <|im_end|>",
    "look: <image> and <image>here",
    "<|im_start|><|im_end|><image>",
    "<s> [INST] a12 [/INST] b </s><s> [INST]\n\nc</s>",
]
MARKS = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<image>")
TEXTS = [
    "",
    " ",
    "   ",
    "Hello world",
    " leading, trailing ",
    "  two  and   three    spaces",
    "a   12 b 3",
    "lines\n\nand\r\n\ttabs \n x",
    "\n\n \n  \n\n\n",
    "end\n \n",
    "It's we'll THEY'VE don't I'M 'quoted' it'ſ O'Re",
    "I'Many HIM'SELF we'Ll 'Tis a/\n b*//\n/\n\n",
    "0 12 345 6789 1234567890 3.14 ½ ٣٤ Ⅻ",
    "a1b22c333d4444 -5 +66 7% 1,000,000",
    "Ünïcödé: français, Čeština, Türkçe, tiếng Việt",
    "e\u0301 u\u0308 한국어 \u1112\u1161\u11ab A\u030a",  # decomposed
    "ÉCOLE éCOLE aÉb ΣΑΣ Straße ǅ ʰx ªº",
    "日本語のテキスト 中文文本，标点。 русский текст Ελληνικά",
    "हिन्दी में வணக்கம் ไทยภาษา العربية עברית",
    "😀👩‍👩‍👧‍👦🇫🇷 ✓ → ∑∫",
    "snake_case camelCase HTTPServer x=y*2; // a/b\n",
    "▁ literal▁underline ▁▁",
    "<0x41> <unk> </ s>",
    "\x00\x7f\u200b\ufeff\U0010ffff",
    "!\x04! a\x16a \x1c\x0b\x0c\x85\xa0\u2028\u3000.",
    *MARKED,
]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
# One name of every rule.
PRES = ("gpt-2", "smollm", "llama-bpe", "smaug-bpe", "glm4", "qwen2", "tekken")
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


def write(path: Path, fields: dict, family: str = "llama", extra: dict | None = None) -> Path:
    """A model of random weights with these `tokenizer.*` fields and, under their whole names, the extra ones."""
    import gguf

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


def _pairs(texts: list[str]) -> list[str]:
    """Every two neighbours of the texts, so that ids show where words are cut; then what two such pairs make up."""
    twos = dict.fromkeys(text[i : i + 2] for text in texts for i in range(len(text) - 1))
    fours = dict.fromkeys(text[i : i + 4] for text in texts for i in range(0, len(text) - 3, 3))
    return [*twos, *fours]


def byte_level_fields(pre: str) -> dict:
    """Every byte but 0x04 and 0x16, which SmolLM2's vocabulary lacks too, pairs, and words that no merges lead to."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    written = [word for text in TEXTS for word, _ in byte_level.pre_tokenize_str(text)]
    alphabet = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - {"Ą", "Ė"})
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "<image>"]
    words = [word for word in _pairs(written) if not set(word) & {"Ą", "Ė"} and word not in special]
    tokens = [*special, *dict.fromkeys([*alphabet, *words, "Hello", "Ġworld", "THEY", "Ġand", "camel"])]
    merges = [f"{word[: len(word) // 2]} {word[len(word) // 2 :]}" for word in words]
    types = [CONTROL] * 5 + [USER_DEFINED] + [NORMAL] * (len(tokens) - 6) + [UNUSED] * 2
    return {
        "ggml.model": "gpt2",
        "ggml.pre": pre,
        "ggml.tokens": [*tokens, "[PAD1]", "[PAD2]"],
        "ggml.token_type": types,
        "ggml.merges": merges,
        "ggml.bos_token_id": 0,
        "ggml.eos_token_id": 2,
        "ggml.padding_token_id": 0,
        "chat_template": TEMPLATE,
    }


def pieces_fields(prefix: bool) -> dict:
    """A sentencepiece vocabulary: bytes, letters without the Greek ones, pairs with falling scores, unused ones too."""
    spaced = [text.replace(" ", "▁") for text in TEXTS]
    letters = sorted({c for text in spaced for c in text if c.isprintable() and not "\u0370" <= c < "\u0400"})
    pieces = [word for word in _pairs(spaced) if set(word) <= set(letters) and word not in MARKS]
    scores = [0.0] * 262 + [-1.0 - i for i in range(len(pieces) + len(letters))]
    types = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [CONTROL, CONTROL, USER_DEFINED]
    types += [UNUSED if i % 7 == 0 else NORMAL for i in range(len(pieces))] + [NORMAL] * len(letters)
    head = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "<|im_start|>", "<|im_end|>", "<image>"]
    return {
        "ggml.model": "llama",
        "ggml.pre": "default",
        "ggml.tokens": [*head, *pieces, *letters],
        "ggml.scores": scores,
        "ggml.token_type": types,
        "ggml.bos_token_id": 1,
        "ggml.eos_token_id": 2,
        "ggml.unknown_token_id": 0,
        "ggml.add_space_prefix": None if prefix else False,
        "ggml.remove_extra_whitespaces": True,  # of no effect on this kind of tokenizer
        "chat_template": TEMPLATE,
    }


FILES = {pre: lambda pre=pre: byte_level_fields(pre) for pre in PRES}
FILES |= {"prefix": lambda: pieces_fields(True), "no-prefix": lambda: pieces_fields(False)}


def llama_cpp_ids(file: Path, texts: list[str]) -> list[list[int]]:
    """With begin and end tokens as the file wants them, special tokens parsed. Needs the package llama-cpp-python."""
    model: Any = importlib.import_module("llama_cpp").Llama(str(file), vocab_only=True, verbose=False)
    return [model.tokenize(text.encode(), add_bos=True, special=True) for text in texts]


def literals(name: str) -> list[list[int]]:
    """llama.cpp's ids of TEXTS; name: of FILES, or "smollm2"."""
    return json.loads(LITERALS.read_text())[name]


def _main() -> None:
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, fields in FILES.items():
            found[name] = llama_cpp_ids(write(Path(folder) / "a.gguf", fields()), TEXTS)
    for file in sys.argv[1:]:
        found["smollm2"] = llama_cpp_ids(Path(file), TEXTS)
    lines = [f'"{name}": [\n' + ",\n".join(json.dumps(ids) for ids in rows) + "\n]" for name, rows in found.items()]
    LITERALS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    _main()
