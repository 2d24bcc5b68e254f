"""A benchmark's files name pictures within its folder alone."""

import pytest
from PIL import Image

from tga_jax.errors import UserError
from tga_jax.evals.benchmark import picture


@pytest.mark.parametrize("name", ["../x.png", "a/../../x.png", "ABSOLUTE", "", "a\0.png", "a" * 5000, "\ud800.png"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    Image.new("RGB", (2, 2)).save(tmp_path / "x.png")
    (tmp_path / "folder" / "a").mkdir(parents=True)
    with pytest.raises(UserError):
        picture(tmp_path / "folder", name.replace("ABSOLUTE", str(tmp_path / "x.png")))
    assert picture(tmp_path, "x.png")().size == (2, 2)
