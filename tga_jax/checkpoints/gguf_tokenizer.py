"""The tokenizer that the metadata of a GGUF file describes, as a tokenizer of transformers.

ggml's docs/gguf.md documents the fields; llama.cpp's src/llama-vocab.cpp says what the name of a pre-tokenizer stands
for. The ids are those of the model's own tokenizer on the hub.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from tga_jax.errors import UserError

_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4  # token types; the others are unknown (2), unused (5) and byte (6)


@dataclasses.dataclass(frozen=True)
class _Pre:
    """What a value of `tokenizer.ggml.pre` stands for."""

    pre_tokenizer: pre_tokenizers.PreTokenizer
    nfc: bool = False
    ignore_merges: bool = False  # a word that is a token needs no merges
    add_bos: bool = False  # where the file does not say


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level])


_END = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD, _SIGNS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+", r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN_WORD = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
_GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
_LLAMA3 = _Pre(_split(rf"{_WORD}|\p{{N}}{{1,3}}|{_SIGNS}|{_END}"), ignore_merges=True, add_bos=True)
# Without "default", llama.cpp's stopgap for a tokenizer that it does not know: no model was trained with it.
_PRE = {
    "gpt-2": _Pre(_GPT2),
    "llama-bpe": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama3": _LLAMA3,
    "qwen2": _Pre(_split(rf"{_WORD}|\p{{N}}|{_SIGNS}|{_END}"), nfc=True),
    "smollm": _Pre(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _GPT2])),
    "tekken": _Pre(
        _split(rf"{_TEKKEN_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_END}"), ignore_merges=True, add_bos=True
    ),
}


@dataclasses.dataclass(frozen=True)
class _Fields:
    """The fields `tokenizer.ggml.*` of a file."""

    path: Path
    read: Callable[..., Any]

    def get(self, name: str, *how: Any) -> Any:
        return self.read(f"tokenizer.ggml.{name}", *how)

    def of_each_token(self, count: int, name: str, *how: Any) -> list[Any]:
        values = self.get(name, *how)
        if len(values) != count:
            raise self.wrong(name, f"has {len(values)} entries", f"{count}, one for every token")
        return values

    def wrong(self, name: str, what: str, expected: str) -> UserError:
        return UserError(f"{self.path}: tokenizer.ggml.{name} {what}, expected {expected}")


def _stored_merges(fields: _Fields, vocab: dict[str, int]) -> list[tuple[str, str]]:
    merges = []
    for i, merge in enumerate(fields.get("merges", list[str])):
        left, _, right = merge.partition(" ")
        if not {left, right, left + right} <= vocab.keys():
            raise fields.wrong(f"merges[{i}]", f"is {merge!r}", "two tokens that make up a third")
        merges.append((left, right))
    return merges


def _merges_by_score(vocab: dict[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """Every way to put a token together from two others, in the order in which sentencepiece does it: by score."""
    ranked = []
    for token, i in vocab.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocab and right in vocab:
                ranked.append((-scores[i], i, vocab[left], vocab[right], left, right))
    return [merge[-2:] for merge in sorted(ranked)]


def _sentencepiece(fields: _Fields, vocab: dict[str, int], types: list[int], unknown: str) -> Tokenizer:
    if fields.get("merges", list[str], None) is not None:
        merges = _stored_merges(fields, vocab)
    else:
        normal = {token: i for token, i in vocab.items() if types[i] == _NORMAL}
        merges = _merges_by_score(normal, fields.of_each_token(len(vocab), "scores", list[float]))
    prefix = fields.get("add_space_prefix", bool, True)
    tokenizer = Tokenizer(BPE(vocab, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    # transformers' LlamaTokenizer, unless "legacy": a text that has no space in front gets one, but not the text after
    # a special token. sentencepiece puts one in front of a space too.
    scheme = "first" if prefix else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme=scheme, split=False)
    strip = [decoders.Strip(" ", left=1)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer


def _byte_level(fields: _Fields, vocab: dict[str, int], pre: _Pre) -> Tokenizer:
    tokenizer = Tokenizer(BPE(vocab, _stored_merges(fields, vocab), ignore_merges=pre.ignore_merges))
    if pre.nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre.pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def build(path: Path, read: Callable[..., Any]) -> PreTrainedTokenizerFast:
    """path: for messages; read(name, kind[, default]): the value of a field, of the kind named, or UserError.

    Raises UserError naming the file and the field for a tokenizer of another kind than those above, and for fields that
    do not fit one another.
    """
    fields = _Fields(path, read)
    model = fields.get("model", str)
    if model not in ("gpt2", "llama"):
        raise fields.wrong("model", f"is {model!r}", "gpt2 or llama")
    is_sentencepiece = model == "llama"
    tokens = fields.get("tokens", list[str])
    vocab = {token: i for i, token in enumerate(tokens)}
    if len(vocab) < len(tokens):
        twice = next(token for i, token in enumerate(tokens) if vocab[token] != i)
        raise fields.wrong("tokens", f"holds {twice!r} twice", "every token once")
    types = fields.of_each_token(len(tokens), "token_type", list[int], [_NORMAL] * len(tokens))
    special = {}
    for name, default in (("bos", 1), ("eos", 2), ("unknown", 0), ("padding", None)):
        i = fields.get(f"{name}_token_id", int, default if is_sentencepiece else None)
        if i is not None and not 0 <= i < len(tokens):
            raise fields.wrong(f"{name}_token_id", f"is {i}", f"0 to {len(tokens) - 1}")
        special[name] = None if i is None else tokens[i]
    if is_sentencepiece:
        tokenizer, add_bos = _sentencepiece(fields, vocab, types, special["unknown"]), True
    else:
        name = fields.get("pre", str)
        if name not in _PRE:
            raise fields.wrong("pre", f"is {name!r}", f"one of {', '.join(_PRE)}")
        tokenizer, add_bos = _byte_level(fields, vocab, _PRE[name]), _PRE[name].add_bos
    tokenizer.add_tokens(
        [
            AddedToken(token, special=type_ == _CONTROL, normalized=False)
            for token, type_ in zip(tokens, types, strict=True)
            if type_ in (_CONTROL, _USER_DEFINED)
        ]
    )
    adds = {}
    for name, default in (("bos", add_bos), ("eos", False)):
        adds[name] = fields.get(f"add_{name}_token", bool, default)
        if adds[name] and special[name] is None:
            raise fields.wrong(f"{name}_token_id", "is not there", f"it, as every text is to have the {name} token")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=special["bos"],
        eos_token=special["eos"],
        unk_token=special["unknown"],
        pad_token=special["padding"],
        add_bos_token=adds["bos"],
        add_eos_token=adds["eos"],
        chat_template=read("tokenizer.chat_template", str, None),
    )
