"""Claiming a work folder, and writing without leaving half a file."""

import errno
import json
from pathlib import Path

import pytest

from tga_jax import workdir
from tga_jax.errors import UserError


def test_a_folder_belongs_to_its_first_config(tmp_path):
    folder = tmp_path / "run"
    config = {"steps": 4, "optim": {"schedule": ((".*", 1.0),)}}
    workdir.claim(folder, config)
    workdir.claim(folder, config)
    assert json.loads((folder / "config.json").read_text())["steps"] == 4
    with pytest.raises(UserError, match=r"holds another run: config\.steps is 4 there and 5 now"):
        workdir.claim(folder, {**config, "steps": 5})
    with pytest.raises(UserError, match=r"config\.optim\.schedule is"):
        workdir.claim(folder, {**config, "optim": {"schedule": ((".*", 2.0),)}})


def test_a_strange_folder_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match=r"not empty and without config\.json"):
        workdir.claim(tmp_path, {})
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json: not JSON"):
        workdir.claim(tmp_path, {})


def test_first_difference():
    assert workdir.first_difference({"a": 1, "b": {"c": [1]}}, {"a": 1, "b": {"c": [1]}}) is None
    assert workdir.first_difference({"b": {"c": [1]}}, {"b": {"c": [2]}}) == "config.b.c is [1] there and [2] now"
    assert workdir.first_difference({}, {"z": 1}) == "config.z is null there and 1 now"


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    workdir.write_json(path, {"x": 1})
    original = path.read_text()

    def full(self, text, **_):
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match=f"{tmp_path}: no space left on the disk"):
        workdir.write_json(path, {"x": 2})
    assert path.read_text() == original
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (OSError(errno.ENOSPC, "full"), "no space left"),
        (OSError(errno.EDQUOT, "quota"), "no space left"),
        (RuntimeError("RESOURCE_EXHAUSTED: write"), "no space left"),
        (PermissionError(errno.EACCES, "no"), "cannot write here"),
        (OSError(errno.EROFS, "read-only"), "cannot write here"),
    ],
)
def test_disk_errors_name_the_folder(error, named):
    with pytest.raises(UserError, match=f"/some/where: {named}"), workdir.disk_errors(Path("/some/where")):
        raise error


def test_other_errors_pass():
    with pytest.raises(KeyError), workdir.disk_errors(Path("x")):
        raise KeyError("x")
