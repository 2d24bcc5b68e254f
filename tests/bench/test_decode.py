"""`tga bench decode`: what it counts, and its pairs with the peer."""

import json

import numpy as np
import pytest
import transformers

from tga_jax import cli
from tga_jax.bench import decode

HF = {"vocab_size": 101, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 6}
SMALL = ("--batch=2", "--prompt=5", "--new-tokens=7", "--repeats=3")


@pytest.fixture(name="folder", params=[True, pytest.param(False, marks=pytest.mark.slow)], ids=["tied", "untied"])
def fixture_folder(request, tmp_path):
    config = transformers.LlamaConfig(**HF, num_key_value_heads=2, tie_word_embeddings=request.param)
    model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(tmp_path / "hub")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=_words(), unk_token="<unk>", eos_token="<unk>")
    tokenizer.save_pretrained(tmp_path / "hub")
    return tmp_path / "hub", model


def _words():
    import tokenizers

    return tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))


def test_figures_and_pairs_with_the_peer(folder, tmp_path, capsys, processes_have_torch):
    path, model = folder
    target = tmp_path / "figures.json"
    assert cli.run(["bench", "decode", f"--checkpoint={path}", *SMALL, "--peer", f"--json={target}"]) == 0
    found = json.loads(target.read_text())
    # Every parameter is read for a token, but of an input table that is no output table a row.
    table = model.get_input_embeddings().weight
    counted = sum(p.numel() for p in model.parameters()) - (0 if model.config.tie_word_embeddings else table.numel())
    assert found["parameter_bytes"] == 4 * counted
    assert found["floor_tokens_per_second"] == pytest.approx(2 * found["read_bytes_per_second"] / (4 * counted))
    assert found["tokens_per_second"] == np.median(found["repeats"])
    assert found["share_of_floor"] == pytest.approx(found["tokens_per_second"] / found["floor_tokens_per_second"])
    assert len(found["repeats"]) == 3
    pairs = found["peer"]
    assert len(pairs["ratios"]) == 3
    assert pairs["ratios"] == [a / b for a, b in zip(pairs["ours"], pairs["theirs"], strict=True)]
    out = " ".join(capsys.readouterr().out.split())
    assert f"ratio {np.median(pairs['ratios']):.2f}, median of 3 pairs" in out


def test_a_peer_that_fails_is_one_line(folder, tmp_path, monkeypatch, capsys):
    path, _ = folder
    script = tmp_path / "peer.py"
    script.write_text("raise SystemExit('no torch here')")
    monkeypatch.setattr(decode, "_peer", lambda _, bench, real=decode._peer: real(script, bench))
    assert cli.run(["bench", "decode", f"--checkpoint={path}", *SMALL, "--peer"]) == 2
    assert capsys.readouterr().err.strip().endswith("peer.py: no torch here")


def test_made_up_weights_of_a_preset(capsys):
    assert cli.run(["bench", "decode", "--preset=llm-emoji", "--dtype=bf16", *SMALL]) == 0
    assert "llm-emoji, bfloat16, batch 2, cpu:" in " ".join(capsys.readouterr().out.split())
