"""LIF neurons as torch.nn modules."""

from __future__ import annotations

from spikefuse.layers.lif import LIF
from spikefuse.layers.linear import LIFLinear

__all__ = ["LIF", "LIFLinear"]
