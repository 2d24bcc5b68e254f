"""`tga bench retrieve`: the vectors that it makes, and figures that follow from each other."""

import json

import numpy as np
import pytest

from tga_jax import cli
from tga_jax.bench import retrieve


def test_made_up_vectors_have_the_cosines_they_are_made_for():
    for data in retrieve.DATA:
        rows = retrieve.corpus(data, 600, 96)
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
        np.testing.assert_array_equal(rows, retrieve.corpus(data, 600, 96))
        asked = retrieve.queries(rows, 50, 0.7, 1)
        np.testing.assert_allclose(np.linalg.norm(asked, axis=1), 1, atol=1e-6)
        np.testing.assert_allclose((asked @ rows.T).max(1), 0.7, atol=0.05 if data == "clustered" else 1e-5)
        near = np.sort(rows @ rows.T, 1)[:, -50]  # the 50th nearest: of the same cluster, if there are any
        assert (near > 0.4).all() if data == "clustered" else (near < 0.3).all()


def test_figures(tmp_path, capsys):
    target = tmp_path / "figures.json"
    flags = ["--rows=900", "--dim=32", "--queries=40", "--repeats=3", "--cosines=0.95,0.2", f"--json={target}"]
    assert cli.run(["bench", "retrieve", *flags]) == 0
    found = json.loads(target.read_text())["figures"]
    assert [(f["data"], f["cosine"]) for f in found] == [(d, c) for d in retrieve.DATA for c in (0.95, 0.2)]
    for f in found:
        assert f["exact_agrees"] == 1
        assert f["ivf_recall"] > 0.9
        assert f["ivf_probed"] <= f["ivf_lists"] == 120
        assert len(f["exact_ratios"]) == len(f["ivf_ratios"]) == 3
        for name in ("flat", "exact", "ivf"):
            hours = 558_000 / f[f"{name}_per_second"] * 1_200_000 / 900 / 3600
            assert f[f"{name}_hours"] == pytest.approx(hours)
    out = capsys.readouterr().out
    assert "900 rows of 32, 40 queries at once, cpu" in out
    assert "median of 3 turns" in out
