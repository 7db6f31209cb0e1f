"""spikefuse: fused kernels for fully connected spiking networks, and online learning, for PyTorch."""

from __future__ import annotations

from spikefuse import functional, online, reference, surrogate
from spikefuse.functional import LIFOutput, MaskedLossOutput
from spikefuse.layers import LIF, LIFLinear
from spikefuse.online import OnlineRule, OnlineStats
from spikefuse.packed import PackedSpikes

__version__ = "0.1.0"

__all__ = [
    "LIF",
    "LIFLinear",
    "LIFOutput",
    "MaskedLossOutput",
    "OnlineRule",
    "OnlineStats",
    "PackedSpikes",
    "functional",
    "online",
    "reference",
    "surrogate",
]
