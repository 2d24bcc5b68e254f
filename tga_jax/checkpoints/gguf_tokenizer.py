"""The tokenizer that the metadata of a GGUF file describes, as a tokenizer of transformers.

The rules are llama.cpp's (src/llama-vocab.cpp, src/unicode.cpp), the software that these files are written for: a text
gets the ids that `llama_tokenize` gives it with special tokens parsed. The tokenizer that the model has on the hub may
differ from it in rare texts: Qwen2's composes characters (NFC), Tekken's counts combining marks as letters. Characters
that Unicode 16 added are letters and numbers here, and signs in llama.cpp, whose tables end before.
"""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from tga_jax.errors import UserError

_LONGEST = 512  # characters of a token; all ways to cut one are looked at
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4  # token types; the others are unused (5) and byte (6)
_SPECIAL = (_UNKNOWN, _CONTROL, _USER_DEFINED)  # cut out of a text before it is split into words


@dataclasses.dataclass(frozen=True)
class _Pre:
    """What a value of `tokenizer.ggml.pre` stands for: texts are split by every pattern in turn."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False  # a word that is a token needs no merges
    add_bos: bool = False  # where the file does not say


_END = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_SUFFIX = r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
_WORD, _SIGNS = rf"{_SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+", r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_UPPER, _LOWER = r"[\p{L}&&[^a-z]]", r"[\p{L}&&[^A-Z]]"  # outside ASCII, every letter is both
_TEKKEN = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (rf"{_WORD}|\p{{N}}{{1,3}}|{_SIGNS}|{_END}",)
_RULES = {
    "gpt-2 phi-2 mpt olmo jais gigachat a.x-4.0 mellum exaone4 trillion granite-docling": _Pre((_GPT2,)),
    "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2": _Pre((r"\p{N}", _GPT2)),
    "llama-bpe llama-v3 llama3 falcon3 falcon-h1 pixtral midm-2.0 lfm2": _Pre(_LLAMA3, True, True),
    "dbrx smaug-bpe chatglm-bpe": _Pre(_LLAMA3),
    "glm4 glm5": _Pre(_LLAMA3, True),
    "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2": _Pre(
        (rf"{_WORD}|\p{{N}}|{_SIGNS}|{_END}",)
    ),
    "tekken": _Pre((rf"{_TEKKEN}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_END}",), True, True),
}
# Without "default", llama.cpp's stopgap for a tokenizer that it does not know: no model was trained with it.
_PRE = {name: rule for names, rule in _RULES.items() for name in names.split()}

# Tokens that llama.cpp knows by name, whatever type the file gives them: those that end an answer, and further ones.
_ENDS = [
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
    "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<end_of_utterance>",
    "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~[",
]  # fmt: skip
# What llama.cpp looks for to fill texts in: these end an answer, the others only are control tokens.
_FILL_ENDS = [
    "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]", "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>",
    "<reponame>", "<|file_sep|>",
]  # fmt: skip
_FILL = [
    "<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>",
    "<|prefix|>", "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>",
    "<|code_suffix|>", "<|suffix|>", "<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>",
    "▁<MID>", "<|code_middle|>", "<|middle|>",
]  # fmt: skip
_TYPES: dict[str, int] = dict.fromkeys((*_ENDS, *_FILL_ENDS, *_FILL), _CONTROL)
_TYPES |= dict.fromkeys(("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"), _USER_DEFINED)
_END_FIELDS = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")

# Of `tokenizer.ggml.`: what is read, and what llama.cpp does not read for these two kinds of tokenizer.
_USED = {
    "add_bos_token", "add_eos_token", "add_space_prefix", "merges", "model", "pre", "scores", "token_type", "tokens",
    *(f"{name}_token_id" for name in ("bos", "unknown", "padding", *_END_FIELDS)),
}  # fmt: skip
_HARMLESS = {
    "add_sep_token", "cls_token_id", "mask_token_id", "normalizer.lowercase", "normalizer.strip_accents",
    "precompiled_charsmap", "remove_extra_whitespaces", "seperator_token_id", "token_type_count",
    *(f"{name}_token_id" for name in ("fim_pre", "fim_suf", "fim_mid", "prefix", "suffix", "middle")),
}  # fmt: skip


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
    return list(dict.fromkeys(merges))  # the first of two counts


def _merges_by_score(fields: _Fields, vocab: dict[str, int], types: list[int]) -> list[tuple[str, str]]:
    """Every way to put a token together from two others, in the order in which llama.cpp does it: by score."""
    scores = fields.of_each_token(len(vocab), "scores", list[float])
    ranked, made = [], {}
    for token, i in vocab.items():
        if types[i] in (_CONTROL, _UNKNOWN):
            continue
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocab and right in vocab:
                ranked.append((-scores[i], i, vocab[left], vocab[right], left, right))
                other = made.setdefault(scores[i], token)
                if other != token:  # then the one further left comes first, which ranks cannot express
                    raise fields.wrong(
                        "scores", f"has {scores[i]:g} for both {other!r} and {token!r}", "different ones"
                    )
    return [merge[-2:] for merge in sorted(ranked)]


def _sentencepiece(fields: _Fields, vocab: dict[str, int], types: list[int], unknown: str) -> Tokenizer:
    merges = _merges_by_score(fields, vocab, types)
    prefix = fields.get("add_space_prefix", bool, True)
    tokenizer = Tokenizer(BPE(vocab, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    # Every text between special tokens gets a space in front, also one that has a space there.
    before = [normalizers.Prepend("▁")] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", "▁")])
    strip = [decoders.Strip(" ", left=1)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer


def _check_overlaps(fields: _Fields, special: Iterable[str]) -> None:
    """llama.cpp cuts the longest special token out of a text first, tokenizers the one furthest left."""
    starting: dict[str, set[str]] = {}
    for token in special:
        for end in range(1, len(token)):
            starting.setdefault(token[:end], set()).add(token)
    for token in special:
        for start in range(1, len(token)):
            for other in starting.get(token[start:], ()):
                if other != token and len(other.encode()) >= len(token.encode()) and len({*token, *other}) > 1:
                    raise fields.wrong("tokens", f"has {token!r} and {other!r}, which overlap", "other special tokens")


def _byte_level(fields: _Fields, vocab: dict[str, int], pre: _Pre) -> Tokenizer:
    tokenizer = Tokenizer(BPE(vocab, _stored_merges(fields, vocab), ignore_merges=pre.ignore_merges))
    words = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in pre.patterns]
    steps = [*words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    # A byte without a token is left out, but what stands on its two sides does not become one token.
    missing = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - vocab.keys())
    if missing:
        pattern = "[" + "".join(f"\\x{{{ord(c):X}}}" for c in missing) + "]"
        steps.append(pre_tokenizers.Split(Regex(pattern), "removed"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def stop_ids(read: Callable[..., Any]) -> list[int]:
    """The ids at which llama.cpp ends an answer, in order. read: as for `build`."""
    tokens = read("tokenizer.ggml.tokens", list[str])
    default = 2 if read("tokenizer.ggml.model", str) == "llama" else None
    found = {read(f"tokenizer.ggml.{name}_token_id", int, default if name == "eos" else None) for name in _END_FIELDS}
    return sorted({*(found - {None}), *(i for i, token in enumerate(tokens) if token in {*_ENDS, *_FILL_ENDS})})


def build(path: Path, read: Callable[..., Any], names: Iterable[str]) -> PreTrainedTokenizerFast:
    """path: for messages; read(name, kind[, default]): the value of a field, of the kind named, or UserError; names: of
    the file's fields.

    Raises UserError naming the file and the field for a tokenizer of another kind than those above, for a field of a
    tokenizer that is not known, and for fields that do not fit one another.
    """
    fields = _Fields(path, read)
    model = fields.get("model", str)
    if model not in ("gpt2", "llama"):
        raise fields.wrong("model", f"is {model!r}", "gpt2 or llama")
    for name in names:
        own = name.removeprefix("tokenizer.ggml.")
        if own != name and own not in _USED | _HARMLESS:
            raise UserError(f"{path}: {name} is not known here, expected one of {', '.join(sorted(_USED | _HARMLESS))}")
    if (about := read("general.name", str, "").lower()) and ("phi-3" in about or "phi3" in about):
        raise UserError(
            f"{path}: general.name is {about!r}, for which llama.cpp takes blanks after special tokens away"
        )
    is_sentencepiece = model == "llama"
    tokens = [token or f"[EMPTY_{i}]" for i, token in enumerate(fields.get("tokens", list[str]))]
    if long := [i for i, token in enumerate(tokens) if len(token) > _LONGEST]:
        raise fields.wrong(f"tokens[{long[0]}]", f"has {len(tokens[long[0]])} characters", f"at most {_LONGEST}")
    vocab = {token: i for i, token in enumerate(tokens)}
    if len(vocab) < len(tokens):
        twice = next(token for i, token in enumerate(tokens) if vocab[token] != i)
        raise fields.wrong("tokens", f"holds {twice!r} twice", "every token once")
    stored = fields.of_each_token(len(tokens), "token_type", list[int], [_NORMAL] * len(tokens))
    types: list[Any] = [_TYPES.get(token, type_) for token, type_ in zip(tokens, stored, strict=True)]
    special: dict[str, Any] = {}
    for name, default in (("bos", 1), ("eos", 2), ("unknown", 0), ("padding", None)):
        i = fields.get(f"{name}_token_id", int, default if is_sentencepiece else None)
        if i is not None and not 0 <= i < len(tokens):
            raise fields.wrong(f"{name}_token_id", f"is {i}", f"0 to {len(tokens) - 1}")
        if i is not None and types[i] not in _SPECIAL:  # transformers would look for it in texts, llama.cpp does not
            raise fields.wrong(f"{name}_token_id", f"is {i}, the word {tokens[i]!r}", "a token of a special type")
        special[name] = None if i is None else tokens[i]
    if is_sentencepiece:
        tokenizer, add_bos = _sentencepiece(fields, vocab, types, special["unknown"]), True
    else:
        name = fields.get("pre", str)
        if name not in _PRE:
            raise fields.wrong("pre", f"is {name!r}", f"one of {', '.join(_PRE)}")
        tokenizer, add_bos = _byte_level(fields, vocab, _PRE[name]), _PRE[name].add_bos
    cut_out = {token: type_ for token, type_ in zip(tokens, types, strict=True) if type_ in _SPECIAL}
    _check_overlaps(fields, cut_out)
    tokenizer.add_tokens(
        [AddedToken(token, special=type_ != _USER_DEFINED, normalized=False) for token, type_ in cut_out.items()]
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
