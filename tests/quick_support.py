"""Compilation in about half the time, for models so small that compiling them is nearly all that a process does."""

import importlib.metadata

# Without XLA's fusion emitters sums have another order than users' programs have. From jaxlib 0.11 on the flag is
# unknown, which would end the process.
_HAS_FLAG = importlib.metadata.version("jaxlib").startswith("0.10.")
ENVIRONMENT = {  # of a process
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "XLA_FLAGS": "--xla_cpu_use_fusion_emitters=false" if _HAS_FLAG else "",
}
