"""Compilation in about half the time, for models so small that compiling them is nearly all that a process does."""

# Of a process. Without XLA's fusion emitters sums have another order than users' programs have.
ENVIRONMENT = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": "--xla_cpu_use_fusion_emitters=false"}
