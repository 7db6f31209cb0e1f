"""Differentiable LIF dynamics, products with packed spikes, and Poisson encoding, as functions.

Time comes first: ``[T, B, N]`` is T steps of B samples of N neurons. The LIF recursion of all steps is one compiled
call, and for its backward it keeps v (fp32, 4 bytes a neuron-step) and nothing else that grows with T.
"""

from __future__ import annotations

from spikefuse.functional.lif import RESETS, LIFOutput, MaskedLossOutput, decay_factor, lif, lif_masked_loss
from spikefuse.functional.lif_linear import lif_linear
from spikefuse.functional.poisson import poisson_encode
from spikefuse.functional.spike_linear import spike_linear

__all__ = [
    "RESETS",
    "LIFOutput",
    "MaskedLossOutput",
    "decay_factor",
    "lif",
    "lif_linear",
    "lif_masked_loss",
    "poisson_encode",
    "spike_linear",
]
