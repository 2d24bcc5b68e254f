"""A sentencepiece tokenizer of Llama's kind, trained on a few sentences."""

import json
from pathlib import Path

import sentencepiece
import transformers

SENTENCES = [
    "A chat between a curious user and an artificial intelligence assistant.",
    "The assistant gives helpful, detailed, and polite answers to the user's questions.",
    "You are a helpful language and vision assistant. <<SYS>> <</SYS>> [INST] [/INST]",
    "USER: What is in the picture? ASSISTANT: A cat sits on a red mat.",
    "The answer is a dog. Describe this image in detail. Retrieved Text: a mug on a desk.",
]


def llama_like(folder: Path, legacy: bool = True, chat_template: str | None = None):
    """420 words, byte fallback; legacy: as Vicuna's, which puts a blank after a special token."""
    sentencepiece.SentencePieceTrainer.train(  # pyright: ignore[reportAttributeAccessIssue]
        sentence_iterator=iter(SENTENCES * 20), model_prefix=str(folder / "tokenizer"), model_type="bpe",
        vocab_size=420, byte_fallback=True, split_digits=True, allow_whitespace_only_pieces=True,
        remove_extra_whitespaces=False, normalization_rule_name="identity", minloglevel=2,
    )  # fmt: skip
    fields = {"tokenizer_class": "LlamaTokenizer", "legacy": legacy, "add_bos_token": True}
    fields |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "chat_template": chat_template}
    (folder / "tokenizer_config.json").write_text(json.dumps(fields))
    return transformers.AutoTokenizer.from_pretrained(folder)
