"""Checkpoints from strangers: they run no code, name no files elsewhere, and their sizes are checked before memory is
taken for them."""

import ast
import json
import struct
import sys
from pathlib import Path

import gguf_support
import numpy as np
import pytest
import twins

import tga_jax
from tga_jax.checkpoints import convert, gguf, hub_config, spec
from tga_jax.checkpoints.folder import Tensor, tensors
from tga_jax.data.processor import load_tokenizer
from tga_jax.errors import UserError

SOURCE = Path(tga_jax.__file__).parent


# ---- Folders -------------------------------------------------------------------------------------------------------


def shards(place: Path, name: str) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    return place


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "sub/a.safetensors", "/etc/passwd", "a.txt", "a.bin", "", "..", "a\0"]
)
def test_an_index_names_no_files_elsewhere(tmp_path, name):
    twins.write_safetensors(tmp_path, {"a": np.ones(2)})
    (tmp_path / "model.safetensors").rename(tmp_path / "secret.safetensors")
    for file in ("a.txt", "a.bin"):
        (shards(tmp_path / "in", name) / file).write_bytes(b"x")
    with pytest.raises(
        UserError, match=r"index\.json: weight_map names .*, expected files \.safetensors of its folder"
    ):
        tensors(tmp_path / "in")


def test_links_lead_out_in_the_hubs_cache_alone(tmp_path):
    """There a snapshot's files are links to blobs."""
    twins.write_safetensors(tmp_path, {"a": np.ones(2, np.float32)})
    for blob, place, good in (
        ("models--o--n/blobs/0f", "models--o--n/snapshots/rev", True),
        ("models--o--n/blobs/0f", "local-dir", True),
        ("elsewhere/0f", "in", False),
    ):
        (tmp_path / blob).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / blob).write_bytes((tmp_path / "model.safetensors").read_bytes())
        link = shards(tmp_path / place, "a.safetensors") / "a.safetensors"
        link.symlink_to(tmp_path / blob)
        (tmp_path / place / "tokenizer.model").symlink_to(tmp_path / blob)
        if good:
            assert list(tensors(tmp_path / place)) == ["a"]
            spec.copy_companions(tmp_path / place, tmp_path / f"copy-{place}")
            continue
        with pytest.raises(UserError, match=r"a\.safetensors is a link out of the folder"):
            tensors(tmp_path / place)
        with pytest.raises(UserError, match=r"tokenizer\.model: is no file, or a link out of the folder"):
            spec.copy_companions(tmp_path / place, tmp_path / "copy")


def test_names_and_types_that_no_checkpoint_has(tmp_path):
    for name, said in (
        ("a\nb", "holds a tensor called"),
        ("a" * 600, "holds a tensor called"),
        ("a", "of U16, expected"),
    ):
        twins.write_safetensors(tmp_path, {name: np.ones(2, np.uint16 if name == "a" else np.float32)})
        with pytest.raises(UserError, match=said):
            tensors(tmp_path)


def test_many_wrong_names_are_not_all_compared(tmp_path, monkeypatch):
    """Every missing name with every spare one: with 100,000 names in a small file that takes hours."""
    raw = json.loads((twins.write("Qwen/Qwen2.5-0.5B-Instruct", tmp_path)[0] / "config.json").read_text())
    model = hub_config.describe("config.json", raw)
    compared = []
    real = convert.difflib.get_close_matches
    monkeypatch.setattr(
        convert.difflib, "get_close_matches", lambda word, names, n: compared.append(len(names)) or real(word, names, n)
    )
    monkeypatch.setattr(convert, "_LISTED", 5)
    spare = {f"model.layers.{i}.x.weight": Tensor((1,), tmp_path, lambda: np.ones(1)) for i in range(3)}
    with pytest.raises(UserError, match=r"missing llm: .*; and \d+ more"):
        convert.load(model, spare, "here", "float32")
    assert len(compared) == 2  # beside the three unexpected ones
    assert max(compared) <= 5


# ---- Code ----------------------------------------------------------------------------------------------------------


def test_code_of_a_folder_is_never_run(tmp_path, monkeypatch):
    """transformers asks on the standard input whether to run it, unless it is told not to."""
    ran = tmp_path / "ran"
    (tmp_path / "own.py").write_text(f"open({str(ran)!r}, 'w')\nclass Own: ...\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["own.Own", None]}}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(UserError) as raised:
        load_tokenizer(tmp_path)
    assert str(raised.value) == (
        f"{tmp_path}: its tokenizer is code of the folder (auto_map), which is not run; expected a tokenizer.json"
    )
    assert not ran.exists()


def test_no_call_of_transformers_may_run_code_of_a_folder():
    found = []
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "from_pretrained"
            ):
                said = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                if ".Auto" in ast.unparse(node.func):
                    found.append(said.get("trust_remote_code"))
    assert found
    assert set(found) == {"False"}


@pytest.mark.parametrize("versions", [["../tokenizer.4.0.json"], ["/etc/tokenizer.4.0.json"], "x", [3]])
def test_a_tokenizer_names_no_files_elsewhere(tmp_path, versions):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"fast_tokenizer_files": versions}))
    with pytest.raises(UserError, match="as fast_tokenizer_files, expected names of files in this folder"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_whose_settings_fail_when_it_is_used(tmp_path):
    source, _ = twins.write("Qwen/Qwen2.5-0.5B-Instruct", tmp_path)
    path = source / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": "long"}))
    with pytest.raises(UserError, match="no tokenizer that transformers can read"):
        load_tokenizer(source)
    raw = json.loads((source / "tokenizer.json").read_text())
    raw["model"]["vocab"]["zzz"] = 2**31
    path.write_text("{}")
    (source / "tokenizer.json").write_text(json.dumps(raw))
    with pytest.raises(UserError, match="a token has the id 2147483648, expected ids below 16777216"):
        load_tokenizer(source)
    (source / "tokenizer.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(UserError, match="no tokenizer that transformers can read"):
        load_tokenizer(source)


# ---- Configs -------------------------------------------------------------------------------------------------------


def llama(**fields):
    return {
        "model_type": "llama", "vocab_size": 67, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
        "num_attention_heads": 6, "num_key_value_heads": 2,
    } | fields  # fmt: skip


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("num_hidden_layers", (2**40, 1001, 0, -1, 2.0, True, "2", [2], float("nan"))),
        ("hidden_size", (2**18, 0, "x" * 10**5)),
        ("intermediate_size", (2**21, False)),
        ("num_attention_heads", (0, 2**13)),
        ("num_key_value_heads", (0, -2)),
        ("vocab_size", (2**31, {})),
        ("max_position_embeddings", (2**31, 0)),
        ("rms_norm_eps", (-1, float("nan"), float("inf"), 2, True, "1e-5")),
        ("eos_token_id", (2**40,)),
    ],
)
def test_a_hub_config_out_of_all_ranges_is_refused(name, values):
    for x in values:
        for raw in (llama(**{name: x}), {"model_type": "llava", "text_config": llama(**{name: x})}):
            with pytest.raises(UserError, match=rf"^config\.json: .*{name}") as raised:
                hub_config.describe("config.json", raw)
            assert len(str(raised.value)) < 1000


@pytest.mark.parametrize("part", ["text_config", "vision_config"])
def test_a_part_of_no_kind(tmp_path, part):
    raw = json.loads((twins.write("llava-hf/llava-1.5-7b-hf", tmp_path)[0] / "config.json").read_text())
    raw[part]["model_type"] = {"x": 1}
    with pytest.raises(UserError, match=r"^config\.json: "):
        hub_config.describe("config.json", raw)


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    place = tmp_path_factory.mktemp("twin")
    model = hub_config.read(twins.write("llava-hf/llava-1.5-7b-hf", place)[0])
    spec.write(place, model)
    return json.loads((place / spec.FILE).read_text())


@pytest.mark.parametrize(
    ("path", "new", "said"),
    [
        ("config.llm.num_layers", 2**40, "llm: num_layers is 1099511627776, expected a whole number from 1 to 1000"),
        ("config.llm.num_kv_heads", 0, "num_kv_heads is 0"),
        ("config.llm.hidden_size", 2.5, "hidden_size is 2.5"),
        ("config.llm.rms_norm_eps", float("nan"), "rms_norm_eps is nan"),
        ("config.llm.dtype", "complex64", "dtype is 'complex64', expected one of bfloat16, float32"),
        ("config.llm.attention", [], r"attention is \[\], expected one of"),
        ("config.clip.vision.patch_size", 10**4, "patch_size is 10000, expected at most image_size"),
        ("config.clip.vision.num_heads", 5, "expected a multiple of num_heads, 5"),
        ("config.clip.vision.pixel_std", [0, 1, 1], "pixel_std is 0"),
        ("config.clip.vision.resample", "nearest", "resample is 'nearest'"),
        ("config.feature_layer", 99, "feature_layer is 99, expected a number from"),
        ("config.feature_layer", [-1] * 999, "feature_layer is"),
        ("config.feature_select", "cls", "feature_select is 'cls'"),
        ("config.tiles", {"pinpoints": [[2**40, 28]]}, "pinpoints has"),
        ("config.tiles", {"pinpoints": []}, "0 pinpoints, expected 1 to 1000"),
        ("config", [], r"config is \[\], expected an object"),
        ("kind", [], r"kind \[\], expected one of"),
        ("family", ["llama"], "family is"),
        ("image_mode", 3, "image_mode is 3, expected one of"),
        ("image_token_id", -5, "image_token_id is -5"),
        ("hub_fields", {"eos_token_id": 2**40}, "hub_fields: eos_token_id is"),
        ("hub_fields", {"torch_dtype": "x"}, "hub_fields: torch_dtype is 'x'"),
        ("hub_fields", None, "hub_fields is None, expected an object"),
    ],
)
def test_a_description_of_ours_out_of_all_ranges_is_refused(tmp_path, described, path, new, said):
    raw = json.loads(json.dumps(described))
    *parents, last = path.split(".")
    at = raw
    for key in parents:
        at = at[key]
    at[last] = new
    (tmp_path / spec.FILE).write_text(json.dumps(raw))
    with pytest.raises(UserError, match=said) as raised:
        spec.read(tmp_path)
    assert str(raised.value).startswith(str(tmp_path / spec.FILE))


def test_a_projector_that_comes_with_the_checkpoint_is_not_imported(tmp_path, described, monkeypatch):
    ran = tmp_path / "ran"
    (tmp_path / "stranger.py").write_text(f"open({str(ran)!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)  # as where Python is started in the folder
    for kind in ("stranger:Own", "antigravity:Own", "pip.__main__:Own"):
        raw = described | {"config": described["config"] | {"projector": {"kind": kind}}}
        (tmp_path / spec.FILE).write_text(json.dumps(raw))
        with pytest.raises(UserError, match="which is not run; expected a class that is installed"):
            spec.read(tmp_path)
    assert not ran.exists()
    assert "antigravity" not in sys.modules


# ---- GGUF ----------------------------------------------------------------------------------------------------------


def gguf_header(*fields: bytes, tensors: int = 0, count: int | None = None, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, len(fields) if count is None else count) + b"".join(fields)


def gguf_field(kind: int, content: bytes, name: bytes = b"a") -> bytes:
    return struct.pack("<Q", len(name)) + name + struct.pack("<I", kind) + content


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (gguf_header(gguf_field(9, struct.pack("<IQ", 4, 2**40))), "1099511627776 values of 4 bytes"),
        (gguf_header(gguf_field(9, struct.pack("<IQ", 8, 2**40))), "1099511627776 strings"),
        (gguf_header(gguf_field(9, struct.pack("<IQ", 9, 1) * 50)), "values of kind 9"),
        (gguf_header(gguf_field(8, struct.pack("<Q", 2**62))), "values of 1 bytes"),
        (gguf_header(gguf_field(77, b"")), "values of kind 77"),
        (gguf_header(gguf_field(7, b"\1"), gguf_field(7, b"\1")), "a field twice"),
        (gguf_header(count=2**60), "1152921504606846976 fields"),
        (gguf_header(tensors=2**60), "1152921504606846976 tensors"),
        (
            gguf_header(tensors=1) + gguf_field(4, struct.pack("<QQQQ", *[2**40] * 4)) + bytes(12),
            "does not lie in the file",
        ),
        (gguf_header(version=2**24), "no mark of GGUF, version 2 or 3"),
        (b"", "not a whole GGUF file"),
    ],
)
def test_a_gguf_header_that_lies_is_refused(tmp_path, data, said):
    pytest.importorskip("gguf")
    (tmp_path / "a.gguf").write_bytes(data)
    with pytest.raises(UserError, match=said):
        gguf.open_file(tmp_path / "a.gguf")


def test_gguf_fields_out_of_all_ranges(tmp_path):
    pytest.importorskip("gguf")
    path = gguf_support.write(tmp_path / "a.gguf", gguf_support.ABC)
    place = path.read_bytes().index(b"llama.block_count") + len(b"llama.block_count") + 4
    for new, said in ((0, "llama.block_count is 0, expected"), (10**6, "llama.block_count is 1000000")):
        data = bytearray(path.read_bytes())
        data[place : place + 4] = struct.pack("<I", new)
        path.write_bytes(data)
        with pytest.raises(UserError, match=said):
            gguf.open_file(path)
    gguf_support.write(path, gguf_support.ABC)
    data = path.read_bytes()
    at = data.index(b"blk.0.attn_q.weight") + len(b"blk.0.attn_q.weight") + 4 + 8
    for place, shape in ((at, "7, 8"), (at - 8, "8, 0")):
        path.write_bytes(data[:place] + struct.pack("<Q", 7 if place == at else 0) + data[place + 8 :])
        with pytest.raises(UserError, match=rf"attn_q\.weight is \[{shape}\], expected rows of 2 heads of even size"):
            gguf.open_file(path)
    long = gguf_support.ABC | {"ggml.tokens": ["a", "b", "ab", "<s>", "x" * 600]}
    with pytest.raises(UserError, match=r"tokens\[4\] has 600 characters, expected at most 512"):
        gguf.tokenizer(gguf_support.write(tmp_path / "b.gguf", long))


def test_a_message_is_one_line_of_printable_signs():
    error = UserError("a\nb\x1b[2J\ud800 é" + "x" * 10_000)
    assert str(error).isprintable()
    assert str(error).startswith(r"a\nb\x1b[2J\ud800 é")
    assert len(str(error)) < 4500
