"""spikefuse: fused kernels for fully connected spiking networks, and online learning, for PyTorch."""

from __future__ import annotations

from importlib import metadata

from spikefuse import functional, online, reference, surrogate
from spikefuse.functional import LIFOutput, MaskedLossOutput
from spikefuse.layers import LIF, LIFLinear
from spikefuse.online import OnlineRule, OnlineStats
from spikefuse.packed import PackedSpikes

__version__ = metadata.version("spikefuse")

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
