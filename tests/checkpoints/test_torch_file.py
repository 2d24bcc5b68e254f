"""`.bin` files written without torch, read by torch with weights_only; LLaVA's stage-1 projector file."""

import hub_support
import ml_dtypes
import numpy as np
import pytest
import torch

import tga_jax
from tga_jax.checkpoints import hub, torch_file


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.int64, np.bool_])
def test_what_is_written_torch_reads(dtype, tmp_path):
    rng = np.random.default_rng(0)
    tensors = {
        "a.weight": (4 * rng.standard_normal((3, 5))).astype(dtype),
        "b": (4 * rng.standard_normal((2, 3, 4))).astype(dtype).transpose(2, 0, 1),
        "scalar": np.array(2).astype(dtype),
        "empty": np.zeros((0, 4), dtype),
        "ünïcode": np.ones(300, dtype),
    }
    path = tmp_path / "file.bin"
    torch_file.write(path, tensors)
    read = torch.load(path, weights_only=True)
    assert list(read) == list(tensors)
    ours = torch_file.TorchFile(path)
    for name, x in tensors.items():
        assert read[name].shape == x.shape
        np.testing.assert_array_equal(read[name].to(torch.float64).numpy(), x.astype(np.float64))
        np.testing.assert_array_equal(ours.read(name), x)
        assert ours.read(name).dtype == x.dtype


def test_the_projector_as_llava_takes_it(tmp_path):
    theirs = hub_support.model("llava")
    hub.import_hub(hub_support.save(theirs, tmp_path / "hub"), tmp_path / "ours", "float32")
    hub.export_projector(tmp_path / "ours", tmp_path / "mm_projector.bin")
    found = torch.load(tmp_path / "mm_projector.bin", weights_only=True)
    mine = theirs.model.multi_modal_projector.state_dict()
    for place, name in (("0", "linear_1"), ("2", "linear_2")):
        for kind in ("weight", "bias"):
            torch.testing.assert_close(
                found[f"model.mm_projector.{place}.{kind}"], mine[f"{name}.{kind}"], rtol=0, atol=0
            )
    assert len(found) == 4


def test_a_language_model_has_no_projector(tmp_path):
    hub.import_hub(hub_support.save(hub_support.model("llama"), tmp_path / "hub"), tmp_path / "ours", "float32")
    with pytest.raises(tga_jax.UserError, match="expected a LLaVA with a projector"):
        hub.export_projector(tmp_path / "ours", tmp_path / "mm_projector.bin")
    assert not (tmp_path / "mm_projector.bin").exists()
