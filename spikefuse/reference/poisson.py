"""Philox4x32-10, and Poisson spikes drawn from it."""

from __future__ import annotations

import torch
from torch import Tensor


def philox4x32(counter: Tensor, key: tuple[int, int]) -> Tensor:
    """Philox4x32-10 (Salmon et al., SC 2011): counters ``[..., 4]`` to uniform 32-bit numbers, int64 throughout.

    >>> [hex(x) for x in philox4x32(torch.zeros(4, dtype=torch.int64), (0, 0)).tolist()]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    mask = 0xFFFFFFFF
    c0, c1, c2, c3 = counter.unbind(-1)
    k0, k1 = key
    for _ in range(10):
        # 32 x 32 -> 64 bit products by 16-bit halves, so that int64 never overflows into its sign
        hi0, lo0 = _multiply_high_low(0xD2511F53, c0)
        hi1, lo1 = _multiply_high_low(0xCD9E8D57, c2)
        c0, c1, c2, c3 = hi1 ^ c1 ^ k0, lo1, hi0 ^ c3 ^ k1, lo0
        k0, k1 = (k0 + 0x9E3779B9) & mask, (k1 + 0xBB67AE85) & mask
    return torch.stack((c0, c1, c2, c3), -1)


def _multiply_high_low(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    low = (a & 0xFFFF) * b
    high = (a >> 16) * b
    total = (low >> 16) + high
    return total >> 16, ((total & 0xFFFF) << 16) | (low & 0xFFFF)


def poisson_encode(rates: Tensor, steps: int, *, seed: int, offset: int = 0) -> Tensor:
    """Dense fp32 spikes ``[T, B, N]``: input n of sample b spikes at step t with probability ``rates[b, n]``.

    >>> poisson_encode(torch.tensor([[0.0, 1.0]]), 2, seed=0).tolist()
    [[[0.0, 1.0]], [[0.0, 1.0]]]
    """
    samples, num_neurons = rates.shape
    quads = -(-num_neurons // 4)
    coordinates = torch.cartesian_prod(torch.arange(steps), torch.arange(samples), torch.arange(quads)).reshape(-1, 3)
    t, b, quad = coordinates.unbind(-1)
    draws = philox4x32(torch.stack((quad, b, t, torch.full_like(t, offset)), -1), (seed & 0xFFFFFFFF, seed >> 32))
    draws = draws.reshape(steps, samples, quads * 4)[..., :num_neurons]
    limit = (rates.double() * 2.0**32).clamp(0, 2.0**32).to(torch.int64)
    return (draws.to(rates.device) < limit).to(torch.float32)
