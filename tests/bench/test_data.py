"""`tga bench data`: what it measures, on few rows."""

import json

import numpy as np

from tga_jax import cli
from tga_jax.bench import data
from tga_jax.data import images


def test_figures(tmp_path, capsys):
    target = tmp_path / "figures.json"
    assert cli.run(["bench", "data", "--rows=1280", "--repeats=1", f"--json={target}"]) == 0
    found = json.loads(target.read_text())
    assert found["rows"] == 1280
    assert min(found["exact_per_second"], found["fast_per_second"], found["rows_per_second"]) > 0
    assert found["bytes_most"] >= found["bytes_early"] > 10**7
    out = " ".join(capsys.readouterr().out.split())
    assert f"{found['exact_per_second']:.0f} pictures a second and core bit-exact" in out


def test_its_pictures_are_photographs_in_size():
    made = data.jpeg(640, 480, 3)
    assert 40_000 < len(made) < 200_000
    assert images.read(made, "made", 336).shape == (336, 336, 3)
    assert not np.array_equal(images.read(made, "made", 24), images.read(data.jpeg(640, 480, 4), "made", 24))
