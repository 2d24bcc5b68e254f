"""A benchmark's files name pictures within its folder alone; what else is wrong in them is named."""

import pytest
from PIL import Image

from tga_jax.errors import UserError
from tga_jax.evals.benchmark import picture
from tga_jax.evals.benchmarks import seed_bench


@pytest.mark.parametrize("name", ["../x.png", "a/../../x.png", "ABSOLUTE", "", "a\0.png", "a" * 5000, "\ud800.png"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    Image.new("RGB", (2, 2)).save(tmp_path / "x.png")
    (tmp_path / "folder" / "a").mkdir(parents=True)
    with pytest.raises(UserError):
        picture(tmp_path / "folder", name.replace("ABSOLUTE", str(tmp_path / "x.png")))
    assert picture(tmp_path, "x.png")().size == (2, 2)


def test_a_type_of_questions_that_has_no_number_is_named(tmp_path):
    (tmp_path / "SEED-Bench.json").write_text('{"questions": [], "question_type": {"Scene": [1]}}')
    with pytest.raises(UserError, match=r"`question_type`: `Scene` is \[1\], expected a whole number"):
        list(seed_bench.samples(tmp_path))
