"""Poisson encoding of rates, straight to bits."""

from __future__ import annotations

from torch import Tensor

from spikefuse import ops
from spikefuse.functional.checks import check_dtype
from spikefuse.packed import PackedSpikes


def poisson_encode(rates: Tensor, steps: int, *, seed: int, offset: int = 0) -> PackedSpikes:
    """Poisson spikes straight to bits: each input spikes at each step with its rate as probability, independently.

    The draws are counter-based (Philox4x32-10): a bit depends on ``seed``, ``offset``, its time step, its sample's
    position in the batch and its input, and on nothing else, so every backend and any number of threads give the same
    bits.

    Args:
        rates: spike probability per step, ``[B, N]``, in [0, 1], fp32, bf16, fp16 or fp64.
        steps: T >= 0.
        seed: 0 <= seed < 2^63.
        offset: stream number, 0 <= offset < 2^32; use another one for each batch.

    Returns:
        ``[T, B, N]``.

    Raises:
        TypeError: an unsupported dtype.
        ValueError: another shape, a rate outside [0, 1] or NaN, or a number outside its range.

    Example:
        >>> import torch, spikefuse
        >>> spikefuse.functional.poisson_encode(torch.tensor([[0.0, 1.0]]), 3, seed=0).unpack().sum(0)
        tensor([[0., 3.]])
    """
    if not isinstance(rates, Tensor):
        raise TypeError(f"poisson_encode: expected rates as a tensor, got {type(rates).__name__}")
    check_dtype("poisson_encode", "rates", rates.dtype)
    if rates.dim() != 2:
        raise ValueError(f"poisson_encode: expected rates of shape [B, N], got {list(rates.shape)}")
    for name, value, end in (("steps", steps, 2**32), ("seed", seed, 2**63), ("offset", offset, 2**32)):
        if isinstance(value, float):
            raise TypeError(f"poisson_encode: expected {name} as an int, got float")
        if not 0 <= value < end:
            raise ValueError(f"poisson_encode: expected 0 <= {name} < {end}, got {value}")
    if rates.numel() and not bool(((rates >= 0) & (rates <= 1)).all()):
        raise ValueError(
            f"poisson_encode: expected rates in [0, 1], got values from {float(rates.min())} to {float(rates.max())}"
        )
    ops.check_backend(rates, "poisson_encode")
    return PackedSpikes._trusted(ops.poisson_encode(rates.detach(), steps, seed, offset), rates.shape[1])
