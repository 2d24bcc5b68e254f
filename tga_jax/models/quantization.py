"""The decoder's kernels in 8 or 4 bits, frozen in training (QLoRA, Dettmers et al., 2023) or of a model that answers;
numbers and scales are qwix's, which is of the extra `qlora`.

"int8": w = scale * q, a scale for each output. "int4" and "nf4": a scale for each output and `TILE` inputs; of "nf4"
q counts the 16 quantiles of a normal distribution (QLoRA, appendix E). A kernel is made whole again where it is used,
in the dtype of the computation.
"""

import math
import re
from typing import Any

import jax
import jax.numpy as jnp

from tga_jax.errors import UserError

KINDS = ("int8", "int4", "nf4")
TILE = 64  # inputs that share a scale, as in QLoRA
_LEAST = 8  # with fewer, scales in 16 bits take what 4 bits save
_KERNEL = re.compile(r"llm/blocks/(query|key|value|out|gate|up|down)/kernel")


def applies(path: str) -> bool:
    """Whether the parameter is a kernel of a decoder block, as the stacked blocks have it, and not LoRA's."""
    return _KERNEL.fullmatch(path) is not None


def is_quantized(kernel: Any) -> bool:
    return hasattr(kernel, "qvalue")


def quantize(path: str, kernel: jax.Array, kind: str) -> Any:
    """kernel [L, *inputs, *outputs] of this path -> qwix.QArray: its `qvalue` of the same shape, in int8, int4 or
    uint4, and its `scale`, in the kernel's dtype.

    Raises UserError without qwix, and for inputs that do not divide into tiles of at least 8.
    """
    try:
        import qwix
    except ImportError as error:
        raise UserError(f"quantize: {kind!r} needs the extra qlora (pip install 'tga_jax[qlora]')") from error
    inputs = range(1, kernel.ndim - 1 if path.endswith("/out/kernel") else 2)
    if kind == "int8":
        return qwix.quantize(kernel, jnp.int8, channelwise_axes=[i for i in range(kernel.ndim) if i not in inputs])
    last = inputs[-1]
    tile = math.gcd(kernel.shape[last], TILE)
    if tile < _LEAST:
        said = f"{path} has {kernel.shape[last]} inputs in a row, expected a multiple of {_LEAST}"
        raise UserError(f"quantize: {kind!r}: {said}, or int8")
    others = [i for i in range(kernel.ndim) if i != last]
    qtype = kind if kind == "nf4" else jnp.int4
    return qwix.quantize(kernel, qtype, channelwise_axes=others, tiled_axes={last: tile})


def dequantized(kernel: Any, dtype: Any = None) -> jax.Array:
    """The kernel as an array, in `dtype` or its own; an array as it is."""
    if is_quantized(kernel):
        import qwix

        kernel = qwix.dequantize(kernel)
    return kernel if dtype is None else kernel.astype(dtype)
