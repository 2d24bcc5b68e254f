"""Names of the hub against a local server that speaks the hub's endpoints, through the library that users have."""

import http.server
import io
import json
import re
import threading
from pathlib import Path

import hub_support
import huggingface_hub
import jax
import numpy as np
import pytest
import rich.console
from huggingface_hub import constants

import tga_jax
from tga_jax import cli
from tga_jax.checkpoints import download, orbax_files
from tga_jax.data.sources import DataConfig
from tga_jax.train import fetch
from tga_jax.train.config import TrainConfig
from tga_jax.train.optim import OptimConfig
from tga_jax.train.step import LossConfig

SHA, OLD = "a" * 40, "b" * 40
REFUSED = {"gated": (403, "GatedRepo"), "missing": (404, "RepoNotFound")}


class Hub(http.server.ThreadingHTTPServer):
    """repos: name -> folder. cut: a file that it sends half of, and hangs up."""

    def __init__(self, repos: dict[str, Path]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos, self.cut, self.asked = repos, None, []
        self.tokens: set[str | None] = set()


class Handler(http.server.BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        sent = {"Content-Length": str(len(body)), **{k.replace("_", "-"): v for k, v in headers.items()}}
        for name, value in sent.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, X_Error_Code=code, X_Error_Message=code)

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        self.server.tokens.add(self.headers.get("Authorization"))
        found = re.fullmatch(r"(?:/api/models)?/(org/[\w.-]+?)(?:/(revision|tree|resolve)/([^/]+)(?:/(.+))?)?", path)
        if found is None:
            return self.answer(404)
        repo, kind, revision, name = found.groups()
        if repo.removeprefix("org/") in REFUSED:
            return self.refuse(*REFUSED[repo.removeprefix("org/")])
        if repo not in self.server.repos:
            return self.refuse(404, "RepoNotFound")
        if revision not in (None, "main", "v1", SHA, OLD):
            return self.refuse(404, "RevisionNotFound")
        sha = OLD if revision in ("v1", OLD) else SHA
        folder = self.server.repos[repo]
        files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
        names = [file.relative_to(folder).as_posix() for file in files]
        if kind in (None, "revision"):
            about = {"id": repo, "sha": sha, "siblings": [{"rfilename": name} for name in names]}
            return self.answer(200, json.dumps(about).encode(), Content_Type="application/json")
        if kind == "tree":
            listed = [
                {"type": "file", "path": n, "size": f.stat().st_size, "oid": f"{i:040x}"}
                for i, (n, f) in enumerate(zip(names, files, strict=True))
            ]
            return self.answer(200, json.dumps(listed).encode(), Content_Type="application/json")
        if name not in names:
            return self.refuse(404, "EntryNotFound")
        self.server.asked.append((self.command, name))
        data = (folder / name).read_bytes()
        headers = {"ETag": f'"{names.index(name):040x}"', "X_Repo_Commit": sha, "Accept_Ranges": "bytes"}
        if name != self.server.cut or self.command == "HEAD":
            return self.answer(200, data, **headers)
        self.answer(200, data[: len(data) // 2], **headers, Content_Length=str(len(data)))
        self.close_connection = True
        return None

    do_HEAD = do_GET


@pytest.fixture(scope="module", name="weights")
def fixture_weights(tmp_path_factory):
    """A LLaVA in several shards, and beside it all that nobody needs."""
    folder = hub_support.save(
        hub_support.model("llava", seed=3), tmp_path_factory.mktemp("llava"), max_shard_size="60KB"
    )
    for name in ("pytorch_model.bin", "consolidated.safetensors", "tf_model.h5", "README.md", "onnx/model.onnx"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not needed")
    return folder


@pytest.fixture(name="hub")
def fixture_hub(weights, tmp_path, monkeypatch):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.json").write_text("{}")
    server = Hub({"org/llava": weights, "org/empty": empty})
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.chdir(tmp_path)
    yield server
    server.shutdown()
    server.server_close()


def test_only_what_is_needed_is_fetched_once(hub, weights):
    place = download.local("org/llava")
    fetched = {path.name for path in place.iterdir()}
    shards = {path.name for path in weights.glob("model-*.safetensors")}
    assert len(shards) > 1
    assert fetched >= {
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors.index.json",
        *shards,
    }
    assert not fetched & {"pytorch_model.bin", "consolidated.safetensors", "tf_model.h5", "README.md", "onnx"}
    assert "Bearer hf_secret" in hub.tokens
    ids = [[1, 5, 9, 6]]
    here, there = (tga_jax.load(p, dtype="float32").forward(ids).logits for p in (weights, "org/llava"))
    np.testing.assert_array_equal(here, there)
    asked = [name for method, name in hub.asked if method == "GET"]
    assert sorted(asked) == sorted(set(asked))


def test_the_tokenizer_alone(hub):
    place = download.local("org/llava", weights=False)
    assert (place / "tokenizer.json").exists()
    assert not list(place.glob("*.safetensors"))


def test_a_revision(hub):
    assert download.local("org/llava@v1", weights=False).name == OLD
    assert download.local(f"org/llava@{OLD}", weights=False).name == OLD
    assert download.local("org/llava", weights=False).name == SHA


def test_a_stopped_download_continues_with_the_files_that_are_missing(hub, weights, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the library's own attempts
    hub.cut = sorted(weights.glob("model-*.safetensors"))[-1].name
    with pytest.raises(tga_jax.UserError, match=r"org/llava: no folder here, and .* does not answer"):
        download.local("org/llava")
    before = {name for method, name in hub.asked if method == "GET"} - {hub.cut}
    missing, hub.cut, hub.asked = hub.cut, None, []
    place = download.local("org/llava")
    assert [name for method, name in hub.asked if method == "GET" and name in before | {missing}] == [missing]
    for file in weights.glob("model-*.safetensors"):
        assert (place / file.name).read_bytes() == file.read_bytes()


def test_offline_what_is_in_the_cache_is_enough(hub, monkeypatch):
    place = download.local("org/llava")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert download.local("org/llava") == place
    with pytest.raises(tga_jax.UserError, match=r"org/other: no folder here, not in the cache .*, and offline"):
        download.local("org/other")


def test_without_a_connection_what_is_in_the_cache_is_enough(hub, monkeypatch):
    place = download.local("org/llava")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    assert download.local("org/llava") == place
    with pytest.raises(tga_jax.UserError, match=r"org/other: no folder here, and http\S+ does not answer"):
        download.local("org/other")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("org/gated", r"org/gated: gated; accept its terms at http\S+/org/gated and set HF_TOKEN to a token of yours"),
        ("org/missing", r"org/missing: no folder here, and no repository at http\S+ that HF_TOKEN may read"),
        ("org/llava@v9", "org/llava@v9: the repository has no revision 'v9'"),
        ("org/empty", r"org/empty: no weights, expected one of model\.safetensors"),
        ("org/a--b", "org/a--b: no folder here, and no name of a repository"),
    ],
)
def test_what_cannot_be_had_is_one_line(hub, name, message):
    with pytest.raises(tga_jax.UserError, match=message) as error:
        download.local(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["model", "a/b/c", "/org/name", "./org/name", "runs/new", "org/here", "org/na me"])
def test_paths_are_no_names(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "org" / "here").mkdir(parents=True)
    monkeypatch.setattr(huggingface_hub, "HfApi", None)
    assert not download.is_name(text)
    assert download.local(text) == Path(text)


def test_commands_take_names(hub):
    """Each that takes a folder of the hub goes through the same door, so one is enough; `@revision` goes with it."""
    assert cli.run(["convert", "--from=org/llava@v1", "--to=ours", "--dtype=fp32"]) == 0
    ids = [[1, 5, 9, 6]]
    here, there = (tga_jax.load(p, dtype="float32").forward(ids).logits for p in ("ours", "org/llava"))
    np.testing.assert_array_equal(here, there)


def config_of(tokenizer: str, **init: str) -> TrainConfig:
    data = DataConfig(tokenizer, lengths=(8,), caption_length=4, source={})
    adam = OptimConfig(1e-3, ((".*", 1.0),))
    return TrainConfig("t", 0, "llava-emoji", 1, 1, LossConfig(), adam, data, init)


def test_a_training_takes_names(hub):
    said = io.StringIO()
    config = config_of("org/llava", clip="", llm="org/llava@v1")
    found = fetch.fetched(config, rich.console.Console(file=said), Path("runs/x"))
    cache = Path(constants.HF_HUB_CACHE) / "models--org--llava" / "snapshots"
    assert found.init == {"clip": "", "llm": str(cache / OLD)}
    assert found.data.tokenizer == str(cache / SHA)
    assert (cache / OLD / "model.safetensors.index.json").exists()
    assert not list((cache / SHA).glob("*.safetensors"))
    assert "init.llm: org/llava@v1, of the hub" in said.getvalue()
    assert fetch.fetched(found, rich.console.Console(), Path("runs/x")) is found


@pytest.mark.parametrize("shared", [True, False])
def test_of_several_processes_the_first_downloads(hub, monkeypatch, tmp_path, shared):
    """And the others read the same cache, or what it put beside the work folder."""
    config, said, order = config_of("org/llava", llm="org/llava@v1"), io.StringIO(), []
    console, workdir = rich.console.Console(file=said, width=500), tmp_path / "runs" / "mine"
    monkeypatch.setattr(orbax_files, "wait_for_all", order.append)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(fetch.multihost_utils, "process_allgather", lambda own: np.array([False, not shared]))
    first = fetch.fetched(config, console, workdir)
    asked = list(hub.asked)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    second = fetch.fetched(config, rich.console.Console(quiet=True), workdir)
    assert hub.asked == asked
    if shared:
        assert second == first
        assert "of the hub: in a cache that all processes share" in said.getvalue()
        return
    assert order == ["checkpoints are downloaded", "checkpoints are staged"] * 2
    assert f"so all read what the first one puts into {workdir.parent / 'weights'}" in said.getvalue()
    assert second.init["llm"] == str(workdir.parent / "weights" / "org--llava--v1")
    for one, other in ((first.init["llm"], second.init["llm"]), (first.data.tokenizer, second.data.tokenizer)):
        files = {path.name: path.read_bytes() for path in Path(one).iterdir()}
        staged = {path.name: path.read_bytes() for path in Path(other).iterdir()}
        assert staged.pop("staged.json")
        assert staged == files


def test_a_failed_download_leaves_nobody_waiting(hub, monkeypatch):
    waited = []
    monkeypatch.setattr(orbax_files, "wait_for_all", waited.append)
    with pytest.raises(tga_jax.UserError, match="org/gated: gated"):
        fetch.fetched(config_of("", llm="org/gated"), rich.console.Console(quiet=True), Path("runs/x"))
    assert waited
