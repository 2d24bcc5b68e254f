"""Samples side by side in a row, so that what is computed token by token spends nothing on their padding.

Only attention, and what reads a sample's states afterwards, takes the samples apart again: that keeps them from seeing
each other with any implementation of attention, and costs no score between two samples (FlashAttention's `unpad_input`
does the same with dynamic shapes).

Dimension letters: B samples of T positions, R rows of U positions; B / R samples share a row.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class Packing(NamedTuple):
    """Where the tokens of the samples [B, T] stand in the rows [R, U]: those of sample b in row b // (B / R), behind
    the samples before it, in order.

    Worked row of two samples, `a b -` and `c d e`, in six positions, `a b c d e -`:

        rows     0 1 3 4 5 -1
        places   0 1 -1   2 3 4
    """

    rows: Array  # int32 [R, U]: for each position of a row the one of its samples [B / R * T] there; -1 on padding
    places: Array  # int32 [B, T]: for each position of a sample the one of its row; -1 on padding

    @property
    def valid(self) -> Array:
        """bool [B, T]"""
        return self.places >= 0

    def pack(self, x: Array) -> Array:
        """[B, T, ...] -> [R, U, ...]; zeros on padding."""
        count = len(self.rows)
        return _taken(x.reshape(count, -1, *x.shape[2:]), self.rows, self.places.reshape(count, -1))

    def unpack(self, x: Array) -> Array:
        """[R, U, ...] -> [B, T, ...]; zeros on padding."""
        found = _taken(x, self.places.reshape(len(self.rows), -1), self.rows)
        return found.reshape(*self.places.shape, *x.shape[2:])

    def pack_segments(self, segments: Array) -> Array:
        """bool [B, N, T] -> [R, B / R * N, U]: the same segments, one sample's after another's."""
        count, length = self.rows.shape
        own = self.pack(segments.swapaxes(1, 2)).swapaxes(1, 2)  # [R, N, U], each of its position's sample
        number = jnp.arange(len(segments) // count)[:, None]
        whose = self.rows[:, None] // self.places.shape[1] == number  # [R, B / R, U]
        return (whose[:, :, None] & own[:, None]).reshape(count, -1, length)


def packing(rows: Array | None, valid: Array) -> Packing | None:
    """Of rows as in `Packing` and valid bool [B, T], whose padding is at the end; None if each sample has its own."""
    if rows is None:
        return None
    lengths = valid.sum(1, dtype=jnp.int32).reshape(len(rows), -1)
    starts = (jnp.cumsum(lengths, axis=1) - lengths).reshape(-1, 1)
    return Packing(jnp.asarray(rows), jnp.where(valid, starts + jnp.arange(valid.shape[1], dtype=jnp.int32), -1))


@jax.custom_vjp
def _taken(x: Array, at: Array, back: Array) -> Array:
    """x [R, S, ...] at positions at int32 [R, Z] -> [R, Z, ...], zeros where that is -1.

    back: int32 [R, S], the inverse, so that the gradient is taken likewise, which is faster than to scatter it.
    """
    rest = (1,) * (x.ndim - 2)
    found = jnp.take_along_axis(x, jnp.maximum(at, 0).reshape(*at.shape, *rest), axis=1, mode="clip")
    return jnp.where((at >= 0).reshape(*at.shape, *rest), found, jnp.zeros((), x.dtype))


def _taken_gradients(kept: tuple[Array, Array], dy: Array) -> tuple[Any, None, None]:
    at, back = kept
    return _taken(dy, back, at), None, None


_taken.defvjp(lambda x, at, back: (_taken(x, at, back), (at, back)), _taken_gradients)
