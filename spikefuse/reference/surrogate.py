"""The surrogate's derivative (eqs 3-4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def surrogate_derivative(name: str, x: Tensor, slope: float) -> Tensor:
    """ds/dv at ``x = v - threshold`` (eqs 3-4), any shape; formulas in :mod:`spikefuse.surrogate`.

    >>> surrogate_derivative("sigmoid", torch.zeros(1), 1.0)
    tensor([0.2500])
    """
    if name == "sigmoid":
        e = torch.exp(-(slope * x).abs())
        return slope * e / (1 + e) ** 2
    if name == "atan":
        return slope / 2 / (1 + (math.pi / 2 * slope * x) ** 2)
    if name == "fast_sigmoid":
        return 1 / (1 + slope * x.abs()) ** 2
    y = 1 - slope * x.abs()
    return torch.where(y <= 0, torch.zeros_like(y), slope * y)
